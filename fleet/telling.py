"""What a command says while it runs: passed on to its row, and so to every page that shows its node."""

import logging
import threading
import time
from collections.abc import Callable

from django.db import DatabaseError, close_old_connections, connections

from fleet.models import Command
from fleet.models.command import MAX_OUTPUT

log = logging.getLogger(__name__)

TELL_SECONDS = 0.4  # at most so often a page hears of new output
BEAT_SECONDS = 5.0
CANCEL_SECONDS = 1.0  # how soon it is seen that somebody wants it to stop


class Telling:
    """Passes on what a command says while it runs, and keeps its lease.

    Lines may come from any thread; a thread of its own writes them, so that what runs never waits for the database.
    `cancelled` is set as soon as somebody wants the command to stop; whoever runs it may bring their own.
    """

    def __init__(
        self,
        command: Command,
        on_line: Callable[[str], None] | None = None,
        on_progress: Callable[[float], None] | None = None,
        cancelled: threading.Event | None = None,
    ):
        self.command, self.on_line, self.on_progress = command, on_line, on_progress
        self.cancelled = cancelled or threading.Event()
        self.output = ""
        self.progress: float | None = None
        self.is_over = threading.Event()
        self.is_news = threading.Event()
        self.thread = threading.Thread(target=self._tell, name="telling", daemon=True)

    def line(self, text: str) -> None:
        self.output = f"{self.output}{text}\n"[-MAX_OUTPUT:]
        if self.on_line:
            self.on_line(text)
        self.is_news.set()

    def signed(self, envelope: dict) -> None:
        """It is about to travel in this envelope: kept before anything happens."""
        self.command.keep_envelope(envelope)

    def at(self, progress: float) -> None:
        self.progress = progress
        if self.on_progress:
            self.on_progress(progress)
        self.is_news.set()

    def _tell(self) -> None:
        try:
            beat_at = time.monotonic()
            while not self.is_over.is_set():
                is_news = self.is_news.wait(CANCEL_SECONDS)
                self.is_news.clear()
                if is_news or time.monotonic() - beat_at > BEAT_SECONDS:
                    beat_at = time.monotonic()
                    self._beat(is_news)
                self._hear()
                self.is_over.wait(TELL_SECONDS)
        finally:
            connections.close_all()  # this thread's

    def _hear(self) -> None:
        """Whether somebody wants it to stop; a look that fails is made again soon."""
        try:
            if not self.cancelled.is_set() and self.command.is_cancel_wanted:
                self.cancelled.set()
        except DatabaseError:
            log.exception("command.cancel_unseen command=%s", self.command.pk)

    def _beat(self, is_news: bool) -> None:
        """A beat that fails must not end what runs: the next one may go through."""
        try:
            close_old_connections()
            self.command.beat(self.output if is_news else None, self.progress if is_news else None)
        except Exception:
            log.exception("command.beat_failed command=%s", self.command.pk)

    def __enter__(self) -> "Telling":
        self.thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.is_over.set()
        self.is_news.set()
        self.thread.join()
        if self.output or self.progress is not None:
            self._beat(is_news=True)
