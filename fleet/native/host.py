"""The host itself: reads requests from the port, answers them, and ends when the browser closes it.

Three kinds of threads: the reader, which is the process's own and never waits for work; one that does the short
actions in the order they came; and one for each chat.
"""

import logging
import queue
import signal
import sys
import threading
import time
from pathlib import Path

from fleet.native import answers
from fleet.native.actions import Actions
from fleet.native.answers import Problem
from fleet.native.conversations import Conversations
from fleet.native.framing import FrameError, TooLarge, read_message
from fleet.native.port import Port

MAX_ID_CHARACTERS = 200
FAREWELL_SECONDS = 1.0  # a browser ends a host that is still there after two

logger = logging.getLogger(__name__)
Id = str | int | None


class Host:
    """`serve()` until the port closes; returns the exit code."""

    def __init__(self, port: Port, data_dir: Path):
        self.port = port
        self.actions = Actions(data_dir)
        self.conversations = Conversations(self.actions.chat, self.answer)
        self._errands: queue.SimpleQueue[tuple[str, Id] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._run_errands, daemon=True)

    def serve(self) -> int:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        self._worker.start()
        try:
            return self._read()
        except OSError:
            return 0  # the browser is gone
        finally:
            self._take_leave()

    def _read(self) -> int:
        """Take requests until the port closes (0) or nothing more can be read from it (1)."""
        while True:
            try:
                request = read_message(self.port.incoming)
            except FrameError as error:
                logger.warning("native.frame_broken can_go_on=%s", error.can_go_on)
                advice = "Send each request as one JSON object, framed as docs/native-messaging.md says."
                self.answer(answers.failure(Problem("broken_frame", str(error), advice)), None)
                if not error.can_go_on:
                    return 1
                continue
            if request is None:
                return 0
            self._take(request)

    def _take(self, request: dict) -> None:
        id = None
        try:
            id = _id_of(request)
            action = request.get("action")
            if action == "chat_completion":
                self.conversations.begin(request, id)
            elif action == "cancel":
                self.conversations.cancel(id)
            elif isinstance(action, str) and action in self.actions.known:
                self._errands.put((action, id))
            else:
                raise self._unknown(action)
        except (ValueError, Problem) as error:
            self.answer(answers.failure(error), id)

    def _unknown(self, action: object) -> Problem:
        known = ", ".join(sorted([*self.actions.known, "cancel", "chat_completion"]))
        said = f"There is no action “{action[:100]}”." if isinstance(action, str) else 'There is no text as "action".'
        return Problem("unknown_action", said, f"The actions are: {known}.")

    def _run_errands(self) -> None:
        while errand := self._errands.get():
            action, id = errand
            try:
                for answer in self.actions.do(action):
                    self.answer(answer, id)
            except Exception as error:
                answers.note(action, error)
                self.answer(answers.failure(error), id)

    def answer(self, message: dict, id: Id) -> None:
        """Send a message for the request with this id. A browser that is gone hears nothing."""
        message = message if id is None else message | {"id": id}
        try:
            self.port.send(message)
        except (TooLarge, ValueError) as error:  # ValueError: a daemon told a number that JSON has no word for
            self.port.send(answers.failure(error) | ({} if id is None else {"id": id}))
        except OSError:
            logger.info("native.browser_gone")

    def _take_leave(self) -> None:
        """End the chats, give a short action the time to answer, and no more: the browser waits for nobody."""
        until = time.monotonic() + FAREWELL_SECONDS
        self._errands.put(None)
        self.conversations.close(until)
        self._worker.join(max(0.0, until - time.monotonic()))


def _id_of(request: dict) -> Id:
    id = request.get("id")
    is_text = isinstance(id, str) and len(id) <= MAX_ID_CHARACTERS
    if id is None or is_text or (isinstance(id, int) and not isinstance(id, bool)):
        return id
    raise Problem("bad_request", f'"id" must be a whole number or a text of up to {MAX_ID_CHARACTERS} characters.', "")
