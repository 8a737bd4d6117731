"""Lines from a worker's thread to a connection that may be slower: bounded, and honest about what was left out."""

import threading
from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

MAX_LINES = 2_000
MAX_CHARACTERS = 4 * 1024 * 1024
MAX_LINE_CHARACTERS = (
    1024 * 1024
)  # holds the prompt of a long context; a longer line is left out: half of it would not be JSON any more


@implementer(IPushProducer)
class Outlet:
    """`put()` from any thread; the rest belongs to the reactor. `send` writes one line, `notice` one that tells of so
    many lines left out. The oldest lines go first: whoever is slow wants to see what happens now."""

    def __init__(self, reactor, send: Callable[[str], None], notice: Callable[[int], None]):
        self.reactor = reactor
        self.send = send
        self.notice = notice
        self._lines: deque[str] = deque()
        self._size = 0
        self._left_out = 0
        self._is_scheduled = False
        self._is_paused = False
        self._is_stopped = False
        self._lock = threading.Lock()

    def put(self, line: str) -> None:
        with self._lock:
            if self._is_stopped:
                return
            self._add(line)
            if self._is_scheduled:
                return
            self._is_scheduled = True
        self.reactor.callFromThread(self._flush)

    def _add(self, line: str) -> None:
        if len(line) > MAX_LINE_CHARACTERS:
            self._left_out += 1
            return
        self._lines.append(line)
        self._size += len(line)
        while len(self._lines) > MAX_LINES or self._size > MAX_CHARACTERS:
            self._size -= len(self._lines.popleft())
            self._left_out += 1

    def _flush(self) -> None:
        """Send until the connection has enough; then resumeProducing() goes on."""
        while not self._is_paused and not self._is_stopped and self._send_next():
            pass

    def drain(self) -> None:
        """Send what is left, however slow the connection: it is little, and the end comes after it."""
        while not self._is_stopped and self._send_next():
            pass

    def _send_next(self) -> bool:
        with self._lock:
            left_out, self._left_out = self._left_out, 0
            line = self._lines.popleft() if self._lines else None
            self._size -= len(line or "")
            self._is_scheduled = bool(left_out or line is not None)
        if left_out:
            self.notice(left_out)
        if line is not None:
            self.send(line)
        return bool(left_out or line is not None)

    @property
    def is_ready(self) -> bool:
        """The connection takes more at once."""
        return not self._is_paused and not self._is_stopped

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        self._is_paused = False
        self._flush()

    def stopProducing(self) -> None:
        """The connection is gone."""
        with self._lock:
            self._is_stopped = True
            self._lines.clear()
