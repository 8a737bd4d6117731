"""One attempt in a thread of its own: ask the daemon, read the stream, tell the runner. No database here."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from django.conf import settings

from fleet.daemons.errors import DaemonError, LoadCancelled, Reason
from fleet.daemons.types import ChatRequest, Finished, Progress
from fleet.models import Node
from forge import inventory
from forge.loading import NoRoom
from forge.queue_loads import QueueLoad
from pulse.inference import Inference

from .models import Attempt
from .models.running import Ending
from .output import Output

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.2


@dataclass(slots=True)
class News:
    """What a stream tells the runner. Exactly one of them `is_end`; `looked` is what the node said when asked."""

    execution: "Execution"
    progress: dict | None = None
    reclassify: int | None = None  # the last chunk that is to be relabelled
    has_loaded: bool = False  # its model is in memory now
    has_output: bool = False
    is_end: bool = False
    is_postponed: bool = False  # what made no room for its model may do so later
    finished: Finished | None = None
    error: DaemonError | None = None
    looked: inventory.Answer | None = None

    def ending(self) -> Ending:
        """Of an attempt that finished: what is to be recorded."""
        told = self.finished
        return Ending(self.execution.attempt, self.execution.output.rest(), told.stats, told.response_id)


class Execution:
    """`run()` in its thread; `stop()` and `expire()` from any other. An end without answer or error was asked for."""

    def __init__(
        self,
        attempt: Attempt,
        node: Node,
        request: ChatRequest,
        tell: Callable[[News], None],
        load: QueueLoad | None = None,
    ):
        self.attempt = attempt
        self.node = node
        self.request = request
        self.tell = tell
        lane = attempt.prompt.lane
        self.tags = (lane.opening_tag, lane.closing_tag)
        self.output = Output(attempt)
        self.inference: Inference | None = None
        self.lock = threading.Lock()
        self.is_stopping = self.is_expired = self.has_first = False
        self.load = load  # what must be loaded first
        self.progress_at = time.monotonic()

    def stop(self) -> None:
        """End the stream now, so that the daemon's slot is free."""
        with self.lock:
            self.is_stopping = True
            if self.load is not None:
                self.load.call_off()
            if self.inference is not None:
                self.inference.close()

    def expire(self) -> None:
        """It has run for as long as any generation may."""
        self.is_expired = True
        self.stop()

    def run(self) -> None:
        """Never raises: what nobody foresaw is logged and told as a failure."""
        news = News(self, error=DaemonError(Reason.GENERATION_FAILED, "an error of our own; see the log"))
        try:
            news = self._outcome()
        except Exception:
            log.exception("attempt.crashed prompt=%s number=%s", self.attempt.prompt_id, self.attempt.number)
        finally:
            news.is_end = True
            self.tell(news)
            self.stop()

    def _outcome(self) -> News:
        try:
            return self._stream()
        except DaemonError as error:
            return self._failure(error)

    def _stream(self) -> News:
        if self.load is not None:
            self.load.run(lambda fraction: self._progress(Progress("load", fraction)))
            self.tell(News(self, has_loaded=True))
            if self.is_stopping:
                return self._stopped()
        stream = self.node.connect().chat(self.request)
        with self.lock:
            self.inference = Inference(stream, self.tags)
            if self.is_stopping:
                self.inference.close()
        for step in self.inference:
            if step.progress and not self.has_first:
                self._progress(step.progress)
            if step.reclassify:
                self.tell(News(self, reclassify=self.output.reclassified()))
            self.output.add(step.pieces, step.tokens)
            if step.finished:
                self.inference.close()
                return News(self, finished=step.finished)
            if step.pieces and not self.has_first:
                self.has_first = True
                self.tell(News(self, has_output=True))
        return self._stopped()

    def _stopped(self) -> News:
        """It was ended from here."""
        if not self.is_expired:
            return News(self)
        minutes = settings.GENERATION_LIMIT_SECONDS // 60
        error = DaemonError(Reason.TIMEOUT_TOTAL, f"It ran for {minutes} minutes, the longest a prompt may.")
        return News(self, error=error)

    def _progress(self, progress) -> None:
        """Loading may send a hundred of these in a second, and a short prompt is read in no time: people need a few."""
        fraction = None if progress.fraction is None else round(progress.fraction, 2)
        is_loaded = progress.phase == "load" and fraction == 1.0 and self.load is None
        now = time.monotonic()
        if now - self.progress_at < PROGRESS_SECONDS and not is_loaded:
            return
        self.progress_at = now
        told = {"phase": progress.phase, "fraction": fraction}
        self.tell(News(self, progress=told, looked=self._look() if is_loaded else None))

    def _look(self) -> inventory.Answer:
        """The lanes that wait for this model should see that it is there."""
        return inventory.ask(self.node)

    def _failure(self, error: DaemonError) -> News:
        """A failure that may mean a dead node is checked at the node, before it counts as a try."""
        if isinstance(error, NoRoom) and error.can_pass:
            return News(self, is_postponed=True)
        if isinstance(error, LoadCancelled):  # by us, or by a person, which is not the prompt's fault
            return self._stopped() if self.is_stopping else News(self, is_postponed=True)
        log.info(
            "attempt.failed prompt=%s number=%s reason=%s", self.attempt.prompt_id, self.attempt.number, error.reason
        )
        should_look = error.reason.may_mean_node_down or error.reason is Reason.MODEL_NOT_FOUND
        return News(self, error=error, looked=inventory.ask(self.node) if should_look else None)
