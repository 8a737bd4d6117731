"""The live list of downloads."""

from django.template.loader import render_to_string

from daemonpulse.consumers import RefreshingConsumer
from fleet.attention import ALL, attention
from forge.downloads.pages import downloads_context
from forge.models import Download


class DownloadsConsumer(RefreshingConsumer):
    """A download is sent again when what is shown of it changed, the whole list when one comes, goes or ends."""

    places: list | None = None  # as last sent

    async def authorise(self) -> list[str]:
        self.is_watching = True
        await attention().begin(ALL)  # nodes are asked more often while somebody looks
        return ["all.download", "all.node"]

    async def disconnect(self, code):
        if getattr(self, "is_watching", False):
            attention().end(ALL)
        await super().disconnect(code)

    def fragments(self) -> dict[str, str]:
        """Each download by its place, and "list" when the places are other ones than before."""
        context = downloads_context(self.user)
        rows = context["open_downloads"] + context["ended_downloads"]
        told = {(row.is_open, row.dom_id): self._row(context, row) for row in rows}
        if list(told) != self.places:
            self.places = list(told)
            told["list"] = render_to_string("forge/_download_list.html", context)
        return told

    def _row(self, context: dict, row: Download) -> str:
        return render_to_string("forge/_download.html", context | {"download": row})

    def changed(self, old: dict, new: dict) -> list[str]:
        return [new["list"]] if "list" in new else super().changed(old, new)
