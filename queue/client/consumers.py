"""What a page says of the other half by the clock: a client of its server, a server of its execution."""

from django.conf import settings
from django.template.loader import render_to_string

from ..devices.consumers import ClockedConsumer
from ..models import Runner
from . import header


class ServerConsumer(ClockedConsumer):
    """The line below the header; with `?part=card` the card on the settings page."""

    is_passing = True

    async def authorise(self) -> list[str] | None:
        return ["all.remote", "all.prompt"] if settings.IS_CLIENT else None

    def fragments(self) -> dict[str, str]:
        part = "card" if self.query.get("part") == "card" else "server"
        return {part: render_to_string(f"queue/_client_{part}.html", {"server": header.current(), "is_client": True})}


class PartsConsumer(ClockedConsumer):
    """Whether prompts are executed."""

    is_passing = True

    async def authorise(self) -> list[str]:
        return ["all.runner"]

    def fragments(self) -> dict[str, str]:
        return {"parts": render_to_string("queue/_parts.html", {"has_worker": Runner.has_worker()})}
