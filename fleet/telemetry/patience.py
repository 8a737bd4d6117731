"""Calling what may never return, without waiting for it for ever."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Patient(Generic[Answer]):
    """Makes a call in a thread of its own, one at a time; those who ask meanwhile share its outcome.

    The thread is a daemon, so a call that hangs does not keep the program from ending.
    """

    def __init__(self, call: Callable[[], Answer], seconds: float, name: str):
        self._call = call
        self._seconds = seconds
        self._name = name
        self._lock = threading.Lock()
        self._running: Future[Answer] | None = None
        self._deadline = 0.0

    def ask(self) -> Answer:
        """What the call returns, or raises. Raises TimeoutError if it takes more than `seconds`.

        As long as such a call still hangs, this raises at once; after that, a new call is made. The outcome
        of the late one is dropped: it is old.
        """
        running, deadline = self.begin()
        return running.result(timeout=max(0.0, deadline - time.monotonic()))

    def begin(self) -> "tuple[Future[Answer], float]":
        """Makes the call unless it is under way, without waiting. Returns its outcome to be, and until when to wait."""
        with self._lock:
            if self._running is None or self._running.done():
                outcome = Future()
                threading.Thread(target=self._work, args=(outcome,), name=self._name, daemon=True).start()
                self._running, self._deadline = outcome, time.monotonic() + self._seconds
            return self._running, self._deadline

    def _work(self, outcome: "Future[Answer]") -> None:
        try:
            outcome.set_result(self._call())
        except BaseException as error:
            outcome.set_exception(error)
