"""Who stays in a node's memory: what must go for another model, what has been idle too long. Pure.

LM Studio's own auto-evict unloads models that are still generating (contract §12.2). Here nothing at work is ever
unloaded, and only as much goes as must.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import chain, combinations

# Copies of which every set is tried; beyond, a good set will do. 1,024 sets take about 0.1 s, which the queue's runner
# spends between prompts; each copy more doubles it.
EXHAUSTIVE = 10

HasRoom = Callable[[frozenset[str]], bool]


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded copy of a model on one node. Times are unix seconds, and `ttl_seconds` None means that it stays.

    `id`: the instance's identifier. `bytes_by_gpu`: what it holds on each GPU, measured or estimated; None = not
    known. `used_at`: when it was last known to work, or was loaded. `is_busy`: a prompt runs on it, one is about
    to, or it is being loaded. `is_wanted`: prompts wait for it.
    """

    id: str
    model: str
    bytes_by_gpu: Mapping[int, int] | None
    used_at: float
    is_busy: bool = False
    is_pinned: bool = False
    is_wanted: bool = False
    ttl_seconds: float | None = None


class Why(StrEnum):
    """What stands in the way of a load."""

    BUSY = "busy"
    PINNED = "pinned"
    WANTED = "wanted"  # prompts wait for it
    TOO_LARGE = "too_large"  # the empty node has no room for it either; names no model
    UNKNOWN = "unknown"  # there may be room without it: what it holds is not known


@dataclass(frozen=True, slots=True)
class Decision:
    """`evict` and `drain` hold instance ids, the least recently used first; both empty and possible: room already.

    `is_possible`: it can be done right now. Otherwise `blockers` say which models are in the way, and why. When
    `drain` names copies, they must finish first; `evict` may wait for them, since alone it makes too little room.
    """

    evict: tuple[str, ...]
    is_possible: bool
    blockers: tuple[tuple[str, Why], ...]
    drain: tuple[str, ...] = ()


def make_room(
    has_room: HasRoom, residents: Sequence[Resident], *, may_take_wanted: bool = False, may_drain: bool = False
) -> Decision:
    """Choose what is unloaded so that another model can be loaded.

    `has_room(ids)` tells whether it fits when these copies are gone; freeing more must never hurt. The same
    residents in another order get the same decision.

    1. There is room already: nothing goes.
    2. A busy or pinned copy never goes, a wanted one only with `may_take_wanted`.
    3. Of the others the fewest that make room; of equally many those whose most recent use is the longest ago.
       With more than `EXHAUSTIVE` of them: the least recently used until there is room, less those that turn out
       not to be needed. None of these can be spared, yet another set might be smaller.
    4. If that is not enough, with `may_drain`, busy ones too: the fewest copies, of these the fewest busy, of these
       again by use. A copy that drains is still used: whoever moves its `used_at` meanwhile may get another choice.
    5. Else it is not possible, and the blockers say why.
    """
    has_room = cache(has_room)  # a set may come up again
    if has_room(frozenset()):  # 1
        return Decision((), True, ())
    for may_wait in sorted({False, may_drain}):  # 3, then 4
        kept = {one.id: _kept_as(one, may_take_wanted, may_wait) for one in residents}  # 2
        chosen = _fewest(has_room, [one for one in residents if kept[one.id] is None])
        if chosen is not None:
            return _decision(chosen)
    return Decision((), False, _blockers(has_room, residents, kept))  # 5


def expires_at(resident: Resident) -> float | None:
    """When its idle time is over (unix seconds); None = not by itself: it is pinned, at work, or has no TTL."""
    if resident.is_pinned or resident.is_busy or resident.ttl_seconds is None:
        return None
    return resident.used_at + resident.ttl_seconds


def expired(residents: Iterable[Resident], now: float) -> tuple[str, ...]:
    """The ids of those whose idle time is over, the least recently used first."""
    return _in_order(one for one in residents if (end := expires_at(one)) is not None and end <= now)


def detect_auto_evict(
    before: Mapping[str, str],
    after: Mapping[str, str],
    unloaded_by_us: Collection[str],
    loaded_by_us: Collection[str],
    expired: Collection[str],
) -> tuple[str, str] | None:
    """Tell whether LM Studio's auto-evict was at work between two looks at a node (contract §6); None = no sign.

    `before` and `after` map instance ids to model keys; the others hold instance ids. The sign: a copy is gone that
    nobody here unloaded and whose TTL was not over, and a model is there that was not, and that we did not load.
    Returns the ids of both, the first by name where there are several.
    """
    explained = {*unloaded_by_us, *expired}
    gone = [one for one, model in before.items() if after.get(one) != model and one not in explained]
    known = set(before.values())  # a JIT load never adds a copy of a model that is loaded
    new = [one for one, model in after.items() if model not in known and one not in loaded_by_us]
    return (min(gone), min(new)) if gone and new else None


def _kept_as(resident: Resident, may_take_wanted: bool, may_drain: bool) -> Why | None:
    """Why it may not be chosen, the most lasting reason first; None = it may."""
    if resident.is_pinned:
        return Why.PINNED
    if resident.is_busy and not may_drain:
        return Why.BUSY
    return Why.WANTED if resident.is_wanted and not may_take_wanted else None


def _decision(chosen: Iterable[Resident]) -> Decision:
    evict = [one for one in chosen if not one.is_busy]
    drain = [one for one in chosen if one.is_busy]
    blockers = dict.fromkeys((one.model, Why.BUSY) for one in sorted(drain, key=_use))
    return Decision(_in_order(evict), not drain, tuple(blockers), _in_order(drain))


def _fewest(has_room: HasRoom, residents: Sequence[Resident]) -> tuple[Resident, ...] | None:
    """The best set that makes room (see `_cost`); None when even all of them do not."""
    if not has_room(_ids(residents)):
        return None
    if len(residents) > EXHAUSTIVE:
        return _greedy(has_room, residents)
    for size in range(1, len(residents)):
        for some in sorted(combinations(residents, size), key=_cost):
            if has_room(_ids(some)):
                return some
    return tuple(residents)


def _cost(some: Sequence[Resident]) -> tuple:
    """Orders sets of one size: few busy ones, then those whose most recent use is the longest ago, then by id."""
    used = sorted((one.used_at for one in some), reverse=True)
    return sum(one.is_busy for one in some), used, sorted(_ids(some))


def _greedy(has_room: HasRoom, residents: Sequence[Resident]) -> tuple[Resident, ...]:
    """From the idle and least recently used on until there is room, then without each one that can be spared."""
    chosen: list[Resident] = []
    for one in sorted(residents, key=lambda one: (one.is_busy, one.used_at, one.id)):
        chosen.append(one)
        if has_room(_ids(chosen)):
            break
    for one in reversed(chosen.copy()):
        if has_room(_ids(chosen) - {one.id}):
            chosen.remove(one)
    return tuple(chosen)


def _blockers(
    has_room: HasRoom, residents: Sequence[Resident], kept: Mapping[str, Why | None]
) -> tuple[tuple[str, Why], ...]:
    """Who is in the way when there is no room without those that are not `kept`, the least recently used first."""
    order = sorted(residents, key=_use)
    if not has_room(_ids(residents)):
        unknown = dict.fromkeys((one.model, Why.UNKNOWN) for one in order if one.bytes_by_gpu is None)
        return tuple(unknown) or (("", Why.TOO_LARGE),)
    would_help = _would_help(has_room, kept)
    return tuple(dict.fromkeys((one.model, kept[one.id]) for one in order if one.id in would_help))


def _would_help(has_room: HasRoom, kept: Mapping[str, Why | None]) -> frozenset[str]:
    """Those kept ones that are part of some set which makes room, with all the others, and has nothing to spare."""
    free = frozenset(one for one, why in kept.items() if why is None)
    others = kept.keys() - free
    if len(others) > EXHAUSTIVE:
        return frozenset(others)
    helping: frozenset[str] = frozenset()
    for some in map(frozenset, chain.from_iterable(combinations(others, n) for n in range(1, len(others) + 1))):
        is_news = not some <= helping and has_room(free | some)
        if is_news and not any(has_room(free | some - {one}) for one in some):
            helping |= some
    return helping


def _ids(residents: Iterable[Resident]) -> frozenset[str]:
    return frozenset(one.id for one in residents)


def _in_order(residents: Iterable[Resident]) -> tuple[str, ...]:
    return tuple(one.id for one in sorted(residents, key=_use))


def _use(resident: Resident) -> tuple[float, str]:
    return resident.used_at, resident.id
