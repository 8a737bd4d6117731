"""The contexts of what both Forge's pages and their sockets render."""

from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from fleet.allocation.profile import Strategy
from fleet.models import Command, Kind
from fleet.models.command import LOAD
from fleet.telemetry.readings import Machine
from forge import loading
from forge.eviction import Resident, Why
from forge.forms import ListForm, LoadForm
from forge.listing import capabilities, rows
from forge.models import LoadProfile, Model, NodePolicy
from forge.places import copies_of, places
from forge.preview import Preview, preview
from forge.wishes import Wish, read

FRAGMENTS = ("state", "now", "copies", "actions", "reading", "news")
LOADS_SHOWN = 10  # of a node: among them the last one of a model is looked for
FINENESS = 2**26  # bytes: free memory that moved by less makes no other fit
IN_THE_WAY = {
    Why.BUSY: "{} is at work.",
    Why.PINNED: "{} is pinned.",
    Why.WANTED: "Prompts wait for {}.",
    Why.UNKNOWN: "What {} holds is not known, so it may not help to unload it.",
    Why.TOO_LARGE: "Nothing else that is loaded could make room for it.",
}


def list_context(user, query: Mapping[str, str]) -> dict:
    """The list of models, as asked for by an address."""
    form = ListForm(query)
    filters = form.filters
    found = rows(filters)
    return {
        "form": form,
        "filters": urlencode(filters),
        "rows": found,
        "has_nodes": form.has_nodes,
        "is_narrowed": bool(filters.keys() - {"sort"}),
        "user": user,
        "permissions": user.get_all_permissions(),
    }


def model_context(model: Model, user) -> dict:
    """Everything that the live parts of a model's page show; `model` comes with its node."""
    here, *others = _everywhere(model)
    policy = NodePolicy.objects.filter(node=model.node).first()
    reading = getattr(model.node, "reading", None)
    under_way, last = _loads(model)
    copies = copies_of([model])[model.pk]
    return {
        "model": model,
        "node": model.node,
        "place": here,
        "others": others,
        "capabilities": capabilities(model),
        "profile": LoadProfile.of(model),
        "policy": policy if policy and policy.auto_evict_seen_at else None,
        "copies": copies,
        "command": under_way,
        "last": last,
        "reading": reading,
        "stamp": stamp(reading.machine if reading else None, copies, policy),
        "can_load": model.node.kind == Kind.LMSTUDIO and model.gone_at is None,
        "user": user,
        "permissions": user.get_all_permissions(),
    }


def _everywhere(model: Model) -> list:
    """The model's place on this node, then on the others that have it."""
    others = Model.objects.present().filter(key=model.key).exclude(pk=model.pk).select_related("node")
    return places([model, *others.order_by("node__name")])


def _loads(model: Model) -> tuple[Command | None, Command | None]:
    """The load of this model that is under way, and the last one that ended."""
    commands = model.node.commands.filter(action=LOAD).select_related("user")[:LOADS_SHOWN]
    mine = [command for command in commands if command.parameters.get("model") == model.key]
    under_way = next((command for command in reversed(mine) if command.is_open), None)
    return under_way, next((command for command in mine if not command.is_open), None)


def stamp(machine: Machine | None, copies, policy: NodePolicy | None) -> str:
    """Changes when another fit is to be expected: memory came or went, or a copy, or what may be held."""
    free = [(gpu.memory_free_bytes or 0) // FINENESS for gpu in machine.gpus] if machine else []
    ram = (machine.ram_used_bytes or 0) // 2**28 if machine and not machine.gpus else 0
    held = [(copy.instance.pk, copy.is_busy, copy.is_pinned) for copy in copies]
    return f"{free}{ram}{held}{policy.vram_budget_bytes if policy else None}"


# The fit


def fit_context(model: Model, parameters: dict) -> dict:
    """Would it fit? From what was measured last; nothing is asked of the node."""
    seen = preview(read(model.node, parameters), believes_old=False)
    fit = seen.fit_after
    gone = seen.decision.evict if seen.decision and seen.decision.is_possible else ()
    return {
        "model": model,
        "node": model.node,
        "can_load": True,
        "fit": fit,
        "size": fit.size,
        "learned": seen.learned,
        # What it needs is shown as figures; the sentence that has them all stays for logs and scripts.
        "sentences": [sentence for sentence in fit.sentences if not sentence.startswith("Needs ")],
        "evicted": [_evicted(resident) for resident in seen.residents if resident.id in gone],
        "in_the_way": _in_the_way(seen),
        "reading": seen.reading,
        "shares": fit.plan.shares if len(fit.plan.shares) > 1 or fit.plan.system_bytes else (),
        "decides_itself": seen.wish.layout.strategy is Strategy.AUTOMATIC and len(fit.plan.shares) > 1,
        "is_over": None not in (fit.size.total, fit.free_bytes) and fit.size.total > fit.free_bytes,
    }


def unfit_context(model: Model, form: LoadForm) -> dict:
    """The same while the form is not right."""
    reading = getattr(model.node, "reading", None)
    return {"model": model, "node": model.node, "can_load": True, "form": form, "reading": reading}


def _evicted(resident: Resident) -> dict:
    return {"id": resident.id, "idle_since": datetime.fromtimestamp(resident.used_at, UTC)}


def _in_the_way(seen: Preview) -> list[str]:
    if seen.decision is None or seen.decision.is_possible:
        return []
    return [IN_THE_WAY[why].format(model) for model, why in seen.decision.blockers]


def estimate_context(model: Model, parameters: dict) -> dict:
    """What LM Studio itself says that a load would take: asks the daemon, and waits for its answer."""
    wish: Wish = read(model.node, parameters)
    reading = getattr(model.node, "reading", None)
    return {"model": model, "told": loading.estimate(wish, reading.machine if reading else None)}
