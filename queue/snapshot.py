"""What the scheduling policy looks at, read from the rows in a handful of queries."""

from collections import defaultdict

from django.conf import settings
from django.db.models import Count, Max, Min
from django.utils import timezone

from fleet.models import ANSWERING, Command
from fleet.models.command import LOAD
from forge import memories
from forge.models import Instance, Model
from forge.use import Use

from .models import Prompt
from .scheduling import plan
from .situation import LaneView, MemoryView, ModelView, NodeView, Plan
from .states import State

LANE_FIELDS = ("lane__model", "lane__is_paused", "lane__limit", "lane__served_at")


def nodes(waiting: list[LaneView]) -> list[NodeView]:
    """Enabled nodes that have chat models, and what runs there for us; their memory where a lane waits for a load."""
    models: dict[int, dict[str, ModelView]] = defaultdict(dict)
    online: dict[int, bool] = {}
    leaving = _leaving()
    rows = Model.objects.usable().order_by().values_list("node_id", "node__state", "pk", "key", "loaded", "slots")
    for node_id, state, pk, key, loaded, slots in rows:
        online[node_id] = state in ANSWERING
        stays = None if loaded is None else len(loaded) > leaving.get(pk, 0)
        models[node_id][key] = ModelView(stays, slots, pk in leaving)
    running: dict[int, dict[str, int]] = defaultdict(dict)
    sending = Prompt.objects.filter(state=State.SENDING).order_by().values_list("node_id", "lane__model")
    for node_id, model, count in sending.annotate(count=Count("pk")):
        running[node_id][model] = count
    seen = [NodeView(node_id, online[node_id], models[node_id], running[node_id]) for node_id in models]
    lacking = {node.id: missing for node in seen if (missing := _missing(node, waiting))}
    return _with_memory(seen, lacking, waiting) if lacking else seen


def _leaving() -> dict[int, int]:
    """Model's pk → how many of its copies are being unloaded: nothing more is given to those."""
    chosen = Instance.objects.filter(state=Instance.State.UNLOADING).order_by().values_list("model")
    return dict(chosen.annotate(count=Count("pk")))


def _missing(node: NodeView, waiting: list[LaneView]) -> set[str]:
    """Models that lanes wait for and that the node has not loaded."""
    if not node.is_online:
        return set()
    wanted = {lane.model for lane in waiting if not lane.is_paused and lane.waiting_for(node.id)}
    wanted |= {key for key, count in node.running.items() if count}  # one of them may be on its way into memory
    return {key for key in wanted if key in node.models and node.models[key].is_loaded is False}


def _with_memory(seen: list[NodeView], lacking: dict[int, set[str]], waiting: list[LaneView]) -> list[NodeView]:
    loading: dict[int, set[str]] = defaultdict(set)
    turns: dict[int, set[str]] = defaultdict(set)
    for command in Command.objects.open().filter(action=LOAD, node__in=lacking).only("node_id", "parameters"):
        model = str(command.parameters.get("model"))
        loading[command.node_id].add(model)
        if command.parameters.get("may_take_wanted"):
            turns[command.node_id].add(model)
    used = {
        (node.id, key): Use(node.running.get(key, 0), sum(lane.waiting_for(node.id) for lane in waiting
                                                          if lane.model == key and not lane.is_paused))
        for node in seen if node.id in lacking for key in node.models
    }  # fmt: skip
    known = memories.of_nodes(lacking, used)
    return [
        NodeView(node.id, node.is_online, node.models, node.running, frozenset(loading[node.id]),
                 frozenset(turns[node.id]), _view(known.get(node.id)))
        for node in seen
    ]  # fmt: skip


def _view(memory: memories.Memory | None) -> MemoryView | None:
    return memory and MemoryView(tuple(memory.residents), memory.has_room, memory.free_bytes)


def lanes() -> list[LaneView]:
    """Lanes with due prompts."""
    due = Prompt.objects.due().order_by().values("lane_id", "node_pin_id", *LANE_FIELDS)
    by_lane: dict[int, list[dict]] = defaultdict(list)
    for row in due.annotate(count=Count("pk"), oldest=Min("due_at"), top=Max("priority")):
        by_lane[row["lane_id"]].append(row)
    return [_lane(lane_id, rows) for lane_id, rows in by_lane.items()]


def _lane(lane_id: int, rows: list[dict]) -> LaneView:
    oldest = min(row["oldest"] for row in rows)
    served_at = rows[0]["lane__served_at"]
    return LaneView(
        id=lane_id,
        model=rows[0]["lane__model"],
        waiting={row["node_pin_id"]: row["count"] for row in rows},
        waiting_since=max(oldest, served_at or oldest).timestamp(),
        top_priority=max(row["top"] for row in rows),
        is_paused=rows[0]["lane__is_paused"],
        limit=rows[0]["lane__limit"],
        pinned_since={row["node_pin_id"]: row["oldest"].timestamp() for row in rows if row["node_pin_id"]},
    )


def make_plan() -> Plan:
    waiting = lanes()
    if not waiting:
        return Plan()
    return plan(waiting, nodes(waiting), timezone.now().timestamp(), settings.MAX_LANE_WAIT_SECONDS)
