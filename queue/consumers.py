"""Live pages of the queue: authorise, subscribe, forward."""

import asyncio
from typing import NamedTuple

from django.conf import settings
from django.template.loader import render_to_string

from daemonpulse.consumers import NOT_FOUND, LiveConsumer, RefreshingConsumer, in_thread

from .live import Position
from .models import Prompt
from .pages import board_context, model_choices, prompt_context

LATER_SECONDS = 0.7
SHARED_SECONDS = 2.0
MOVES_PLACES = {"prompt.claimed", "prompt.cancelled", "prompt.reordered", "prompt.edited", "prompt.queued"}


class PromptConsumer(LiveConsumer):
    """One prompt: pieces of text as they come, the whole prompt anew when its state changes or a piece is missing.

    `?seen=` says what the page shows already, so that a page that is up to date is left alone. A prompt that was
    deleted is said to be, which takes the socket's element off the page, and closes the socket.
    """

    renderings: dict[tuple, asyncio.Future] = {}  # of this process, for a moment

    async def authorise(self) -> list[str] | None:
        self.prompt_id = self.scope["url_route"]["kwargs"]["pk"]
        self.position = Position()
        self.prompt: Prompt | None = None
        self.later: asyncio.Task | None = None
        self.in_order = asyncio.Lock()
        if not await in_thread(Prompt.objects.of(self.user).filter(pk=self.prompt_id).exists)():
            return None
        # What a client's page says of a waiting prompt depends on its server.
        where = ["all.remote"] if settings.IS_CLIENT else []
        return [f"prompt.{self.prompt_id}", "all.prompt", "all.lane", "all.node", *where]

    def gone(self) -> str:
        return rendered(self.user, self.prompt_id).html

    async def disconnect(self, code):
        await super().disconnect(code)
        if getattr(self, "later", None):
            self.later.cancel()

    async def begin(self) -> None:
        if (shown := await self._shown(None)).seen != self.query.get("seen"):
            await self._show(shown)

    async def on_event(self, message: dict) -> None:
        if message["subject"] != str(self.prompt_id):
            self._others_moved(message)
            return
        if "html" in message and self.position.is_before_text_of(message["data"]["attempt"]):
            await self.send(message["html"])
        elif self.position.knows_or_continues(message.get("pieces", ())):
            await self._forward(message)
        else:
            await self._resend(message["id"])

    async def anew(self) -> None:
        await self._resend(None)

    async def _forward(self, message: dict) -> None:
        new = [piece for piece in message["pieces"] if self.position.accepts(piece)]
        if any(piece["offset"] == 0 for piece in new):  # its element is not on the page yet
            await self._resend(message["id"])
        elif new:
            await self.send("".join(piece["html"] for piece in new))

    def _others_moved(self, message: dict) -> None:
        """While it waits, what happens around it changes its place and what it waits for; soon is good enough."""
        is_waiting = self.prompt is not None and self.prompt.is_queued
        is_of_interest = not message["kind"].startswith("prompt.") or message["kind"] in MOVES_PLACES
        if is_waiting and is_of_interest and (self.later is None or self.later.done()):
            self.later = asyncio.create_task(self._resend_later(message["id"]))

    async def _resend_later(self, event_id: int) -> None:
        await asyncio.sleep(LATER_SECONDS)
        await self._resend(event_id)

    async def _resend(self, event_id: int | None) -> None:
        async with self.in_order:  # what was rendered later is sent later
            await self._show(await self._shown(event_id))

    async def _show(self, shown: "Shown") -> None:
        await self.send(shown.html)
        if shown.prompt is None:
            await self.close(NOT_FOUND)

    async def _shown(self, event_id: int | None) -> "Shown":
        """The prompt as it is now; rendered once for all of its viewers who hear of the same event."""
        key = (self.prompt_id, event_id)
        rendering = self.renderings.get(key) if event_id else None
        if rendering is None:
            rendering = asyncio.ensure_future(in_thread(rendered)(self.user, self.prompt_id))
            if event_id:  # all its viewers hear of an event in the same moment
                self.renderings[key] = rendering
                asyncio.get_running_loop().call_later(SHARED_SECONDS, self.renderings.pop, key, None)
        shown = await asyncio.shield(rendering)
        self.prompt, self.position = shown.prompt, shown.position.copy()
        return shown


class Shown(NamedTuple):
    html: str
    seen: str
    prompt: Prompt | None  # None: it was deleted
    position: Position


def rendered(user, prompt_id) -> Shown:
    prompt = Prompt.objects.of(user).select_related("lane", "node", "node_pin").filter(pk=prompt_id).first()
    if prompt is None:
        return Shown(render_to_string("queue/_prompt_gone.html"), "gone", None, Position())
    context = prompt_context(prompt)
    return Shown(render_to_string("queue/_prompt.html", context), context["seen"], prompt, context["position"])


class BoardConsumer(RefreshingConsumer):
    """The board: only the lanes that look different are sent again."""

    async def authorise(self) -> list[str]:
        return ["all.prompt", "all.lane", "all.node", "all.model"]

    def fragments(self) -> dict[str, str]:
        context = board_context(self.user)
        lanes = {
            status.lane.dom_id: render_to_string("queue/_lane.html", context | {"status": status})
            for status in context["statuses"]
        }
        return {"lanes": render_to_string("queue/_lanes.html", context)} | lanes

    def changed(self, old: dict[str, str], new: dict[str, str]) -> list[str]:
        """The whole list when lanes came, went or changed places; otherwise single lanes."""
        if list(old) != list(new):
            return [new["lanes"]]
        return [html for key, html in new.items() if key != "lanes" and html != old[key]]


class ComposeConsumer(RefreshingConsumer):
    """The models to choose from, while the form is open."""

    async def authorise(self) -> list[str]:
        return ["all.model", "all.node"]

    def fragments(self) -> dict[str, str]:
        choices = model_choices(self.query.get("chosen", ""))
        return {"models": render_to_string("queue/_model_datalist.html", {"choices": choices})}
