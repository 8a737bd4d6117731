"""What the queue adds to a node's card and page: what runs there, and what waits for its models."""

from collections import defaultdict

from django.db.models import Count
from django.template.loader import render_to_string

from forge.models import Model

from .models import Prompt
from .states import State


def load(nodes, user) -> dict[int, str]:
    """How many prompts run on each node, and how many wait that it could run."""
    lanes = _lanes(nodes)
    return {
        node.pk: render_to_string(
            "queue/_node_card.html",
            {
                "running": sum(lane["running"] for lane in lanes[node.pk]),
                "waiting": sum(lane["waiting"] for lane in lanes[node.pk]),
            },
        )
        for node in nodes
    }


def lanes(nodes, user) -> dict[int, str]:
    """The lanes that run on each node or could."""
    found = _lanes(nodes)
    return {node.pk: render_to_string("queue/_node_lanes.html", {"lanes": found[node.pk]}) for node in nodes}


def _lanes(nodes) -> dict[int, list[dict]]:
    """node pk → [{"model", "running" (here), "waiting" (here or for any node that has the model)}], busy ones only."""
    pks = [node.pk for node in nodes]
    having = defaultdict(set)
    for node_id, key in Model.objects.usable().filter(node__in=pks).order_by().values_list("node_id", "key"):
        having[key].add(node_id)
    counts: dict[int, dict[str, dict]] = {pk: {} for pk in pks}
    rows = Prompt.objects.open().order_by().values_list("lane__model", "state", "node_id", "node_pin_id")
    for model, state, node_id, pin, count in rows.annotate(count=Count("pk")):
        is_running = state == State.SENDING
        there = {node_id} if is_running else {pin} if pin else having[model]
        for pk in there & counts.keys():
            lane = counts[pk].setdefault(model, {"model": model, "running": 0, "waiting": 0})
            lane["running" if is_running else "waiting"] += count
    return {pk: sorted(lanes.values(), key=lambda lane: lane["model"]) for pk, lanes in counts.items()}
