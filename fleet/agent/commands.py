"""Commands: opened, admitted, run and written into both logs."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fleet.agent.envelope import Command, Refused, Verifier
from fleet.agent.failures import Failure, failure_of
from fleet.agent.journal import Entry, Journal
from fleet.agent.keys import AgentKey
from fleet.agent.nonces import FILE as NONCES
from fleet.agent.nonces import Nonces
from fleet.lms.actions import CHANGING, Action, execute

MOST_LOOKS = 6  # commands that change nothing, side by side
LOGS = "logs"  # the one action that is no command: it opens a stream of log lines


@dataclass(eq=False)
class Running:
    """A command that was admitted. `finish()` once, whatever becomes of it."""

    command: Command
    peer: str
    began_at: float
    release: Callable[[], None]


class Commands:
    """`open()` an envelope, `admit()` its command, `run()` it in a thread. All methods are thread-safe."""

    def __init__(self, key: AgentKey, folder: Path, make_manager: Callable):
        self.verifier = Verifier(key, Nonces(folder / NONCES))
        self.journal = Journal(folder, key)
        self.make_manager = make_manager
        self._changing = threading.Lock()
        self._looking = threading.Semaphore(MOST_LOOKS)
        self._running: list[Running] = []
        self._lock = threading.Lock()

    def open(self, envelope: object, peer: str) -> Command:
        """Raises Failure (403) for an envelope that is refused, and writes it down."""
        try:
            return self.verifier.open(envelope)
        except Refused as why:
            found = envelope if isinstance(envelope, dict) else {}
            self._write(self.journal.keep, "refused", peer, envelope=envelope, why=str(why))
            self.tell(found.get("id"), found.get("action"), peer, f"refused: {why}")
            raise Failure(
                "refused", f"The agent refused the command: {why}.",
                "Nothing was done. `daemonpulse agent log` on that machine lists what was refused.", 403,
            ) from why  # fmt: skip

    def admit(self, command: Command, envelope: dict, peer: str) -> Running:
        """Give a command its turn. Raises Failure: 400 for what is no action, 409 while another one is at work.

        A command that cannot be written down is not run (507).
        """
        began_at = time.monotonic()
        try:
            release = self._take_turn(command)
        except Failure as failure:
            self.tell(command.id, command.action, peer, f"not run: {failure.problem}")
            self._write(self.journal.keep, "not run", peer, envelope=envelope, error=failure.as_json())
            raise
        try:
            self.journal.keep("begun", peer, envelope=envelope)
        except OSError as error:
            release()
            text = f"The agent cannot write its log ({error.strerror}), so it runs nothing."
            raise Failure("cannot_log", text, "Look at the disk of that machine.", 507) from error
        running = Running(command, peer, began_at, release)
        with self._lock:
            self._running.append(running)
        return running

    def run(self, running: Running, on_line: Callable[[str], None]) -> dict:
        """Do it; blocks as long as it takes. Raises Failure."""
        command = running.command
        try:
            result = execute(self.make_manager(on_line), Action(command.action), command.parameters)
        except Exception as error:
            failure = failure_of(error)
            detail = str(getattr(error, "detail", ""))
            self.finish(running, f"failed: {failure.problem}", error=failure.as_json(), detail=detail)
            raise failure from error
        self.finish(running, "done", result=result)
        return result

    def finish(self, running: Running, outcome: str, **payload: object) -> None:
        """Write down how it ended and let the next one in; only the first call counts."""
        with self._lock:
            if running not in self._running:
                return
            self._running.remove(running)
        running.release()
        command, seconds = running.command, time.monotonic() - running.began_at
        self._write(self.journal.keep, "ended", running.peer, id=command.id, outcome=outcome, **payload)
        self.tell(command.id, command.action, running.peer, outcome, seconds)

    def interrupt(self) -> None:
        """The agent ends: whatever is under way is written down as such. What it began may still go on by itself."""
        with self._lock:
            under_way = list(self._running)
        for running in under_way:
            self.finish(running, "unfinished: the agent was stopped")

    def tell(self, id: object, action: object, peer: str, outcome: str, seconds: float = 0.0) -> None:
        self._write(self.journal.tell, Entry(id, action, peer, outcome, seconds))

    def _take_turn(self, command: Command) -> Callable[[], None]:
        if command.action == LOGS:  # the number of streams is limited where they are opened
            return lambda: None
        if command.action not in set(Action):
            raise Failure("unknown_action", f"The agent knows no action {command.action}.", "Is it an older version?")
        turn = self._changing if command.action in CHANGING else self._looking
        if not turn.acquire(blocking=False):
            raise Failure("busy", self._busy(), "Try again when it is done.", 409)
        return turn.release

    def _busy(self) -> str:
        with self._lock:
            names = [running.command.action for running in self._running if running.command.action in CHANGING]
        return f"The agent is busy with {names[0]}." if names else "The agent has too many questions to answer at once."

    def _write(self, write: Callable[..., None], *what: object, **payload: object) -> None:
        """For what has happened already: a full disk must not hide the outcome from whoever asked."""
        try:
            write(*what, **payload)
        except OSError as error:
            print(f"daemonpulse agent: the log cannot be written: {error}", file=sys.stderr, flush=True)
