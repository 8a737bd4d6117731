"""The live pages of the fleet: authorise, subscribe, forward."""

import asyncio
import time

from django.template.loader import render_to_string

from daemonpulse.consumers import LiveConsumer, RefreshingConsumer, SharedRenderings, in_thread
from fleet import cards, pages
from fleet.attention import ALL, attention
from fleet.models import Node

PAUSE_SECONDS = 0.4  # between two refreshes of the overview
CHANGES_LIST = {"node.added", "node.removed"}


class FleetConsumer(LiveConsumer):
    """The overview: a card is sent again when something happened to its node, and rendered once for all viewers."""

    renderings = SharedRenderings()

    async def authorise(self) -> list[str]:
        self.dirty: dict[int, float] = {}
        self.is_list_dirty = False
        self.refresher: asyncio.Task | None = None
        self.sent: dict[int, str] = {}
        self.permissions = await in_thread(self.user.get_all_permissions)()
        self.is_watching = True
        await attention().begin(ALL)
        return ["all.node", "all.model", "all.reading", "all.command"]

    async def disconnect(self, code):
        if getattr(self, "is_watching", False):
            attention().end(ALL)
        await super().disconnect(code)
        if getattr(self, "refresher", None):
            self.refresher.cancel()

    async def begin(self) -> None:
        self.is_list_dirty = True
        self._refresh_soon()

    async def on_event(self, message: dict) -> None:
        if message["kind"] in CHANGES_LIST:
            self.is_list_dirty = True
        else:
            self.dirty[int(message["subject"])] = time.monotonic()
        self._refresh_soon()

    def _refresh_soon(self) -> None:
        if self.refresher is None or self.refresher.done():
            self.refresher = asyncio.create_task(self._refresh_while_dirty())

    async def _refresh_while_dirty(self) -> None:
        while self.dirty or self.is_list_dirty:
            if self.is_list_dirty:
                self.is_list_dirty, self.dirty = False, {}
                await self.send(await in_thread(self._list)())
            dirty, self.dirty = self.dirty, {}
            for pk, since in dirty.items():
                html = await self.renderings.get((pk, *sorted(self.permissions)), since, lambda pk=pk: self._card(pk))
                if html and html != self.sent.get(pk):
                    self.sent[pk] = html
                    await self.send(html)
            await asyncio.sleep(PAUSE_SECONDS)

    def _list(self) -> str:
        self.sent = {}
        return render_to_string("fleet/_node_list.html", pages.list_context(self.user))

    def _card(self, pk: int) -> str:
        return cards.rendered(pk, self.user, self.permissions)


class NodeConsumer(RefreshingConsumer):
    """One node: state, machine, commands and their output, and the newest point of its graphs."""

    async def authorise(self) -> list[str] | None:
        self.pk = self.scope["url_route"]["kwargs"]["pk"]
        if not await in_thread(Node.objects.filter(pk=self.pk).exists)():
            return None
        self.is_watching = True
        await attention().begin(self.pk)
        return [f"{noun}.{self.pk}" for noun in ("node", "reading", "command", "model")]

    def gone(self) -> str:
        return render_to_string("fleet/_node_gone.html")

    async def disconnect(self, code):
        if getattr(self, "is_watching", False):
            attention().end(self.pk)
        await super().disconnect(code)

    def fragments(self) -> dict[str, str]:
        node = Node.objects.filter(pk=self.pk).first()
        if node is None:
            return {"state": self.gone()}
        context = pages.node_context(node, self.user)
        return {name: render_to_string(f"fleet/_node_{name}.html", context) for name in pages.FRAGMENTS}
