"""One attempt from claim to end: build the request, stream it, store it, and say how it ended."""

import logging
import threading

from django.conf import settings

from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.types import ChatRequest, Turn
from fleet.models import Node
from forge import inventory
from pulse.inference import Inference

from .models import Attempt, Prompt
from .models.attempt import StaleAttempt, note_progress, reclassify
from .output import Output, flush
from .states import Outcome

log = logging.getLogger(__name__)


class Execution:
    """Runs in a thread of its own. `stop()` from any thread puts the prompt back; `check()` from the runner's."""

    def __init__(self, attempt: Attempt, node: Node):
        self.attempt = attempt
        self.prompt = attempt.prompt
        self.node = node
        self.output = Output(attempt)
        self.inference: Inference | None = None
        self.lock = threading.Lock()
        self.is_stopping = False
        self.has_first = False
        self.is_expired = False

    def stop(self) -> None:
        """End the stream now; the prompt is put back (or was ended by whoever made this necessary)."""
        with self.lock:
            self.is_stopping = True
            if self.inference is not None:
                self.inference.close()

    def expire(self) -> None:
        """It has run for as long as any generation may."""
        self.is_expired = True
        self.stop()

    def run(self) -> None:
        """Stream to the end and record the outcome. Never raises: what nobody foresaw is logged and retried."""
        try:
            self._stream()
        except StaleAttempt:
            self.inference.close()
        except DaemonError as error:
            self._failed(error)
        except Exception:
            log.exception("attempt.crashed prompt=%s attempt=%s", self.prompt.pk, self.attempt.number)
            self._close()
            self.prompt.fail(self.attempt, DaemonError(Reason.GENERATION_FAILED, "an error of our own; see the log"))

    def _stream(self) -> None:
        lane = self.prompt.lane
        stream = self.node.connect().chat(chat_request(self.prompt))
        with self.lock:
            self.inference = Inference(stream, (lane.opening_tag, lane.closing_tag))
            if self.is_stopping:
                self.inference.close()
        for step in self.inference:
            if step.progress and not self.has_first:
                self._progress(step.progress)
            if step.reclassify:
                self._reclassify()
            self.output.add(step.pieces, step.tokens)
            if step.finished:
                self._finished(step.finished)
                return
            if step.pieces and not self.has_first:
                self.has_first = True
                flush([self.output])
            if self.output.is_stale:
                raise StaleAttempt
        self._ended_without_answer()

    def _progress(self, progress) -> None:
        """Loading may send a hundred of these; people see whole percents of it."""
        told = {"phase": progress.phase, "fraction": None if progress.fraction is None else round(progress.fraction, 2)}
        if told != self.attempt.progress:
            self.attempt.progress = told
            note_progress(self.attempt, told)
        if progress.phase == "load" and progress.fraction == 1.0:
            inventory.look(self.node)  # the lanes that wait for this model see that it is there

    def _reclassify(self) -> None:
        flush([self.output])
        self.output.reclassified()
        reclassify(self.attempt)

    def _finished(self, finished) -> None:
        self.prompt.finish(self.attempt, self.output.rest(), finished.stats, finished.response_id)

    def _ended_without_answer(self) -> None:
        """Only a stream that we closed ends like this: put the prompt back, unless it was cancelled."""
        if self.is_expired:
            minutes = settings.GENERATION_LIMIT_SECONDS // 60
            raise DaemonError(Reason.TIMEOUT_TOTAL, f"It ran for {minutes} minutes, the longest a prompt may.")
        self.prompt.release(self.attempt, Outcome.RELEASED, rest=self.output.rest())

    def _failed(self, error: DaemonError) -> None:
        """A failure that may mean a dead node is checked at the node, before it counts as a try."""
        log.info("attempt.failed prompt=%s attempt=%s reason=%s", self.prompt.pk, self.attempt.number, error.reason)
        if error.reason.may_mean_node_down and not inventory.look(self.node):
            self.prompt.release(self.attempt, Outcome.RELEASED, error.reason, rest=self.output.rest())
        else:
            if error.reason is Reason.MODEL_NOT_FOUND:
                inventory.look(self.node)
            self.prompt.fail(self.attempt, error, rest=self.output.rest())

    def _close(self) -> None:
        if self.inference is not None:
            self.inference.close()


def chat_request(prompt: Prompt) -> ChatRequest:
    """What the daemon is asked. A follow-up carries both forms of its chat; each kind of daemon takes its own."""
    turns, previous = [], ""
    earlier = prompt.follows
    while earlier is not None and len(turns) < settings.MAX_CHAT_TURNS:
        attempt = earlier.attempt()
        previous = previous or (attempt.response_id if attempt else "")
        turns.append(Turn(earlier.text, attempt.answer if attempt else ""))
        earlier = earlier.follows
    return ChatRequest(
        model=prompt.model,
        text=prompt.text,
        system_prompt=prompt.system_prompt,
        settings=prompt.settings,
        previous_response_id=previous,
        history=tuple(reversed(turns)),
    )
