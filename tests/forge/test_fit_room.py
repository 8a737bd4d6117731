"""The eviction policy's question (forge/sizing.py): does a load fit once some copies are gone? Sizes are GiB."""

import pytest

from fleet.allocation.planner import RESERVE_BYTES
from fleet.allocation.profile import Profile, Strategy
from fleet.telemetry.readings import Gpu, Machine
from forge.eviction import Decision, Resident, Why, make_room
from forge.fit.room import RAM
from forge.fit.size import Facts, Options, Size, Told, size_of
from forge.fit.verdict import Verdict, fit
from forge.sizing import has_room, memory_of

GIB = 2**30
SIMULATED = "simulated"  # such cards keep only a hundredth free, and pay no overhead
TWO = [  # what the third holds is not known
    Resident("a", "A", {0: 6 * GIB, 1: 2 * GIB}, 1),
    Resident("b", "B", {1: 4 * GIB}, 2),
    Resident("c", "C", None, 3),
]


def machine(*free, ram=64):
    gpus = [Gpu(index, "Card", memory_total_bytes=80 * GIB, memory_free_bytes=one) for index, one in enumerate(free)]
    return Machine(0, ram_total_bytes=ram * GIB, ram_used_bytes=0, gpus=tuple(gpus))


def size(weights, context: int | None = 0, backend=SIMULATED) -> Size:
    """A model of so many GiB."""
    told = Told(weights * GIB, None if context is None else context * GIB)
    return size_of(Facts(), Options(8192), backend, told=told)


def copies(*held, gpu=0) -> list[Resident]:
    """The earlier in the alphabet, the longer ago."""
    return [
        Resident(name, name.upper(), {gpu: one * GIB}, at)
        for at, (name, one) in enumerate(zip("abc", held, strict=False))
    ]


FREED_CASES = {
    "nothing gone": ("", None, {}, None),
    "one that lies on both": ("a", None, {0: 6, 1: 2}, None),
    "two": ("ab", None, {0: 6, 1: 6}, None),
    "one of which nothing is known": ("c", None, {}, None),
    "a budget, of which all that stay take their part": ("", 18, {}, 6),
    "a budget that is used up": ("", 12, {}, 0),
    "a budget that is exceeded": ("", 5, {}, 0),
    "who goes no longer counts against the budget": ("b", 18, {1: 4}, 10),
    "a budget for an empty node": ("abc", 9, {0: 6, 1: 6}, 9),
}


@pytest.mark.parametrize("name", FREED_CASES)
def test_it_tells_what_would_be_free(name):
    gone, budget, freed, left = FREED_CASES[name]
    memory = memory_of(machine(10 * GIB, 5 * GIB), TWO, budget and budget * GIB, frozenset(gone))

    assert {index: count / GIB for index, count in memory.freed_by_gpu.items()} == freed
    assert memory.budget_left_bytes == (None if left is None else left * GIB)


def test_a_budget_counts_the_machines_memory_only_where_there_is_no_gpu():
    held = [Resident("a", "A", {0: 6 * GIB, RAM: 3 * GIB}, 1)]

    assert memory_of(machine(10 * GIB), held, 18 * GIB).budget_left_bytes == 12 * GIB
    assert memory_of(machine(), held, 18 * GIB).budget_left_bytes == 15 * GIB


def test_it_agrees_with_the_verdict():
    needed = size(8, 2, "cuda")
    for spare in (RESERVE_BYTES, RESERVE_BYTES - 1, 0, -1):
        there = machine(needed.total + spare)
        judged = fit(
            Facts(), Options(8192), memory_of(there, (), None), Profile(), "cuda", told=Told(8 * GIB, 2 * GIB)
        ).verdict
        fits = has_room(needed, Profile(), there, (), None)
        fits_tightly = has_room(needed, Profile(), there, (), None, is_careful=False)

        assert fits(frozenset()) is (judged is Verdict.FITS)
        assert fits_tightly(frozenset()) is (judged in (Verdict.FITS, Verdict.TIGHT))


def test_it_counts_what_goes_only_on_the_gpus_that_the_profile_may_use():
    on_second = Profile(Strategy.DEDICATED, (1,))
    fits = has_room(size(8), on_second, machine(20 * GIB, GIB), [*copies(20), *TWO[1:2]], None)
    assert not fits(frozenset("a"))
    assert not fits(frozenset("ab"))
    fits = has_room(size(8), on_second, machine(0, GIB), copies(8, gpu=1), None)
    assert (fits(frozenset()), fits(frozenset("a"))) == (False, True)
    assert not has_room(size(8), on_second, machine(20 * GIB), (), None)(frozenset())


def test_it_looks_at_the_machines_memory_where_there_is_no_gpu():
    held = [Resident("a", "A", {RAM: 8 * GIB}, 1)]
    fits = has_room(size(8, backend="cpu"), Profile(), machine(ram=4), held, None)
    assert (fits(frozenset()), fits(frozenset("a"))) == (False, True)
    assert not has_room(size(8, backend="cuda"), Profile(), machine(ram=64), (), None)(frozenset())


def test_a_context_of_unknown_size_counts_nothing_and_a_model_of_unknown_size_fits_nowhere():
    assert has_room(size(8, context=None), Profile(), machine(9 * GIB), (), None)(frozenset())
    unknown = size_of(Facts(), Options(8192), SIMULATED)
    assert not has_room(unknown, Profile(), machine(80 * GIB), (), None)(frozenset())


BUDGET_CASES = {
    "just enough": (8, copies(8, 8), 24, Decision((), True, ())),
    "a little too little, though memory is free": (8, copies(8, 8), 23, Decision(("a",), True, ())),
    "too little even for the empty node": (24, copies(8, 8), 23, Decision((), False, (("", Why.TOO_LARGE),))),
    "what lies on GPUs that may not be used counts": (8, copies(20, gpu=1), 24, Decision(("a",), True, ())),
}


@pytest.mark.parametrize("name", BUDGET_CASES)
def test_a_budget_makes_copies_go(name):
    needed, held, budget, expected = BUDGET_CASES[name]
    first = Profile(Strategy.DEDICATED, (0,))
    fits = has_room(size(needed), first, machine(60 * GIB, 60 * GIB), held, budget * GIB)

    assert make_room(fits, held) == expected
