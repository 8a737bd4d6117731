"""Live pages of the queue: authorise, subscribe, forward."""

from django.template.loader import render_to_string

from daemonpulse.consumers import LiveConsumer, RefreshingConsumer, in_thread

from .board import lane_statuses
from .live import Position
from .models import Prompt
from .pages import model_choices, prompt_context


class PromptConsumer(LiveConsumer):
    """One prompt: pieces of text as they come, the whole prompt anew when its state changes or a piece is missing.

    `?seen=` says what the page shows already, so that a page that is up to date is left alone.
    """

    async def authorise(self) -> list[str] | None:
        self.prompt_id = self.scope["url_route"]["kwargs"]["pk"]
        self.position = Position()
        if not await in_thread(Prompt.objects.of(self.user).filter(pk=self.prompt_id).exists)():
            return None
        return [f"prompt.{self.prompt_id}"]

    async def begin(self) -> None:
        html, seen = await in_thread(self._render)()
        if self.query.get("seen") != seen:
            await self.send(html)

    async def on_event(self, message: dict) -> None:
        if message["kind"] != "prompt.output":
            await self._resend()
            return
        for piece in message["pieces"]:
            accepted = self.position.accepts(piece)
            is_first_of_kind = piece["offset"] == 0  # its element is not on the page yet
            if accepted is None or (accepted and is_first_of_kind):
                await self._resend()
            elif accepted:
                await self.send(piece["html"])

    async def _resend(self) -> None:
        html, _ = await in_thread(self._render)()
        await self.send(html)

    def _render(self) -> tuple[str, str]:
        prompt = Prompt.objects.of(self.user).select_related("lane", "node", "node_pin").get(pk=self.prompt_id)
        context = prompt_context(prompt)
        self.position = context["position"]
        return render_to_string("queue/_prompt.html", context), context["seen"]


class BoardConsumer(RefreshingConsumer):
    """The board: only the lanes that look different are sent again."""

    async def authorise(self) -> list[str]:
        return ["all.prompt", "all.lane", "all.node", "all.model"]

    def fragments(self) -> dict[str, str]:
        statuses = lane_statuses(self.user)
        lanes = {status.lane.dom_id: render_to_string("queue/_lane.html", {"status": status}) for status in statuses}
        return {"lanes": render_to_string("queue/_lanes.html", {"statuses": statuses})} | lanes

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
