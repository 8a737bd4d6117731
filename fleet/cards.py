"""What the fleet's pages show of each node, read with a fixed number of queries however many there are."""

from dataclasses import dataclass

from django.template.loader import render_to_string

from fleet import panels
from fleet.advice import Advice, advise
from fleet.models import Command, Node, Reading
from fleet.models.command import LABELS
from fleet.telemetry.readings import Machine


@dataclass(frozen=True, slots=True)
class Card:
    """A node with what its machine told last, and what is being done to it."""

    node: Node
    reading: Reading | None
    machine: Machine | None
    advice: Advice | None
    command: Command | None  # the one that runs or waits
    panels: list[str]  # HTML of the apps above

    @property
    def advice_label(self) -> str:
        return LABELS[self.advice.action] if self.advice and self.advice.action else ""


def cards(nodes, user) -> list[Card]:
    """One for each node of a queryset, in its order."""
    rows = list(nodes.select_related("reading"))
    commands = {c.node_id: c for c in Command.objects.open().filter(node__in=rows).order_by("-asked_at")}
    added = panels.on_cards(rows, user)
    return [_card(node, commands.get(node.pk), added.get(node.pk, [])) for node in rows]


def _card(node: Node, command: Command | None, added: list[str]) -> Card:
    reading = getattr(node, "reading", None)
    machine = reading.machine if reading and node.has_host else None
    status = reading.status_json if reading else None
    return Card(node, reading, machine, advise(node, status), command, added)


def rendered(pk: int, user, permissions: set[str]) -> str:
    """One node's card as the page shows it; empty when the node is gone."""
    found = cards(Node.objects.filter(pk=pk), user)
    context = {"permissions": permissions, "user": user}
    return render_to_string("fleet/_node.html", context | {"card": found[0], "node": found[0].node}) if found else ""
