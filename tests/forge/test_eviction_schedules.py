"""The eviction policy over random lives of a small node: loads, prompts, pins, idle time, on one to three GPUs.

The node keeps its own account of its memory, and every decision is compared with the best of all sets there are.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain, combinations

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from forge.eviction import EXHAUSTIVE, Decision, Resident, Why, expired, expires_at, make_room

GPU_BYTES = 24
MOST_COPIES = 6  # so that all sets can be tried


def subsets(some: Iterable) -> Iterable[tuple]:
    some = list(some)
    return chain.from_iterable(combinations(some, size) for size in range(len(some) + 1))


def ids(residents: Iterable[Resident]) -> frozenset[str]:
    return frozenset(one.id for one in residents)


def known_bytes(residents: Iterable[Resident]) -> int:
    return sum(sum((one.bytes_by_gpu or {}).values()) for one in residents)


def cost(some: Iterable[Resident]) -> tuple:
    some = list(some)
    used = sorted((one.used_at for one in some), reverse=True)
    return len(some), sum(one.is_busy for one in some), used, sorted(ids(some))


@dataclass(frozen=True)
class Copy:
    """`held`: its bytes on each GPU, which `resident` tells unless they are not known."""

    resident: Resident
    held: tuple[int, ...]


@dataclass
class SmallNode:
    """Loads, runs prompts and lets go, as the policy decides. Fails when memory overflows or work is cut."""

    gpu_count: int
    budget: int | None
    now: float = 0.0
    loads: int = 0
    copies: dict[str, Copy] = field(default_factory=dict)

    @property
    def residents(self) -> list[Resident]:
        return [copy.resident for copy in self.copies.values()]

    def free(self) -> dict[int, int]:
        return {gpu: GPU_BYTES - sum(copy.held[gpu] for copy in self.copies.values()) for gpu in range(self.gpu_count)}

    def free_without(self, gone: Iterable[Resident]) -> dict[int, int]:
        """As far as is known what they hold."""
        gone = [one.bytes_by_gpu or {} for one in gone]
        return {gpu: here + sum(parts.get(gpu, 0) for parts in gone) for gpu, here in self.free().items()}

    def load(self, held: tuple[int, ...], is_known: bool, ttl: float | None, leave: dict) -> None:
        held = held[: self.gpu_count]

        def has_room(gone: frozenset[str]) -> bool:
            stay = [one for one in self.residents if one.id not in gone]
            free = self.free_without([one for one in self.residents if one.id in gone])
            is_within = self.budget is None or known_bytes(stay) + sum(held) <= self.budget
            return is_within and all(free[gpu] >= part for gpu, part in enumerate(held))

        decision = make_room(has_room, self.residents, **leave)
        assert decision == make_room(has_room, self.residents[::-1], **leave)
        check(decision, has_room, self.residents, **leave)
        if decision.is_possible and len(self.copies) - len(decision.evict) < MOST_COPIES:
            for one in decision.evict:
                self.unload(one)
            self.keep(held, is_known, ttl)

    def keep(self, held: tuple[int, ...], is_known: bool, ttl: float | None) -> None:
        self.loads += 1
        name = f"copy-{self.loads}"
        by_gpu = dict(enumerate(held)) if is_known else None
        self.copies[name] = Copy(Resident(name, f"model-{self.loads}", by_gpu, self.now, ttl_seconds=ttl), held)
        assert min(self.free().values()) >= 0, "the load found no room"
        assert not is_known or self.budget is None or known_bytes(self.residents) <= self.budget, "over the budget"

    def unload(self, name: str) -> None:
        resident = self.copies.pop(name).resident
        assert not resident.is_busy, "work was cut"
        assert not resident.is_pinned

    def change(self, place: int, what: str) -> None:
        """Turn a property of one copy over; a prompt that starts or ends counts as use."""
        if not self.copies:
            return
        name = sorted(self.copies)[place % len(self.copies)]
        copy = self.copies[name]
        resident = replace(copy.resident, **{what: not getattr(copy.resident, what)})
        if what == "is_busy":
            resident = replace(resident, used_at=self.now)
        self.copies[name] = replace(copy, resident=resident)

    def wait(self, seconds: int) -> None:
        self.now += seconds
        over = expired(self.residents, self.now)
        assert [self.copies[name].resident.used_at for name in over] == sorted(
            self.copies[name].resident.used_at for name in over
        )
        for name in over:
            self.unload(name)
        ends = [expires_at(one) for one in self.residents]
        assert all(end is None or end > self.now for end in ends), "one was kept past its time"


def check(decision: Decision, has_room, residents, may_take_wanted: bool, may_drain: bool) -> None:
    """Compare a decision with every other that could have been taken."""
    may_go = [one for one in residents if not one.is_pinned and (may_take_wanted or not one.is_wanted)]
    idle = [one for one in may_go if not one.is_busy]
    best = [
        min((some for some in subsets(free) if has_room(ids(some))), key=cost, default=None) for free in (idle, may_go)
    ]
    chosen = best[0] if best[0] is not None or not may_drain else best[1]
    if chosen is None:
        allowed = may_go if may_drain else idle
        assert (decision.evict, decision.drain, decision.is_possible) == ((), (), False)
        assert set(decision.blockers) == in_the_way(has_room, residents, allowed, may_drain)
        return
    by_use = sorted(chosen, key=lambda one: (one.used_at, one.id))
    assert decision.evict == tuple(one.id for one in by_use if not one.is_busy)
    assert decision.drain == tuple(one.id for one in by_use if one.is_busy)
    assert decision.is_possible == (not decision.drain)
    assert set(decision.blockers) == {(one.model, Why.BUSY) for one in chosen if one.is_busy}


def in_the_way(has_room, residents, allowed, may_drain: bool) -> set[tuple[str, Why]]:
    if not has_room(ids(residents)):
        unknown = {(one.model, Why.UNKNOWN) for one in residents if one.bytes_by_gpu is None}
        return unknown or {("", Why.TOO_LARGE)}
    others = ids(residents) - ids(allowed)
    states = [(ids(allowed) | set(some), has_room(ids(allowed) | set(some))) for some in subsets(others)]
    helping = {
        one.id
        for one in residents
        for gone, fits in states
        if fits and one.id in gone and one.id in others and not has_room(gone - {one.id})
    }
    return {(one.model, reason(one, may_drain)) for one in residents if one.id in helping}


def reason(resident: Resident, may_drain: bool) -> Why:
    if resident.is_pinned:
        return Why.PINNED
    return Why.BUSY if resident.is_busy and not may_drain else Why.WANTED


LEAVES = st.fixed_dictionaries({"may_take_wanted": st.booleans(), "may_drain": st.booleans()})
PARTS = st.tuples(*[st.integers(0, GPU_BYTES // 2)] * 3)
TTLS = st.sampled_from([None, None, None, 2, 5])
LOADS = st.tuples(st.just("load"), PARTS, st.integers(0, 7).map(bool), TTLS, LEAVES)
CHANGES = st.tuples(
    st.just("change"), st.integers(0, MOST_COPIES), st.sampled_from(["is_busy", "is_pinned", "is_wanted"])
)
WAITS = st.tuples(st.just("wait"), st.integers(0, 2))


@given(
    st.integers(1, 3),
    st.none() | st.integers(8, 40),
    st.lists(LOADS | LOADS | CHANGES | WAITS, min_size=25, max_size=40),
)
@hypothesis_settings(max_examples=80)
def test_it_keeps_a_small_node_in_order(gpu_count, budget, steps):
    node = SmallNode(gpu_count, budget)
    for verb, *details in steps:
        getattr(node, verb)(*details)


COPIES = st.builds(
    lambda held, used_at, is_busy, is_pinned: Resident("", "m", held, used_at, is_busy, is_pinned),
    st.fixed_dictionaries({0: st.integers(0, 9), 1: st.integers(0, 9)}),
    st.integers(0, 9),
    st.integers(0, 9).map(lambda number: not number),
    st.integers(0, 9).map(lambda number: not number),
)


@given(st.lists(COPIES, min_size=EXHAUSTIVE + 6, max_size=EXHAUSTIVE + 10), st.integers(0, 60), st.integers(0, 60))
@hypothesis_settings(max_examples=30)
def test_it_takes_nothing_in_vain_from_a_crowd(copies, first, second):
    residents = [replace(one, id=f"copy-{place}") for place, one in enumerate(copies)]
    by_id = {one.id: one for one in residents}

    def has_room(gone: frozenset[str]) -> bool:
        held = [by_id[one].bytes_by_gpu for one in gone]
        return sum(parts[0] for parts in held) >= first and sum(parts[1] for parts in held) >= second

    decision = make_room(has_room, residents)
    gone = frozenset(decision.evict)

    assert not any(by_id[one].is_busy or by_id[one].is_pinned for one in gone)
    assert decision == make_room(has_room, residents[::-1])
    if decision.is_possible:
        assert has_room(gone)
        assert not any(has_room(gone - {one}) for one in gone)
    else:
        assert not has_room(ids(one for one in residents if not one.is_busy and not one.is_pinned))
