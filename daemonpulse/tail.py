"""The tail of the event log: one per web process, for all its viewers.

It reads the events past its cursor and hands them to Channels groups (in-memory layer). What viewers need of an
event is made once here, not once for each of them. A viewer that misses something asks the database again.
"""

import asyncio
import logging
import time
from collections import Counter, defaultdict
from contextlib import asynccontextmanager

from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import close_old_connections
from django.utils.module_loading import import_string

from daemonpulse import wakeup
from daemonpulse.layers import Message
from daemonpulse.models import Event

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
PAUSE_SECONDS = 0.005  # between two looks: under load several commits are one reason to look
BATCH = 500


class Tail:
    def __init__(self):
        self.layer = get_channel_layer()
        self.watched: Counter[str] = Counter()
        self.task: asyncio.Task | None = None
        self.ready = asyncio.Event()
        self.reading = asyncio.Lock()
        self.cursor = 0

    async def watch(self, group: str, channel: str) -> None:
        """Add a channel to a group. From when this returns no event of the group is missed."""
        await self.start()
        async with self.reading:
            if not self.watched:  # nobody looked for a while: what was before is in the rows
                self.cursor = await sync_to_async(Event.objects.last_id, thread_sensitive=False)()
            self.watched[group] += 1
        await self.layer.group_add(group, channel)

    async def unwatch(self, group: str, channel: str) -> None:
        await self.layer.group_discard(group, channel)
        self.watched[group] -= 1
        if not self.watched[group]:
            del self.watched[group]

    @asynccontextmanager
    async def channel(self, *groups: str):
        """A channel of its own for these groups; await the yielded function for the next message."""
        name = await self.layer.new_channel()
        for group in groups:
            await self.watch(group, name)
        try:
            yield lambda: self.layer.receive(name)
        finally:
            for group in groups:
                await self.unwatch(group, name)

    async def start(self) -> None:
        """Start following the log, once (Daphne sends no ASGI lifespan events: the first viewer does this)."""
        if self.task is None or self.task.done():
            self.ready.clear()
            self.task = asyncio.get_running_loop().create_task(self._follow())
        await self.ready.wait()

    async def _follow(self) -> None:
        listener = await sync_to_async(wakeup.listen, thread_sensitive=False)()
        called = asyncio.Event()
        loop = asyncio.get_running_loop()

        def hear():
            try:
                listener.drain()
            except Exception:  # its connection broke: look by the clock, which is slower
                log.exception("tail.listener_lost")
                loop.remove_reader(listener.fileno())
            called.set()

        if listener.fileno() is not None:
            loop.add_reader(listener.fileno(), hear)
        self.ready.set()
        looked_at = 0.0
        while True:
            if (rest := PAUSE_SECONDS - (time.monotonic() - looked_at)) > 0:
                await asyncio.sleep(rest)
            looked_at = time.monotonic()
            called.clear()
            try:
                await self._hand_out()
            except Exception:
                log.exception("tail.failed")
                await asyncio.sleep(LOOK_SECONDS)
            try:
                seconds = LOOK_SECONDS if listener.fileno() is not None else wakeup.POLL_SECONDS
                async with asyncio.timeout(seconds):  # wait_for() of Python 3.11 can lose a cancellation
                    await called.wait()
            except TimeoutError:
                pass

    async def _hand_out(self) -> None:
        async with self.reading:
            messages = await sync_to_async(self._read, thread_sensitive=False)() if self.watched else []
        for group, message in messages:
            await self.layer.group_send(group, message)

    def _read(self) -> list[tuple[str, dict]]:
        """(group, message) for the events that somebody here watches."""
        close_old_connections()
        events = list(Event.objects.after(self.cursor)[:BATCH])
        if not events:
            return []
        self.cursor = events[-1].id
        watched = [(event, groups) for event in events if (groups := [g for g in event.groups if g in self.watched])]
        made: dict[int, dict] = {}
        by_kind: dict[str, list[Event]] = defaultdict(list)
        for event, _ in watched:
            by_kind[event.kind].append(event)
        for kind, of_kind in by_kind.items():
            if path := settings.LIVE_MESSAGES.get(kind):
                try:
                    made |= import_string(path)(of_kind)
                except Exception:  # viewers of a bare event ask the database
                    log.exception("tail.message_failed kind=%s", kind)
        messages = []
        for event, groups in watched:
            told = {
                "id": event.id, "mark": event.mark, "kind": event.kind, "subject": event.subject, "data": event.data
            }  # fmt: skip
            message = Message(type="event", **told, **made.get(event.id, {}))
            messages += [(group, message) for group in groups]
        return messages


_tail: Tail | None = None


def tail() -> Tail:
    """This process's tail; made by the first viewer, because it belongs to the event loop that runs it."""
    global _tail
    if _tail is None:
        _tail = Tail()
    return _tail
