"""The nonces of commands that were accepted, so that none is accepted twice: also not after a restart."""

import contextlib
import os
import threading
from pathlib import Path

MOST = 10_000  # within the time they are remembered; more than that is no honest control plane
FILE = "nonces"


class TooMany(Exception):
    """More commands than an agent remembers."""


class Nonces:
    """Thread-safe. With a `file` they outlive the process: a nonce is on disk before its command begins.

    Remembering in a file, rather than refusing whatever was issued before the start, is what also holds when the
    control plane's clock runs ahead of this machine's.
    """

    def __init__(self, file: Path | None = None):
        self.file = file
        self._until: dict[str, int] = {}  # nonce: unix milliseconds up to which it is remembered
        self._lock = threading.Lock()
        self._output = None
        if file is not None:
            self._read()
            self._write_afresh()

    def remember(self, nonce: str, until: int, now: int) -> bool:
        """Times in unix milliseconds. False when it was known already. Raises TooMany, or OSError when the disk is
        full: then the command must not run."""
        with self._lock:
            if nonce in self._until:
                return False
            if len(self._until) >= MOST:
                self._forget(now)
                if len(self._until) >= MOST:
                    raise TooMany
            if self._output is not None:
                self._output.write(f"{until} {nonce}\n")
                self._output.flush()
            self._until[nonce] = until
            return True

    def _forget(self, now: int) -> None:
        self._until = {nonce: until for nonce, until in self._until.items() if until >= now}
        if self.file is not None:
            self._write_afresh()

    def _read(self) -> None:
        """What is past its time is kept until there are many: a clock may have been set back meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            for line in self.file.read_text(encoding="ascii", errors="replace").splitlines()[-MOST:]:
                until, _, nonce = line.partition(" ")
                if until.isdecimal() and len(until) < 16:
                    self._until[nonce] = int(until)

    def _write_afresh(self) -> None:
        new = self.file.with_suffix(".new")
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        output = os.fdopen(handle, "w")
        output.writelines(f"{until} {nonce}\n" for nonce, until in self._until.items())
        output.flush()
        new.replace(self.file)
        if self._output is not None:
            self._output.close()
        self._output = output
