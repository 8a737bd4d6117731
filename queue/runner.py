"""Works the lanes: one process, one thread per running prompt, as many prompts as the nodes have slots.

A django-q2 task runs it (tasks.py). One process for all lanes rather than one task per lane, because streams are
waiting, not work: see docs/decisions.md for the figures.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from daemonpulse import wakeup
from fleet.models import Node

from .execution import Execution
from .models import Attempt, Prompt, Runner
from .models.attempt import LEASE
from .output import FLUSH_SECONDS, flush
from .scheduling import Start
from .snapshot import make_plan
from .states import State

log = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
SOFT_LIMIT_SECONDS = 60.0  # leaves at the first idle moment after this
LINGER_SECONDS = 5.0  # stays this long on empty lanes: the next prompt starts without a trip through the broker
LOOK_SECONDS = 0.5  # looks at the lanes at least this often
PAUSE_SECONDS = 0.02  # and at most this often while prompts run: a slot that falls free needs no look (_next)
MAX_STREAMS = 64


class LaneRunner:
    """`run()` returns when it has left the lanes to nobody (no work) or to the next runner.

    `is_stopping` is asked often; once it says True everything in hand is put back at once.
    """

    def __init__(self, is_stopping: Callable[[], bool] = lambda: False):
        self.name = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self.is_stopping = is_stopping
        self.executions: dict[int, Execution] = {}  # by attempt
        self.pool = ThreadPoolExecutor(MAX_STREAMS, thread_name_prefix="stream")
        self.started_at = self.idle_since = self.beat_at = time.monotonic()
        self.may_claim = True
        self.open_lanes: set[tuple[int, int]] = set()
        self.ended = threading.Event()

    def run(self) -> None:
        """1. Take the lease; somebody else has it: nothing to do.
        2. Until it is time to leave: look, start what may start, stop what was cancelled, beat, wait for a call.
        3. Leave the lanes; what is in hand goes on to its end, or is put back when we are told to stop.
        """
        if not Runner.take(self.name):  # 1
            return
        listener = wakeup.listen()
        flusher = threading.Thread(target=self._flush_until_ended, name="flusher", daemon=True)
        flusher.start()
        try:
            while not self._leave_if_due():  # 2
                self.look()
                self._wait(listener)
            while self.executions and not self.is_stopping():  # 3
                self._stop_ended()
                self._wait(listener)
            self._stop_all()
        finally:
            self.ended.set()
            flusher.join()
            listener.close()
            self.pool.shutdown(wait=True)

    def look(self) -> int:
        """One look at the lanes: stop what was ended by others, start what may start. Returns how many it started."""
        self._stop_ended()
        decided = make_plan()
        self.open_lanes = decided.open
        started = 0
        for start in decided.starts:
            started += self._start(start)
        if started or self.executions:
            self.idle_since = time.monotonic()
        return started

    def _start(self, start: Start) -> int:
        node = Node.objects.get(pk=start.node_id)
        for count in range(min(start.count, MAX_STREAMS - len(self.executions))):
            attempt = Prompt.claim_next(start.lane_id, start.node_id, self.name)
            if attempt is None:
                return count
            self._begin(attempt, node)
        return start.count

    def _begin(self, attempt: Attempt, node: Node) -> None:
        execution = Execution(attempt, node)
        self.executions[attempt.pk] = execution
        self.pool.submit(self._run, execution)

    def _run(self, execution: Execution | None) -> None:
        """One prompt after the other of a lane, as long as the last look at all lanes allows it."""
        while execution is not None:
            try:
                execution.run()
            finally:
                del self.executions[execution.attempt.pk]
            execution = self._next(execution)
        wakeup.notify()

    def _next(self, done: Execution) -> Execution | None:
        """The next prompt of the same lane for the same node; None when the lane must let others have a turn."""
        lane_id, node = done.prompt.lane_id, done.node
        if not self.may_claim or self.is_stopping() or (lane_id, node.pk) not in self.open_lanes:
            return None
        if attempt := Prompt.claim_next(lane_id, node.pk, self.name):
            execution = self.executions[attempt.pk] = Execution(attempt, node)
            return execution
        return None

    def _stop_ended(self) -> None:
        """Close the streams of attempts that are no longer running in the database: cancelled, or rescued from us."""
        held = list(self.executions)
        if not held:
            return
        running = set(Attempt.objects.running().filter(pk__in=held).values_list("pk", flat=True))
        for pk in held:
            if pk not in running and (execution := self.executions.get(pk)):
                execution.stop()

    def _stop_all(self) -> None:
        for execution in list(self.executions.values()):
            execution.stop()

    def _wait(self, listener) -> None:
        """Until a state changed somewhere, or it is time to beat or look."""
        if self.executions:
            time.sleep(PAUSE_SECONDS)
        until = time.monotonic() + LOOK_SECONDS
        while (left := until - time.monotonic()) > 0:
            if listener.wait(left) or self.is_stopping():
                break
        if time.monotonic() - self.beat_at > BEAT_SECONDS:
            self._beat()

    def _beat(self) -> None:
        self.beat_at = time.monotonic()
        Attempt.objects.running().filter(runner=self.name).update(leased_until=timezone.now() + LEASE)
        if self.may_claim and not Runner.beat(self.name):
            log.warning("runner.replaced name=%s", self.name)
            self.may_claim = False
        limit = settings.GENERATION_LIMIT_SECONDS
        for execution in list(self.executions.values()):
            if (timezone.now() - execution.attempt.started_at).total_seconds() > limit:
                execution.expire()

    def _leave_if_due(self) -> bool:
        """Whether to claim no more. Leaving and the last look for work are one transaction (see Runner.call)."""
        now = time.monotonic()
        age = now - self.started_at
        if self.is_stopping() or not self.may_claim or age > settings.RUNNER_LIMIT_SECONDS:
            return self._leave()
        if self.executions or (now - self.idle_since < LINGER_SECONDS):
            return False
        if age < SOFT_LIMIT_SECONDS and Prompt.objects.queued().exists():
            return False  # due times and swaps to wait for
        return self._leave()

    def _leave(self) -> bool:
        with transaction.atomic():
            Runner.leave(self.name)
            has_work = not self.is_stopping() and bool(make_plan().starts)
        if has_work:
            Runner.call()
        return True

    def _flush_until_ended(self) -> None:
        while not self.ended.wait(FLUSH_SECONDS):
            try:
                flush([execution.output for execution in list(self.executions.values()) if execution.has_first])
            except Exception:
                log.exception("output.flush_failed")
