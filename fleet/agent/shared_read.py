"""A reading that takes a moment, done once for all who ask at about the same time."""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread


class SharedRead:
    """`get()` gives a reading that is at most `seconds` old, by `read()` in a thread when there is none.

    Belongs to the reactor's thread. A failure goes to all who wait, and is not kept.
    """

    def __init__(self, reactor, read: Callable[[], object], seconds: float):
        self.reactor = reactor
        self.read = read
        self.seconds = seconds
        self._value: object = None
        self._at: float | None = None
        self._waiting: list[Deferred] | None = None

    async def get(self) -> object:
        if self._at is not None and self.reactor.seconds() - self._at < self.seconds:
            return self._value
        if self._waiting is None:
            self._waiting = []
            deferToThread(self.read).addCallbacks(self._done, self._failed)
        turn = Deferred()
        self._waiting.append(turn)
        return await turn

    def forget(self) -> None:
        """Something changes: the next one who asks gets a new reading."""
        self._at = None

    def _done(self, value: object) -> None:
        self._value, self._at = value, self.reactor.seconds()
        for turn in self._taken():
            turn.callback(value)

    def _failed(self, failure) -> None:
        for turn in self._taken():
            turn.errback(failure)

    def _taken(self) -> list[Deferred]:
        waiting, self._waiting = self._waiting, None
        return waiting
