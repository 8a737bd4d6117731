"""Which nodes are being looked at in this web process, told to the prober through the nodes' rows.

However many pages are open: one update of the rows every few seconds.
"""

import asyncio
import logging
from collections import Counter

from daemonpulse.consumers import in_thread
from fleet.models import Node

log = logging.getLogger(__name__)

RENEW_SECONDS = 4.0
LEASE_SECONDS = 9.0  # a web process that dies is forgotten after this

ALL = 0  # no node's pk


class Attention:
    def __init__(self):
        self.viewers: Counter[int] = Counter()
        self.task: asyncio.Task | None = None

    async def begin(self, pk: int) -> None:
        """A page shows this node (or ALL of them) from now on; it is looked at at once."""
        self.viewers[pk] += 1
        if self.viewers[pk] == 1:
            await self._tell([pk])
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._renew())

    def end(self, pk: int) -> None:
        self.viewers[pk] -= 1
        if self.viewers[pk] <= 0:
            del self.viewers[pk]

    async def _renew(self) -> None:
        while self.viewers:
            await asyncio.sleep(RENEW_SECONDS)
            await self._tell(list(self.viewers))

    async def _tell(self, pks: list[int]) -> None:
        try:
            if pks:
                await in_thread(Node.watch)(None if ALL in pks else pks, LEASE_SECONDS)
        except Exception:  # such as a database that is busy for long: the next renewal comes soon
            log.exception("attention.not_told")


_attention: Attention | None = None


def attention() -> Attention:
    """This process's; made by the first viewer, because it belongs to the event loop that runs it."""
    global _attention
    if _attention is None:
        _attention = Attention()
    return _attention
