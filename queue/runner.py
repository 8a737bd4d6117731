"""Works the lanes: one process, a thread for each running prompt, as many prompts as the nodes have slots.

A django-q2 task runs it (tasks.py). Streams are waiting, not work, so one process reads them all; and only its
main thread touches the database: what all streams have to tell goes into one short transaction after another.
Sixteen threads that each write for themselves spend their time waiting for SQLite's one writer and for Python's
interpreter lock (measured in docs/decisions.md).
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from daemonpulse import wakeup
from fleet.daemons.errors import DaemonError, Reason
from fleet.models import Node
from forge import inventory
from forge.queue_loads import QueueLoad

from .chats import chat_request
from .execution import Execution, News
from .models import Attempt, Prompt, Runner
from .models.attempt import LEASE, note_progress, reclassify
from .models.running import Ending
from .output import FLUSH_SECONDS, flush
from .situation import Start
from .snapshot import make_plan
from .states import Outcome

log = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
SOFT_LIMIT_SECONDS = 60.0  # leaves at the first idle moment after this
LINGER_SECONDS = 5.0  # stays this long on empty lanes: the next prompt starts without a trip through the broker
LOOK_SECONDS = 0.5  # plans at least this often
PLAN_PAUSE_SECONDS = 0.05  # and at most this often while streams run: open lanes go on without a plan
STAY_OPEN_SECONDS = 2.0  # a lane that ran dry while nobody else waits needs no plan for its next prompt
MAX_STREAMS = 64
POSTPONED = timedelta(seconds=3)  # until a load that found no room is tried again; longer with every attempt
POSTPONED_MOST = timedelta(seconds=30)
LOOK = None  # in the inbox: a state changed somewhere, look at the lanes


class LaneRunner:
    """`run()` returns when it has left the lanes to nobody (no work) or to the next runner.

    `is_stopping` is asked often; once it says True everything in hand is put back at once.
    """

    def __init__(self, is_stopping: Callable[[], bool] = lambda: False):
        self.name = Runner.name_of_this_process()
        self.is_stopping = is_stopping
        self.inbox: queue.SimpleQueue[News | None] = queue.SimpleQueue()
        self.executions: dict[int, Execution] = {}  # by attempt
        self.claimed: list[Execution] = []  # their streams start when the claim is committed
        self.pool = ThreadPoolExecutor(MAX_STREAMS, thread_name_prefix="stream")
        now = time.monotonic()
        self.started_at = self.idle_since = self.beat_at = now
        self.checked_at = self.planned_at = self.opened_at = self.flushed_at = 0.0
        self.open_lanes: dict[tuple[int, int], tuple[int, Node]] = {}  # (lane, node) that may go on: its slots
        self.should_plan = False
        self.may_claim = True
        self.has_ended = threading.Event()

    def run(self) -> None:
        """1. Take the lease; somebody else has it: nothing to do.
        2. Until it is time to leave: hear the streams, stop what was cancelled, start what may start, beat.
        3. Leave the lanes; what is in hand goes on to its end, or is put back when we are told to stop.
        """
        if not Runner.take(self.name):  # 1
            return
        ear = threading.Thread(target=self._listen, name="ear", daemon=True)
        ear.start()
        try:
            self.inbox.put(LOOK)
            while not self._leave_if_due():  # 2
                self.turn(self._hear())
            while self.executions:  # 3
                if self.is_stopping():
                    self._stop_all()
                self.turn(self._hear())
        finally:
            self.has_ended.set()
            self._stop_all()
            self.pool.shutdown(wait=True)
            ear.join()

    def turn(self, news: list[News | None]) -> None:
        """1. The slots of answers that are complete are free: claim for them, and let those streams begin.
        2. Record what the streams told, and the text that is due.
        3. Plan anew when something else may have changed."""
        was_called = LOOK in news
        told = [item for item in news if item is not LOOK]
        for item in told:
            if item.finished:
                self.executions.pop(item.execution.attempt.pk, None)
        has_begun = (was_called or told) and self._continue_lanes()  # 1
        if told or self._has_text_due():  # 2
            with transaction.atomic():
                self.should_plan |= self._take_in_all(told)
                self._flush()
        self.should_plan |= was_called  # 3
        since = time.monotonic() - self.checked_at
        if since > LOOK_SECONDS or (was_called and since > PLAN_PAUSE_SECONDS):
            self._stop_ended()
        since = time.monotonic() - self.planned_at
        may_plan = self.should_plan and (since > PLAN_PAUSE_SECONDS or not self.executions)
        # A stream that begins now goes first, since the next turn is near; but not for ever.
        if since > LOOK_SECONDS or (may_plan and not has_begun):
            self._plan()
        if self.executions:
            self.idle_since = time.monotonic()
        if time.monotonic() - self.beat_at > BEAT_SECONDS:
            self._beat()

    def _listen(self) -> None:
        """In a thread of its own: a state change in another process is a reason to look."""
        listener = wakeup.listen(hear_self=False)
        while not self.has_ended.is_set():
            if listener.wait(LOOK_SECONDS):
                self.inbox.put(LOOK)
        listener.close()

    def _hear(self) -> list[News | None]:
        """Wait for news, at most until something else is due, and take all that has come."""
        seconds = LOOK_SECONDS
        if self.executions:
            until_flush = self.flushed_at + FLUSH_SECONDS - time.monotonic()
            has_text = any(execution.output.buffer for execution in self.executions.values())
            seconds = until_flush if has_text or until_flush > 0 else FLUSH_SECONDS
        news: list[News | None] = []
        try:
            news.append(self.inbox.get(timeout=max(seconds, 0.001)))
            while True:
                news.append(self.inbox.get_nowait())
        except queue.Empty:
            return news

    def _take_in_all(self, told: list[News]) -> bool:
        """Answers that are complete are recorded together, everything else one by one, in order."""
        finished = [news for news in told if news.finished]
        should_plan = False
        for news in told:
            if not news.finished:
                should_plan |= self._take_in_safely(news)
        if not finished:
            return should_plan
        endings = [news.ending() for news in finished]
        try:
            with transaction.atomic():
                Prompt.finish_all(endings)
        except Exception:  # one of them cannot be stored: the others must not suffer for it
            log.exception("answers.failed count=%s", len(endings))
            for ending in endings:
                self._finish_safely(ending)
        return True

    def _finish_safely(self, ending: Ending) -> None:
        try:
            with transaction.atomic():
                Prompt.finish_all([ending])
        except Exception:
            log.exception("answer.lost prompt=%s", ending.attempt.prompt_id)
            error = DaemonError(Reason.NOT_UNDERSTOOD, "its answer could not be stored; see the log")
            with transaction.atomic():
                ending.attempt.prompt.fail(ending.attempt, error)

    def _take_in_safely(self, news: News) -> bool:
        """One stream's trouble is not the others': its attempt is left to its lease."""
        try:
            with transaction.atomic():
                return self._take_in(news)
        except Exception:
            log.exception("news.lost prompt=%s", news.execution.attempt.prompt_id)
            self.executions.pop(news.execution.attempt.pk, None)
            news.execution.stop()
            return True

    def _take_in(self, news: News) -> bool:
        """Record what one stream told. True when the lanes should be looked at."""
        execution = news.execution
        if news.is_end:
            self._end(news)
        if news.looked:
            with transaction.atomic():
                inventory.record(execution.node, news.looked)
        if news.is_end:
            return True
        if news.reclassify is not None:
            reclassify(execution.attempt, news.reclassify)
        if news.progress:
            note_progress(execution.attempt, news.progress)
        return news.looked is not None or news.has_loaded

    def _end(self, news: News) -> None:
        """How an attempt without an answer ended. A prompt that was cancelled or rescued meanwhile stays as it is."""
        execution = self.executions.pop(news.execution.attempt.pk)
        self.open_lanes.pop((execution.attempt.prompt.lane_id, execution.node.pk), None)  # its node may be down
        attempt, prompt, rest = execution.attempt, execution.attempt.prompt, execution.output.rest()
        if news.error is None:
            after = min(POSTPONED * attempt.number, POSTPONED_MOST) if news.is_postponed else timedelta()
            if news.is_postponed:
                prompt.lane.was_not_served(attempt.started_at)
            prompt.release(attempt, Outcome.RELEASED, rest=rest, after=after)
        elif news.looked and news.looked.error and news.error.reason.may_mean_node_down:
            prompt.release(attempt, Outcome.RELEASED, news.error.reason, rest=rest)
        else:
            prompt.fail(attempt, news.error, rest=rest)

    def _continue_lanes(self) -> bool:
        """Claim for the free slots of lanes that the last plan lets go on. True when streams began."""
        if not self.open_lanes or not self.may_claim or self.is_stopping():
            return False
        running = Counter((run.attempt.prompt.lane_id, run.node.pk) for run in self.executions.values())
        free = {pair: slots - running[pair] for pair, (slots, _) in self.open_lanes.items() if slots > running[pair]}
        return self._claim_all([(Start(lane_id, node_id, count), self.open_lanes[lane_id, node_id][1])
                                for (lane_id, node_id), count in free.items()])  # fmt: skip

    def _plan(self) -> None:
        """Look at all lanes and nodes, and start what may start."""
        self.planned_at = time.monotonic()
        self.should_plan = False
        if not self.may_claim or self.is_stopping():
            return
        decided = make_plan()
        nodes = Node.objects.in_bulk({node_id for _, node_id in decided.open}) if decided.open else {}
        is_quiet = not (decided.open or decided.starts or decided.why)
        if not is_quiet or self.planned_at - self.opened_at > STAY_OPEN_SECONDS:
            self.opened_at = self.planned_at
            self.open_lanes = {
                pair: (slots, nodes[pair[1]]) for pair, slots in decided.open.items() if pair[1] in nodes
            }
        if not decided.starts:
            return
        nodes |= Node.objects.in_bulk({start.node_id for start in decided.starts} - set(nodes))
        self._claim_all([(start, nodes[start.node_id]) for start in decided.starts if start.node_id in nodes])

    def _claim_all(self, claims: list[tuple[Start, Node]]) -> bool:
        """Make these claims in one transaction and begin their streams. What cannot be claimed is logged and
        left to the next plan: it must not stop the streams that run."""
        before = set(self.executions)
        try:
            with transaction.atomic():
                for claim in claims:
                    self._claim(*claim)
        except Exception:
            log.exception("claim.failed")
            for pk in set(self.executions) - before:
                del self.executions[pk]
            self.claimed.clear()
            self.open_lanes = {}
            return False
        return self._begin_claimed()

    def _claim(self, start: Start, node: Node) -> None:
        count = min(start.count, MAX_STREAMS - len(self.executions))
        if count <= 0:
            return
        for attempt in Prompt.claim(start.lane_id, node.pk, self.name, count, not start.loads):
            try:
                request = chat_request(attempt.prompt)
            except Exception:  # such as a text that the key does not read
                log.exception("request.failed prompt=%s", attempt.prompt_id)
                error = DaemonError(Reason.BAD_REQUEST, "its request could not be built; see the log")
                attempt.prompt.fail(attempt, error)
                continue
            load = QueueLoad(node, attempt.prompt.model, start.may_take_wanted) if start.loads else None
            execution = Execution(attempt, node, request, self.inbox.put, load)
            self.executions[attempt.pk] = execution
            self.claimed.append(execution)

    def _begin_claimed(self) -> bool:
        """Start the streams whose claims are committed now; True when there were some."""
        claimed, self.claimed = self.claimed, []
        for execution in claimed:
            self.pool.submit(execution.run)
        return bool(claimed)

    def _has_text_due(self) -> bool:
        is_time = time.monotonic() - self.flushed_at >= FLUSH_SECONDS
        return is_time and any(execution.output.buffer for execution in self.executions.values())

    def _flush(self) -> None:
        self.flushed_at = time.monotonic()
        flush([execution.output for execution in self.executions.values() if execution.has_first])

    def _stop_ended(self) -> None:
        """Close the streams of attempts that no longer run in the database: cancelled, or rescued from us."""
        self.checked_at = time.monotonic()
        if not self.executions:
            return
        running = set(Attempt.objects.running().filter(pk__in=self.executions).values_list("pk", flat=True))
        for pk, execution in self.executions.items():
            if pk not in running:
                execution.stop()

    def _stop_all(self) -> None:
        for execution in self.executions.values():
            execution.stop()

    def _beat(self) -> None:
        self.beat_at = time.monotonic()
        Attempt.objects.running().filter(pk__in=self.executions).update(leased_until=timezone.now() + LEASE)
        if self.may_claim and not Runner.beat(self.name):
            log.warning("runner.replaced name=%s", self.name)
            self.may_claim = False
        for execution in self.executions.values():
            age = (timezone.now() - execution.attempt.started_at).total_seconds()
            if age > settings.GENERATION_LIMIT_SECONDS and not execution.is_expired:
                execution.expire()

    def _leave_if_due(self) -> bool:
        """Whether to claim no more. Leaving and the last look for work are one transaction (see Runner.call)."""
        now = time.monotonic()
        age = now - self.started_at
        is_over = self.is_stopping() or not self.may_claim or age > settings.RUNNER_LIMIT_SECONDS
        if not is_over:
            if self.executions or now - self.idle_since < LINGER_SECONDS:
                return False
            if age < SOFT_LIMIT_SECONDS and Prompt.objects.queued().exists():
                return False  # due times and swaps to wait for
        self.may_claim = False
        with transaction.atomic():
            Runner.leave(self.name)
            has_work = not self.is_stopping() and bool(make_plan().starts)
        if has_work:
            Runner.call()
        return True
