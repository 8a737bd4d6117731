"""Live pages of devices: authorise, subscribe, forward."""

import asyncio

from django.template.loader import render_to_string

from daemonpulse.consumers import RefreshingConsumer, in_thread

from ..models import PairingCode
from .pages import devices_context, pairing_context

LOOK_SECONDS = 4.0


class ClockedConsumer(RefreshingConsumer):
    """Looks by the clock as well, while `is_passing`: what it shows then ends without an event."""

    is_passing = False

    async def begin(self) -> None:
        await super().begin()
        self.clock = asyncio.create_task(self._look())

    async def disconnect(self, code):
        await super().disconnect(code)
        if clock := getattr(self, "clock", None):
            clock.cancel()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.is_passing:
                self._refresh_soon()


class DevicesConsumer(ClockedConsumer):
    """The list: a device that looks different is sent again, the whole list when one came, went or moved."""

    async def authorise(self) -> list[str]:
        return ["all.device"]

    def fragments(self) -> dict[str, str]:
        context = devices_context(self.user)
        self.is_passing = any(device.is_online for device in context["devices"])
        rows = {
            device.dom_id: render_to_string("queue/_device.html", context | {"device": device})
            for device in context["devices"]
        }
        return {"devices": render_to_string("queue/_device_list.html", context)} | rows

    def changed(self, old: dict[str, str], new: dict[str, str]) -> list[str]:
        if list(old) != list(new):
            return [new["devices"]]
        return [html for key, html in new.items() if key != "devices" and html != old[key]]


class PairingConsumer(ClockedConsumer):
    """A code that waits for its device: nothing until there is one, or until the code is over."""

    async def authorise(self) -> list[str] | None:
        self.pk = self.scope["url_route"]["kwargs"]["pk"]
        if not await in_thread(PairingCode.objects.filter(owner=self.user, pk=self.pk).exists)():
            return None
        return ["all.device"]

    def fragments(self) -> dict[str, str]:
        context = pairing_context(self.user, self.pk)
        self.is_passing = not (context["device"] or context["is_over"])
        return {} if self.is_passing else {"pairing": render_to_string("queue/_device_pairing_over.html", context)}
