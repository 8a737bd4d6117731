"""The live pages of models."""

from django.template.loader import render_to_string

from daemonpulse.consumers import RefreshingConsumer, in_thread
from fleet.attention import ALL, attention
from fleet.models.command import LOAD, UNLOAD
from forge import pages
from forge.models import Model


class ModelsConsumer(RefreshingConsumer):
    """The list, as the page's own address narrows and orders it. One row when only rows changed, else all."""

    async def authorise(self) -> list[str]:
        self.is_watching = True
        await attention().begin(ALL)
        return ["all.model", "all.node", "all.command"]

    async def disconnect(self, code):
        if getattr(self, "is_watching", False):
            attention().end(ALL)
        await super().disconnect(code)

    async def on_event(self, message: dict) -> None:
        if is_of_models(message):
            await super().on_event(message)

    def fragments(self) -> dict[str, str]:
        context = pages.list_context(self.user, self.query)
        told = {
            row.dom_id: render_to_string("forge/_model_row.html", context | {"row": row}) for row in context["rows"]
        }
        return {"list": render_to_string("forge/_model_list.html", context)} | told

    def changed(self, old: dict[str, str], new: dict[str, str]) -> list[str]:
        if list(old) != list(new):
            return [new["list"]]
        return [html for key, html in new.items() if key != "list" and html != old[key]]


class ModelConsumer(RefreshingConsumer):
    """One model on one node: its copies, the load under way, and when the fit is to be looked at again."""

    async def authorise(self) -> list[str] | None:
        pk = self.scope["url_route"]["kwargs"]["pk"]
        self.model = await in_thread(Model.objects.filter(pk=pk).first)()
        if self.model is None:
            return None
        self.is_watching = True
        await attention().begin(self.model.node_id)
        return [f"{noun}.{self.model.node_id}" for noun in ("model", "command", "node", "reading")]

    def gone(self) -> str:
        return render_to_string("forge/_model_gone.html")

    async def disconnect(self, code):
        if getattr(self, "is_watching", False):
            attention().end(self.model.node_id)
        await super().disconnect(code)

    def fragments(self) -> dict[str, str]:
        model = Model.objects.select_related("node__reading").filter(pk=self.model.pk).first()
        if model is None:
            return {"state": self.gone()}
        context = pages.model_context(model, self.user)
        return {name: render_to_string(f"forge/_model_{name}.html", context) for name in pages.FRAGMENTS}


def is_of_models(message: dict) -> bool:
    """Not a command of another kind, whose output comes several times a second."""
    is_command = message["kind"].startswith("command.")
    return not is_command or message.get("data", {}).get("action") in {LOAD, UNLOAD}
