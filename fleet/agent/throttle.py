"""How often somebody may be wrong."""

import time
from collections import OrderedDict
from collections.abc import Callable

MOST_PEERS = 1_000  # remembered; the one that was wrong longest ago is forgotten first


class Throttle:
    """Counts a peer's failures within a minute; belongs to the reactor's thread."""

    def __init__(self, most: int, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic):
        self.most = most
        self.seconds = seconds
        self.clock = clock
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def is_over(self, peer: str) -> bool:
        """The peer has failed as often as it may."""
        return len(self._recent(peer)) >= self.most

    def count(self, peer: str) -> None:
        self._failures[peer] = [*self._recent(peer), self.clock()]
        self._failures.move_to_end(peer)
        while len(self._failures) > MOST_PEERS:
            self._failures.popitem(last=False)

    def _recent(self, peer: str) -> list[float]:
        since = self.clock() - self.seconds
        return [at for at in self._failures.get(peer, ()) if at > since]
