"""`lms log stream`: what LM Studio logs, line by line as it happens (contract §7.9)."""

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from enum import StrEnum

from fleet.lms import processes
from fleet.lms.answers import Answer, judged
from fleet.lms.cli import Lms
from fleet.lms.output import plain

MAX_LINE_BYTES = 4 * 1024 * 1024  # a prompt of a long context is one line; what is longer is left out
MAX_TOLD_BYTES = 16 * 1024


class Source(StrEnum):
    """Which log; one stream follows one."""

    MODEL = "model"
    SERVER = "server"
    RUNTIME = "runtime"


class LogStream:
    """Iterate it once: raw JSON lines, without their line end. It ends when the daemon is gone or it was closed.

    A context manager; `close()` from any thread. Iterating raises LmsError when the command fails. The lines hold
    users' prompts: never write them to a log.
    """

    def __init__(self, lms: Lms, source: Source):
        self.source = source
        self.is_closed = False
        self.is_read = False
        self.left_out = 0  # lines that were too long
        self._process: subprocess.Popen = lms.start("log", "stream", "--json", "--source", source.value)
        self._told = bytearray()
        self._reader = threading.Thread(target=self._read_told, daemon=True)
        self._reader.start()
        self._ending = threading.Lock()

    def __enter__(self) -> "LogStream":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        self.is_read = True
        seen = 0
        try:
            for line in iter(self._line, b""):
                seen += 1
                if text := line.decode(errors="replace").strip():
                    yield text
            with contextlib.suppress(subprocess.TimeoutExpired):  # it ends by itself, and its exit code tells
                self._process.wait(processes.GRACE_SECONDS)
        finally:
            self._end()
            self._process.stdout.close()
        if not self.is_closed:
            self._check(seen)

    def close(self) -> None:
        """End it now; a reader that waits in another thread gets its end."""
        self.is_closed = True
        self._end()
        if not self.is_read:
            self._process.stdout.close()

    def _end(self) -> None:
        with self._ending:
            if self._process.poll() is None:
                processes.end(self._process)

    def _line(self) -> bytes:
        """The next line that is not too long; b"" at the end."""
        while len(line := self._process.stdout.readline(MAX_LINE_BYTES)) == MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = self._process.stdout.readline(MAX_LINE_BYTES)
            self.left_out += 1
        return line

    def _check(self, lines_seen: int) -> None:
        """Raise what the command complained about, unless it simply ended."""
        self._reader.join(1)
        told = plain(bytes(self._told).decode(errors="replace"))
        answer = judged(Answer("lms log stream", "", told, self._process.returncode))
        if answer.exit_code > 0 and not lines_seen:
            raise answer.failure()

    def _read_told(self) -> None:
        with self._process.stderr as pipe:
            while block := pipe.read1(4096):
                self._told += block[: MAX_TOLD_BYTES - len(self._told)]
