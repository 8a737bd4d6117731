"""What Forge adds to a node's card and page: its models, the loaded ones first."""

from collections import defaultdict

from django.template.loader import render_to_string

from forge.models import Model

SHOWN_ON_CARD = 3


def loaded(nodes, user) -> dict[int, str]:
    """How many models each node has, and which are loaded."""
    rows: dict[int, list[Model]] = defaultdict(list)
    for model in Model.objects.present().filter(node__in=nodes):
        rows[model.node_id].append(model)
    return {node.pk: render_to_string("forge/_node_card.html", _of(node, rows[node.pk])) for node in nodes}


def models(nodes, user) -> dict[int, str]:
    """Each node's models as a table."""
    return {
        node.pk: render_to_string("forge/_node_models.html", _of(node, list(Model.objects.present().filter(node=node))))
        for node in nodes
    }


def _of(node, rows: list[Model]) -> dict:
    in_memory = [model for model in rows if model.is_loaded]
    return {
        "node": node,
        "models": sorted(rows, key=lambda model: (not model.is_loaded, model.key)),
        "count": len(rows),
        "tells_loaded": any(model.loaded is not None for model in rows),
        "loaded": in_memory[:SHOWN_ON_CARD],
        "more": max(0, len(in_memory) - SHOWN_ON_CARD),
        "loaded_count": len(in_memory),
    }
