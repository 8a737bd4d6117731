"""Which lane may start how many prompts on which node. Pure: lanes, nodes and the clock in, decisions out.

LM Studio's JIT loading evicts a model that is still generating when another one is asked for (contract §12.2), so
we never ask a node for a model it has not loaded while it works for another one.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

DEFAULT_SLOTS = 4  # where a daemon does not tell; daemons queue inside what is too much


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model on a node. `is_loaded` None: this kind of node does not tell, and needs no care from us."""

    is_loaded: bool | None
    slots: int | None


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node. `models` by key; `running` counts our prompts there by model key."""

    id: int
    is_online: bool
    models: dict[str, ModelView]
    running: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LaneView:
    """A lane with due prompts. `waiting` counts them by the node they are pinned to (None = any).

    `waiting_since`: when its first due prompt came or the lane was last served, whichever is later (seconds).
    """

    id: int
    model: str
    waiting: dict[int | None, int]
    waiting_since: float
    top_priority: int = 0
    is_paused: bool = False
    limit: int | None = None

    def waiting_for(self, node_id: int) -> int:
        return self.waiting.get(None, 0) + self.waiting.get(node_id, 0)


class Why(StrEnum):
    """Why a lane with due prompts starts none on a node right now. The order is from most to least final."""

    PAUSED = "paused"
    NO_NODE = "no_node"  # no enabled node has the model
    NODE_OFFLINE = "node_offline"  # the nodes that have it do not answer
    SLOTS_FULL = "slots_full"  # all slots are taken by this lane's own prompts
    LOADING = "loading"  # its first prompt there is loading the model
    WAITS_FOR_SWAP = "waits_for_swap"  # the node works for another model
    TURN_OF_ANOTHER = "turn_of_another"  # another lane has waited too long and gets the node next


@dataclass(frozen=True, slots=True)
class Start:
    """`loads`: the model is not loaded there; the first request loads it."""

    lane_id: int
    node_id: int
    count: int
    loads: bool = False


@dataclass(slots=True)
class Plan:
    """`open`: the (lane id, node id) pairs that may go on by themselves until the next plan, with their slots."""

    starts: list[Start] = field(default_factory=list)
    open: dict[tuple[int, int], int] = field(default_factory=dict)
    why: dict[int, tuple[Why, str]] = field(default_factory=dict)  # lane id → reason, the model in the way


def slots(lane: LaneView, model: ModelView) -> int:
    """How many prompts of a lane may run at once on a node."""
    offered = model.slots or DEFAULT_SLOTS
    return min(offered, lane.limit) if lane.limit else offered


def plan(lanes: list[LaneView], nodes: list[NodeView], now: float, max_wait: float) -> Plan:
    """Decide for every lane and node.

    1. A paused lane starts nothing; nor does one whose model no online node has.
    2. A node whose work does not depend on what is loaded serves every lane up to its slots.
    3. On other nodes one unloaded lane may hold the next turn (see `_turn`). It starts when nothing else runs
       there, with one prompt, whose request loads the model.
    4. A lane whose model is loaded starts up to its slots, unless a starving lane holds the turn: then the node
       drains. Nor while another model is being loaded: that may have evicted this one, and we see it only later.
    5. Everybody else waits, and the plan says for what.
    """
    decided = Plan()
    left = {lane.id: Counter(lane.waiting) for lane in lanes}
    ready = [lane for lane in lanes if _may_start(lane, nodes, decided)]  # 1
    for node in sorted(nodes, key=lambda node: (-_loaded_count(ready, node), sum(node.running.values()))):
        if not node.is_online:
            continue
        wanting = [lane for lane in ready if lane.model in node.models and _left(left[lane.id], node.id) > 0]
        turn, is_starving = _turn(wanting, node, now, max_wait)
        for lane in wanting:
            count, why = _decide(lane, node, turn, is_starving)
            count = min(count, _left(left[lane.id], node.id))
            if why and why[0] is Why.SLOTS_FULL:
                decided.open[lane.id, node.id] = slots(lane, node.models[lane.model])
            if count > 0:
                loads = node.models[lane.model].is_loaded is False
                decided.starts.append(Start(lane.id, node.id, count, loads))
                _take(left[lane.id], node.id, count)
            elif why:
                decided.why.setdefault(lane.id, why)
    return decided


def _may_start(lane: LaneView, nodes: list[NodeView], decided: Plan) -> bool:
    having = [node for node in nodes if lane.model in node.models and lane.waiting_for(node.id)]
    if lane.is_paused:
        decided.why[lane.id] = (Why.PAUSED, "")
    elif not having:
        decided.why[lane.id] = (Why.NO_NODE, "")
    elif not any(node.is_online for node in having):
        decided.why[lane.id] = (Why.NODE_OFFLINE, "")
    else:
        return True
    return False


def _turn(wanting: list[LaneView], node: NodeView, now: float, max_wait: float) -> tuple[LaneView | None, bool]:
    """The unloaded lane that gets the node next, and whether it has waited so long that others must stop for it.

    a. Starving lanes first, the longest waiting of them.
    b. Otherwise nobody, while a loaded lane has work or anything runs.
    c. Otherwise the most urgent lane, then the longest waiting.
    """
    unloaded = [
        lane for lane in wanting if node.models[lane.model].is_loaded is False and not node.running.get(lane.model)
    ]
    starving = [lane for lane in unloaded if now - lane.waiting_since >= max_wait]
    if starving:
        return min(starving, key=lambda lane: lane.waiting_since), True  # a
    loaded_has_work = any(node.models[lane.model].is_loaded for lane in wanting)
    if not unloaded or loaded_has_work or any(node.running.values()):
        return None, False  # b
    return min(unloaded, key=lambda lane: (-lane.top_priority, lane.waiting_since)), False  # c


def _decide(lane: LaneView, node: NodeView, turn: LaneView | None, is_starving: bool):
    """How many this lane may start here (the caller caps it by what waits), or why none."""
    model = node.models[lane.model]
    running = node.running.get(lane.model, 0)
    free = max(slots(lane, model) - running, 0)
    others = [key for key, count in node.running.items() if count and key != lane.model]
    if model.is_loaded is None:  # 2
        return free, (Why.SLOTS_FULL, "")
    if turn is lane:  # 3
        return (0, (Why.WAITS_FOR_SWAP, others[0])) if others else (1, None)
    if is_starving and turn is not None:  # 4
        return 0, (Why.TURN_OF_ANOTHER, turn.model)
    if model.is_loaded and not (loading := _loading(node, others)):
        return free, (Why.SLOTS_FULL, "")
    if model.is_loaded:
        return 0, (Why.WAITS_FOR_SWAP, loading[0])
    if running:  # 5
        return 0, (Why.LOADING, "")
    return 0, (Why.WAITS_FOR_SWAP, others[0] if others else _loaded_elsewhere(node, lane))


def _loading(node: NodeView, running: list[str]) -> list[str]:
    """Those of these models at work that are not loaded yet."""
    return [key for key in running if key not in node.models or node.models[key].is_loaded is False]


def _loaded_elsewhere(node: NodeView, lane: LaneView) -> str:
    """The model that the node serves instead, for the wording."""
    return next((key for key, model in node.models.items() if model.is_loaded and key != lane.model), "")


def _loaded_count(lanes: list[LaneView], node: NodeView) -> int:
    """How many of these lanes' models are loaded there: such nodes are filled first, so that nothing is loaded
    again while a copy of it has room."""
    return sum(1 for lane in lanes if (model := node.models.get(lane.model)) and model.is_loaded)


def _left(waiting: Counter, node_id: int) -> int:
    return waiting[None] + waiting[node_id]


def _take(waiting: Counter, node_id: int, count: int) -> None:
    """Pinned prompts count first: nobody else can run them."""
    pinned = min(count, waiting[node_id])
    waiting[node_id] -= pinned
    waiting[None] -= count - pinned
