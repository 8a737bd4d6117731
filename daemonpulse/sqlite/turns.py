"""Whose turn it is to write: one lock for all threads and processes of a database.

SQLite lets one writer in at a time, and the others sleep and look again, up to 100 ms at a time and in no order.
With many short transactions that wait is most of their time. Here they wait in the kernel's queue instead, and
are woken when it is their turn; a process that dies gives its turn back.
"""

import os
import threading
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks on this platform: threads take turns, processes wait as SQLite has them wait
    fcntl = None


class Turns:
    """`take()` waits for the turn, `give_back()` ends it; between threads and, by a lock file, processes."""

    def __init__(self, path: Path):
        self.path = path
        self.forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """In a forked child: what the parent's threads hold is not ours."""
        self.thread_turn = threading.Lock()
        self.file = None

    def take(self) -> None:
        self.thread_turn.acquire()
        try:
            if fcntl is not None:
                if self.file is None:
                    self.file = self.path.open("w")
                fcntl.flock(self.file, fcntl.LOCK_EX)
        except BaseException:
            self.thread_turn.release()
            raise

    def give_back(self) -> None:
        if self.file is not None:
            fcntl.flock(self.file, fcntl.LOCK_UN)
        self.thread_turn.release()


_all: dict[str, Turns] = {}
_all_lock = threading.Lock()


def turns_of(database: str) -> Turns:
    """The turns of a database file; the same object for all connections of this process."""
    with _all_lock:
        if database not in _all:
            _all[database] = Turns(Path(f"{database}.turn"))
        return _all[database]
