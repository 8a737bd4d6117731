"""What the sockets of all live pages share."""

import asyncio
import time
from abc import ABC, abstractmethod
from urllib.parse import parse_qs

from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.db import close_old_connections

from daemonpulse.tail import tail

NOT_SIGNED_IN, NOT_FOUND = 4401, 4404
REFRESH_SECONDS = 0.15
ANEW = "anew"  # all that a page ever says


def in_thread(function):
    """Run a function that reads the database in the loop's pool of threads, without a connection that is broken."""

    def run(*args, **kwargs):
        close_old_connections()
        return function(*args, **kwargs)

    return sync_to_async(run, thread_sensitive=False)


class LiveConsumer(AsyncWebsocketConsumer, ABC):
    """A socket that follows groups of the event log. Subclasses say which, and what to send."""

    watched: list[str] = []
    last_id = 0
    is_let_in = False

    async def connect(self):
        self.user = self.scope["user"]
        self.query = {name: values[0] for name, values in parse_qs(self.scope["query_string"].decode()).items()}
        if not self.user.is_authenticated:
            await self._turn_away(NOT_SIGNED_IN)
            return
        groups = await self.authorise()
        if groups is None:
            await self._turn_away(NOT_FOUND, await in_thread(self.gone)())
            return
        await self.accept()
        self.is_let_in = True
        for group in groups:
            await tail().watch(group, self.channel_name)
        self.watched = groups
        await self.begin()

    async def _turn_away(self, code: int, html: str = "") -> None:
        """Accepts first: a browser is told no code of a socket that never opened, and would try for ever."""
        await self.accept()
        if html:
            await self.send(html)
        await self.close(code)

    async def disconnect(self, code):
        for group in self.watched:
            await tail().unwatch(group, self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        """The page put in the answer to a click. That may have been late, and older than what it replaced."""
        if text_data == ANEW and self.is_let_in:
            await self.anew()

    async def event(self, message: dict):
        if message["id"] > self.last_id:  # one event may come through several groups
            self.last_id = message["id"]
            await self.on_event(message)

    @abstractmethod
    async def authorise(self) -> list[str] | None:
        """The groups to follow, from what this user may see; None when there is nothing for them here."""

    def gone(self) -> str:
        """What a page shows when there is nothing for it; it may have been there when the page was made."""
        return ""

    async def begin(self) -> None:
        """After subscribing: send what the page may lack."""

    @abstractmethod
    async def on_event(self, message: dict) -> None:
        """Something happened in one of the groups."""

    async def anew(self) -> None:
        """Send all that the page shows live. Nothing by default: for pages whose forms put nothing in."""


class RefreshingConsumer(LiveConsumer):
    """Renders its fragments again when something happened, several events at a time, and sends what differs."""

    async def begin(self) -> None:
        self.shown: dict[str, str] = {}
        self.refresher: asyncio.Task | None = None
        self.is_dirty = self.is_doubtful = False
        await self._refresh()

    async def disconnect(self, code):
        await super().disconnect(code)
        if getattr(self, "refresher", None):
            self.refresher.cancel()

    async def on_event(self, message: dict) -> None:
        self._refresh_soon()

    async def anew(self) -> None:
        self.is_doubtful = True
        self._refresh_soon()

    def _refresh_soon(self) -> None:
        self.is_dirty = True
        if self.refresher is None or self.refresher.done():
            self.refresher = asyncio.create_task(self._refresh_while_dirty())

    async def _refresh_while_dirty(self) -> None:
        while self.is_dirty:
            self.is_dirty = False
            await self._refresh()
            await asyncio.sleep(REFRESH_SECONDS)

    async def _refresh(self) -> None:
        if self.is_doubtful:
            self.shown, self.is_doubtful = {}, False
        new = await in_thread(self.fragments)()
        for html in self.changed(self.shown, new):
            await self.send(html)
        self.shown = new

    @abstractmethod
    def fragments(self) -> dict[str, str]:
        """element id → HTML, in the order of the page."""

    def changed(self, old: dict[str, str], new: dict[str, str]) -> list[str]:
        return [html for key, html in new.items() if html != old.get(key)]


class SharedRenderings:
    """A fragment is rendered once for all viewers of this process who want it in the same moment."""

    def __init__(self):
        self.made: dict[tuple, tuple[float, asyncio.Future]] = {}

    async def get(self, key: tuple, since: float, render) -> str:
        """What render() gives (in a thread), not older than `since` (time.monotonic())."""
        at, rendering = self.made.get(key, (-1.0, None))
        if rendering is None or at < since:
            rendering = asyncio.ensure_future(in_thread(render)())
            self.made[key] = time.monotonic(), rendering
        return await asyncio.shield(rendering)
