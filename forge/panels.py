"""What Forge adds to a node's card and page: its models, the loaded ones first."""

from collections import defaultdict

from django.template.loader import render_to_string

from fleet.models import Kind
from forge.forms import BudgetForm
from forge.models import Model, NodePolicy
from forge.places import Place, copies_of, places

SHOWN_ON_CARD = 3


def loaded(nodes, user) -> dict[int, str]:
    """How many models each node has, and which are loaded or being loaded."""
    there = _places(nodes)
    return {node.pk: render_to_string("forge/_node_card.html", _in_short(node, there[node.pk])) for node in nodes}


def models(nodes, user) -> dict[int, str]:
    """Each node's models as a table with their copies, and what they may hold together."""
    there = _places(nodes)
    copies = copies_of([place.model for of_node in there.values() for place in of_node])
    policies = NodePolicy.objects.in_bulk([node.pk for node in nodes])
    may_change = user.has_perm("fleet.change_node")
    told = {}
    for node in nodes:
        rows = [{"place": place, "copies": copies.get(place.model.pk, [])} for place in _loaded_first(there[node.pk])]
        context = {"node": node, "user": user, "permissions": user.get_all_permissions(), "may_change": may_change}
        context |= _policy(policies.get(node.pk), node, may_change) | {"rows": rows}
        told[node.pk] = render_to_string("forge/_node_models.html", context)
    return told


def _places(nodes) -> dict[int, list[Place]]:
    """node's pk → its models. Two queries."""
    by_pk = {node.pk: node for node in nodes}
    found: dict[int, list[Place]] = defaultdict(list)
    rows = list(Model.objects.present().filter(node__in=by_pk).defer("metadata", "size_json"))
    for model in rows:
        model.node = by_pk[model.node_id]
    for place in places(rows):
        found[place.model.node_id].append(place)
    return found


def _loaded_first(there: list[Place]) -> list[Place]:
    return sorted(there, key=lambda place: (not place.copies, not place.is_loading, place.model.key))


def _policy(policy: NodePolicy | None, node, may_change: bool) -> dict:
    budget = policy.vram_budget_bytes if policy else None
    can_have_one = may_change and node.kind == Kind.LMSTUDIO
    return {
        "policy": policy if policy and policy.auto_evict_seen_at else None,
        "budget_bytes": budget,
        "budget_form": BudgetForm(budget_bytes=budget) if can_have_one else None,
    }


def _in_short(node, there: list[Place]) -> dict:
    in_memory = [place for place in _loaded_first(there) if place.copies or place.is_loading]
    return {
        "node": node,
        "count": len(there),
        "tells_loaded": any(place.copies is not None for place in there),
        "loaded": in_memory[:SHOWN_ON_CARD],
        "more": max(0, len(in_memory) - SHOWN_ON_CARD),
    }
