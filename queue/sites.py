"""One node within one plan of the scheduler: what it can serve, and what it can load. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from forge.eviction import Decision, make_room
from forge.eviction import Why as Blocker

from .situation import LaneView, NodeView, Start, Why, slots


class Chance(NamedTuple):
    """What it costs others when a lane that has waited too long takes a node's turn; `take()` takes it."""

    cost: tuple
    take: Callable[[], None]


@dataclass
class Site(ABC):
    """`holder`: the lane that has the next turn, because it has waited too long. `started`: prompts of this plan by
    model. `loads`: the model whose load this plan starts."""

    node: NodeView
    holder: LaneView | None = None
    loads: str = ""

    def __post_init__(self):
        self.started: Counter[str] = Counter()

    def running(self, lane: LaneView) -> int:
        return self.node.running.get(lane.model, 0)

    @property
    def at_work(self) -> list[str]:
        return [key for key, count in self.node.running.items() if count]

    @property
    def arriving(self) -> str:
        """A model on its way into memory, "" for none: a prompt runs on it, or a command loads it."""
        models = self.node.models
        unloaded = [key for key in self.at_work if key not in models or models[key].is_loaded is False]
        return next(iter([*sorted(self.node.loading), *unloaded, *([self.loads] if self.loads else [])]), "")

    @property
    def preference(self) -> tuple:
        """Orders nodes for a load: most free memory, then the least busy."""
        memory = self.node.memory
        return -(memory.free_bytes if memory else 0), self._busy, self.node.id

    @property
    def _busy(self) -> int:
        return sum(self.node.running.values()) + self.started.total()

    def load_factor(self, lane: LaneView) -> float:
        return self._busy / slots(lane, self.node.models[lane.model])

    def offer(self, lane: LaneView) -> int:
        """Free slots for a lane whose model is loaded."""
        if lane.model not in self.node.models or not self.is_open(lane):
            return 0
        taken = self.running(lane) + self.started[lane.model]
        return max(0, slots(lane, self.node.models[lane.model]) - taken)

    def begin(self, lane: LaneView) -> None:
        self.started[lane.model] += 1

    def expected(self, lane: LaneView) -> int:
        """Slots that a copy which is being loaded will have free for a lane."""
        if not (self.is_coming(lane) or self.loads == lane.model):
            return 0
        return max(0, slots(lane, self.node.models[lane.model]) - self.running(lane) - self.started[lane.model])

    def is_coming(self, lane: LaneView) -> bool:
        model = self.node.models.get(lane.model)
        is_unloaded = model is not None and model.is_loaded is False
        return is_unloaded and (self.running(lane) > 0 or lane.model in self.node.loading)

    def load(self, lane: LaneView) -> Start | None:
        """Start a load with a lane's first prompt, if that can be now."""
        model = self.node.models.get(lane.model)
        is_free = self.holder in (None, lane) and not self.arriving
        is_away = model is not None and model.is_loaded is False and not model.is_leaving
        if not is_away or not is_free or not self._has_place(lane):
            return None
        self.loads = lane.model
        self.begin(lane)
        return Start(lane.id, self.node.id, 1, loads=True, may_take_wanted=self.holder is lane)

    def why(self, lane: LaneView) -> tuple[Why, str] | None:
        """Why it starts no more of a lane's prompts; None where it lacks the model."""
        model = self.node.models.get(lane.model)
        if model is None:
            return None
        if model.is_loaded is None:
            return Why.SLOTS_FULL, ""
        if self.holder is not None and self.holder is not lane and not self.is_open(lane):
            return Why.TURN_OF_ANOTHER, self.holder.model
        if model.is_loaded:
            return self._why_not_served(lane)
        return (Why.LOADING, "") if self.is_coming(lane) else self._why_not_loaded(lane)

    @abstractmethod
    def is_open(self, lane: LaneView) -> bool:
        """A lane's prompts may run here: its model is loaded and stays, or the node needs no care."""

    @abstractmethod
    def chance(self, lane: LaneView) -> Chance | None:
        """What it takes to load the model of a lane that has waited too long; None: it cannot be had here."""

    @abstractmethod
    def _has_place(self, lane: LaneView) -> bool: ...

    @abstractmethod
    def _why_not_served(self, lane: LaneView) -> tuple[Why, str]: ...

    @abstractmethod
    def _why_not_loaded(self, lane: LaneView) -> tuple[Why, str]: ...

    def _is_unloaded(self, lane: LaneView) -> bool:
        model = self.node.models.get(lane.model)
        is_away = model is not None and model.is_loaded is False and not self.is_coming(lane)
        return is_away and lane.waiting_for(self.node.id) > 0


class OneModelSite(Site):
    """A node whose memory cannot be measured: a model is loaded when nothing else is at work, and until it is loaded
    nothing else starts, because it may have been evicted, which we see only later."""

    def is_open(self, lane):
        model = self.node.models[lane.model]
        if model.is_loaded is None:
            return True
        return bool(model.is_loaded) and self.holder is None and not self.arriving

    def chance(self, lane):
        if not self._is_unloaded(lane) or self.holder is not None:
            return None
        return Chance((len(self.at_work), sum(self.node.running.values()), self.preference), lambda: self._take(lane))

    def _take(self, lane: LaneView) -> None:
        self.holder = lane

    def _has_place(self, lane):
        return not self.at_work and not self.started

    def _why_not_served(self, lane):
        return (Why.WAITS_FOR_SWAP, self.arriving) if self.arriving else (Why.SLOTS_FULL, "")

    def _why_not_loaded(self, lane):
        loaded = [key for key, model in self.node.models.items() if model.is_loaded]
        return Why.WAITS_FOR_SWAP, next(iter([*self.at_work, *loaded]), "")


class SharedSite(Site):
    """A node whose memory is measured: models lie side by side, and only what must goes for another one."""

    leaving: frozenset[str] = frozenset()  # models that must go for the holder

    def __post_init__(self):
        """A load that has a turn keeps it until its model is there: what must go for it gets no more prompts."""
        super().__post_init__()
        for key in self.node.turns & self.node.memory.has_room.keys():
            decision = make_room(
                self.node.memory.has_room[key], self._residents(), may_take_wanted=True, may_drain=True
            )
            self.leaving |= self._models((*decision.evict, *decision.drain))

    def is_open(self, lane):
        return bool(self.node.models[lane.model].is_loaded) and lane.model not in self.leaving

    def chance(self, lane):
        if not self._is_unloaded(lane) or self.holder is not None or self.arriving:
            return None
        decision = self._decide(lane, must=True)
        if decision is None or decision.is_possible or decision.drain:
            gone = () if decision is None else (*decision.evict, *decision.drain)
            models = self._models(gone) if decision else frozenset(one.model for one in self._residents())
            cost = (len(self.at_work) if decision is None else len(decision.drain), len(gone), self.preference)
            return Chance(cost, lambda: self._take(lane, models))
        return None

    def _take(self, lane: LaneView, leaving: frozenset[str]) -> None:
        self.holder, self.leaving = lane, leaving

    def _has_place(self, lane):
        decision = self._decide(lane, must=False)
        if decision is None:  # it may need all of the node, or more
            return not self.at_work and not self.started
        return decision.is_possible

    def _decide(self, lane: LaneView, must: bool) -> Decision | None:
        """As the eviction policy says; None where it needs an idle node: nobody knows its size, it is larger than the
        GPUs together, or what others hold is not known."""
        has_room = self.node.memory.has_room.get(lane.model)
        if has_room is None:
            return None
        may_take = must or self.holder is lane
        decision = make_room(has_room, self._residents(), may_take_wanted=may_take, may_drain=must)
        is_unclear = any(why in {Blocker.TOO_LARGE, Blocker.UNKNOWN} for _, why in decision.blockers)
        return None if is_unclear and not decision.is_possible else decision

    def _residents(self) -> list:
        """Those on which this plan starts prompts are busy too."""
        return [replace(one, is_busy=True) if self.started[one.model] else one for one in self.node.memory.residents]

    def _models(self, ids) -> frozenset[str]:
        return frozenset(one.model for one in self.node.memory.residents if one.id in ids)

    def _why_not_served(self, lane):
        return Why.SLOTS_FULL, ""

    def _why_not_loaded(self, lane):
        if self.arriving:
            return Why.LOADING_ANOTHER, self.arriving
        decision = self._decide(lane, must=False)
        blockers = decision.blockers if decision else ()
        pinned = [model for model, why in blockers if why is Blocker.PINNED]
        if pinned and len(pinned) == len(blockers):
            return Why.PINNED, pinned[0]
        others = [model for model, why in blockers if why is not Blocker.PINNED] or [*self.at_work, *self.started]
        return Why.WAITS_FOR_SWAP, next((model for model in others if model != lane.model), "")


def site_of(node: NodeView) -> Site:
    return OneModelSite(node) if node.memory is None else SharedSite(node)
