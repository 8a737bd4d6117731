"""What the scheduler looks at and what it decides: lanes, nodes and their memory in, starts out. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from forge.eviction import HasRoom, Resident

DEFAULT_SLOTS = 4  # where a daemon does not tell; daemons queue inside what is too much
ALIKE_SECONDS = 5.0  # lanes that wait about as long: the one with more to do goes first


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model on a node. `is_loaded` None: this kind of node does not tell, and needs no care from us. `is_leaving`: a
    copy of it is being unloaded."""

    is_loaded: bool | None
    slots: int | None
    is_leaving: bool = False


@dataclass(frozen=True, slots=True)
class MemoryView:
    """What a node holds, and by model key whether it fits when some of that is gone; models that are loaded, or that
    nobody waits for, may be left out. `free_bytes`: on all of its GPUs, or in its memory where it has none."""

    residents: tuple[Resident, ...]
    has_room: Mapping[str, HasRoom]
    free_bytes: int


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node. `models` by key; `running` counts our prompts there by model key; `loading` are models on their way into
    memory, `turns` those of them for which what others wait for goes. `memory` None: it cannot be measured."""

    id: int
    is_online: bool
    models: dict[str, ModelView]
    running: dict[str, int] = field(default_factory=dict)
    loading: frozenset[str] = frozenset()
    turns: frozenset[str] = frozenset()
    memory: MemoryView | None = None


@dataclass(frozen=True, slots=True)
class LaneView:
    """A lane with due prompts. `waiting` counts them by the node they are pinned to (None = any).

    `waiting_since`: when its first due prompt came or the lane was last served, whichever is later (seconds).
    `pinned_since`: by node, when the first that is due there and nowhere else came.
    """

    id: int
    model: str
    waiting: dict[int | None, int]
    waiting_since: float
    top_priority: int = 0
    is_paused: bool = False
    limit: int | None = None
    pinned_since: dict[int, float] = field(default_factory=dict)

    def waiting_for(self, node_id: int) -> int:
        return self.waiting.get(None, 0) + self.waiting.get(node_id, 0)

    @property
    def urgency(self) -> tuple:
        """Orders lanes that wait for a load: priority, then age, then how much there is to do."""
        return -self.top_priority, self.waiting_since // ALIKE_SECONDS, -sum(self.waiting.values()), self.waiting_since


class Why(StrEnum):
    """Why a lane with due prompts starts none on a node right now. The order is from most to least final."""

    PAUSED = "paused"
    NO_NODE = "no_node"  # no enabled node has the model
    NODE_OFFLINE = "node_offline"  # the nodes that have it do not answer
    PINNED = "pinned"  # a pinned model leaves no room
    SLOTS_FULL = "slots_full"  # all slots are taken by this lane's own prompts
    LOADING = "loading"  # its model is being loaded there
    LOADING_ANOTHER = "loading_another"  # another model is being loaded there, one after the other
    WAITS_FOR_SWAP = "waits_for_swap"  # the node works for another model
    TURN_OF_ANOTHER = "turn_of_another"  # another lane has waited too long and gets the node next


@dataclass(frozen=True, slots=True)
class Start:
    """`loads`: the model is not loaded there; the first prompt brings the load with it. `may_take_wanted`: what other
    prompts wait for may go for it."""

    lane_id: int
    node_id: int
    count: int
    loads: bool = False
    may_take_wanted: bool = False


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
