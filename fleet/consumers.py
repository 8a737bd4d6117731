"""The live list of nodes."""

from django.template.loader import render_to_string

from daemonpulse.consumers import RefreshingConsumer
from fleet.views import nodes_with_counts


class NodesConsumer(RefreshingConsumer):
    async def authorise(self) -> list[str]:
        return ["all.node", "all.model"]

    def fragments(self) -> dict[str, str]:
        context = {"nodes": nodes_with_counts(), "user": self.user}
        return {"nodes": render_to_string("fleet/_node_list.html", context)}
