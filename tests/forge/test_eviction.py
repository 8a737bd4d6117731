"""The eviction policy: a table of situations for each of its questions. Bytes are small numbers here."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from forge.eviction import (
    EXHAUSTIVE,
    Decision,
    HasRoom,
    Resident,
    Why,
    detect_auto_evict,
    expired,
    expires_at,
    make_room,
)

NOW = 1000.0
BUSY, PINNED, WANTED = {"is_busy": True}, {"is_pinned": True}, {"is_wanted": True}
ALREADY = Decision((), True, ())

Needs = Callable[[Mapping[int, int]], bool]


def copy(name: str, held: int | dict | None, used_at: float, **fields) -> Resident:
    """A loaded copy `name` of the model `name`.upper(); an int says what it holds on GPU 0."""
    return Resident(name, name.upper(), {0: held} if isinstance(held, int) else held, used_at, **fields)


def on_one(need: int) -> Needs:
    return lambda free: max(free.values(), default=0) >= need


def over_all(need: int) -> Needs:
    return lambda free: sum(free.values()) >= need


def on_each(need: int) -> Needs:
    return lambda free: min(free.values()) >= need


def room(gpus_free: Mapping[int, int], residents: list[Resident], needs: Needs) -> HasRoom:
    """Ask `needs` with the bytes that would be free on each GPU."""

    def has_room(ids: frozenset[str]) -> bool:
        gone = [one.bytes_by_gpu or {} for one in residents if one.id in ids]
        return needs({gpu: free + sum(parts.get(gpu, 0) for parts in gone) for gpu, free in gpus_free.items()})

    return has_room


def evicts(*ids: str) -> Decision:
    return Decision(ids, True, ())


def blocked(*blockers: tuple[str, Why]) -> Decision:
    return Decision((), False, blockers)


TAKES, DRAINS = {"may_take_wanted": True}, {"may_drain": True}
ROOM_CASES = {
    "1 an empty node with room": ([], {0: 24}, on_one(24), {}, ALREADY),
    "1 room beside the others": ([copy("a", 8, 1)], {0: 16}, on_one(16), {}, ALREADY),
    "1 room already, although it might take and drain": (
        [copy("a", 8, 1, **BUSY)], {0: 16}, on_one(16), TAKES | DRAINS, ALREADY,
    ),
    "2 an old busy one stays": ([copy("a", 8, 1, **BUSY), copy("b", 8, 9)], {0: 0}, on_one(8), {}, evicts("b")),
    "2 an old pinned one stays": ([copy("a", 8, 1, **PINNED), copy("b", 8, 9)], {0: 0}, on_one(8), {}, evicts("b")),
    "2 an old wanted one stays": ([copy("a", 8, 1, **WANTED), copy("b", 8, 9)], {0: 0}, on_one(8), {}, evicts("b")),
    "2 a wanted one goes for who may take it": (
        [copy("a", 8, 1, **WANTED), copy("b", 8, 9)], {0: 0}, on_one(8), TAKES, evicts("a"),
    ),
    "2 a pinned one stays, whatever else may go": (
        [copy("a", 8, 1, **PINNED, **WANTED)], {0: 0}, on_one(8), TAKES | DRAINS, blocked(("A", Why.PINNED)),
    ),
    "3 the only one": ([copy("a", 8, 1)], {0: 0}, on_one(8), {}, evicts("a")),
    "3 a large recent one rather than two old ones": (
        [copy("a", 8, 1), copy("b", 8, 2), copy("c", 16, 9)], {0: 0}, on_one(16), {}, evicts("c"),
    ),
    "3 the least recently used of equals": (
        [copy("a", 8, 5), copy("b", 8, 2), copy("c", 8, 9)], {0: 0}, on_one(8), {}, evicts("b"),
    ),
    "3 of pairs the one whose newest is the oldest": (
        [copy("c", 4, 1), copy("b", 4, 6), copy("a", 4, 5)], {0: 8}, on_one(16), {}, evicts("c", "a"),
    ),
    "3 the newest counts first: 5 and 4 before 6 and 1": (
        [copy("a", {0: 8}, 1), copy("b", {1: 8}, 6), copy("c", {0: 4, 1: 4}, 4), copy("d", {0: 4, 1: 4}, 5)],
        {0: 0, 1: 0}, on_each(8), {}, evicts("c", "d"),
    ),
    "3 the names decide among those used at the same time": (
        [copy("c", 8, 5), copy("b", 8, 5), copy("d", 8, 5)], {0: 0}, on_one(8), {}, evicts("b"),
    ),
    "3 the oldest goes first": (
        [copy("b", 8, 9), copy("a", 8, 5), copy("c", 8, 7)], {0: 0}, on_one(24), {}, evicts("a", "c", "b"),
    ),
    "3 an old small one that is of no use stays": (
        [copy("a", 1, 1), copy("b", 8, 9)], {0: 0}, on_one(8), {}, evicts("b"),
    ),
    "3 the GPU that it needs": (
        [copy("a", {0: 8}, 1), copy("b", {1: 16}, 9)], {0: 0, 1: 8}, on_one(24), {}, evicts("b"),
    ),
    "3 some of both GPUs": (
        [copy("a", {0: 8}, 1), copy("b", {1: 8}, 2), copy("c", {0: 8}, 3)], {0: 0, 1: 0}, on_each(8), {},
        evicts("a", "b"),
    ),
    "3 one that lies on both GPUs": (
        [copy("a", {0: 8}, 1), copy("b", {1: 8}, 2), copy("c", {0: 8, 1: 8}, 3)], {0: 0, 1: 0}, on_each(8), {},
        evicts("c"),
    ),
    "3 one of which nothing is known stays where another is enough": (
        [copy("a", None, 1), copy("b", 8, 2)], {0: 0}, on_one(8), {}, evicts("b"),
    ),
    "4 nothing drains without leave": (
        [copy("a", 8, 1, **BUSY)], {0: 0}, on_one(8), TAKES, blocked(("A", Why.BUSY)),
    ),
    "4 a busy one drains": (
        [copy("a", 8, 1, **BUSY)], {0: 0}, on_one(8), DRAINS,
        Decision((), False, (("A", Why.BUSY),), ("a",)),
    ),
    "4 what can go now goes, though it is more": (
        [copy("a", 4, 8), copy("b", 4, 9), copy("c", 8, 1, **BUSY)], {0: 0}, on_one(8), DRAINS, evicts("a", "b"),
    ),
    "4 the fewest": (
        [copy("a", 4, 1), copy("b", 4, 2, **BUSY), copy("c", 8, 9, **BUSY)], {0: 0}, on_one(8), DRAINS,
        Decision((), False, (("C", Why.BUSY),), ("c",)),
    ),
    "4 of equally many the fewest busy, though they were used later": (
        [copy("a", 4, 1, **BUSY), copy("b", 4, 2, **BUSY), copy("c", 4, 9)], {0: 0}, on_one(8), DRAINS,
        Decision(("c",), False, (("A", Why.BUSY),), ("a",)),
    ),
    "4 the least recently used busy one": (
        [copy("a", 8, 5, **BUSY), copy("b", 8, 2, **BUSY)], {0: 0}, on_one(8), DRAINS,
        Decision((), False, (("B", Why.BUSY),), ("b",)),
    ),
    "4 a wanted busy one does not drain": (
        [copy("a", 8, 1, **BUSY, **WANTED)], {0: 0}, on_one(8), DRAINS, blocked(("A", Why.WANTED)),
    ),
    "4 a wanted busy one drains for who may take it": (
        [copy("a", 8, 1, **BUSY, **WANTED)], {0: 0}, on_one(8), DRAINS | TAKES,
        Decision((), False, (("A", Why.BUSY),), ("a",)),
    ),
    "5 too large for the empty node": (
        [copy("a", 8, 1, **BUSY)], {0: 16}, on_one(25), {}, blocked(("", Why.TOO_LARGE)),
    ),
    "5 too large where nothing is loaded": ([], {0: 24}, on_one(25), {}, blocked(("", Why.TOO_LARGE))),
    "5 a node without a GPU": ([], {}, on_one(1), {}, blocked(("", Why.TOO_LARGE))),
    "5 what one holds is not known, so it may be what is in the way": (
        [copy("a", None, 2), copy("b", 8, 1)], {0: 0}, on_one(16), {}, blocked(("A", Why.UNKNOWN)),
    ),
    "5 each with its own reason, the oldest first": (
        [copy("a", 8, 3, **BUSY), copy("b", 8, 1, **WANTED), copy("c", 8, 2, **PINNED)], {0: 0}, on_one(8), {},
        blocked(("B", Why.WANTED), ("C", Why.PINNED), ("A", Why.BUSY)),
    ),
    "5 pinned weighs more than busy, busy more than wanted": (
        [copy("a", 8, 1, **BUSY, **PINNED), copy("b", 8, 2, **BUSY, **WANTED)], {0: 0}, on_one(8), {},
        blocked(("A", Why.PINNED), ("B", Why.BUSY)),
    ),
    "5 those that would not help are not in the way": (
        [copy("a", {0: 8}, 1, **BUSY), copy("b", {1: 20}, 2, **BUSY)], {0: 0, 1: 0}, on_one(20), {},
        blocked(("B", Why.BUSY)),
    ),
    "5 one too small to matter beside one that is enough": (
        [copy("a", 1, 1, **BUSY), copy("b", 8, 2, **PINNED)], {0: 0}, on_one(8), {}, blocked(("B", Why.PINNED)),
    ),
    "5 those that only help together": (
        [copy("a", 4, 1, **BUSY), copy("b", 4, 2, **PINNED), copy("c", 4, 3)], {0: 0}, on_one(12), {},
        blocked(("A", Why.BUSY), ("B", Why.PINNED)),
    ),
    "5 either the one or the two others": (
        [copy("a", 8, 1, **PINNED), copy("b", 4, 2, **BUSY), copy("c", 4, 3, **BUSY)], {0: 0}, on_one(8), {},
        blocked(("A", Why.PINNED), ("B", Why.BUSY), ("C", Why.BUSY)),
    ),
    "5 a model with two copies is named once": (
        [replace(copy("a", 8, 1, **BUSY), model="M"), replace(copy("b", 8, 2, **BUSY), model="M")], {0: 0}, on_one(8),
        {}, blocked(("M", Why.BUSY)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROOM_CASES)
def test_it_makes_room(name):
    residents, free, needs, leave, expected = ROOM_CASES[name]

    assert make_room(room(free, residents, needs), residents, **leave) == expected
    assert make_room(room(free, residents, needs), residents[::-1], **leave) == expected


def test_it_tries_one_of_which_nothing_is_known():
    old, new = copy("a", None, 1), copy("b", 8, 2)

    assert make_room(lambda ids: "a" in ids, [old, new]) == evicts("a")


def test_it_says_what_is_in_the_way_when_nothing_is_known_of_a_free_one():
    """Without the pinned one there is room for sure, so nothing unknown matters."""
    residents = [copy("a", None, 1), copy("b", 8, 2, **PINNED)]

    assert make_room(room({0: 0}, residents, on_one(8)), residents) == blocked(("B", Why.PINNED))


def test_it_finds_the_best_set_of_up_to_so_many():
    small = [copy(f"a{number:02}", 2, number) for number in range(EXHAUSTIVE - 1)]
    residents = [*small, copy("b", 6, 99)]

    assert make_room(room({0: 0}, residents, on_one(6)), residents) == evicts("b")


@pytest.mark.parametrize("fields", [{}, BUSY, PINNED])
def test_it_asks_little_enough_to_decide_between_two_prompts(fields):
    """Each question lays a model out anew, and the queue's runner waits for the answer."""
    for count in range(4, 2 * EXHAUSTIVE):
        asked = []
        residents = [copy(f"a{number:02}", 2, number, **fields) for number in range(count)]
        make_room(lambda ids: asked.append(ids) or len(ids) == count, residents, may_drain=True)  # noqa: B023
        assert len(asked) <= 1100


# Many copies: a good set instead of the best one

MANY = EXHAUSTIVE + 3


def many(**fields) -> list[Resident]:
    """The later in the alphabet, the longer ago; each holds 2."""
    return [copy(f"a{number:02}", 2, MANY - number, **fields) for number in range(MANY)]


def test_it_takes_the_oldest_of_many():
    residents = many()

    assert make_room(room({0: 0}, residents, on_one(6)), residents) == evicts("a12", "a11", "a10")


def test_it_spares_those_of_many_that_are_not_needed():
    residents = [*many(), copy("b", {1: 8}, 99)]

    assert make_room(room({1: 0}, residents, on_one(8)), residents) == evicts("b")


def test_it_spares_the_newer_of_many_where_either_will_do():
    residents = [*many(), copy("b", 5, 2.5)]

    assert make_room(room({0: 0}, residents, on_one(7)), residents) == evicts("a12", "b")


def test_it_drains_as_few_of_many_as_it_must():
    residents = [*many(is_busy=True), copy("b", 3, 99), copy("c", 1, 98)]
    decision = make_room(room({0: 0}, residents, on_one(5)), residents, may_drain=True)

    assert decision == Decision(("b",), False, (("A12", Why.BUSY),), ("a12",))


def test_it_names_all_of_many_that_stay():
    residents = many(is_pinned=True)
    names = {f"A{number:02}" for number in range(MANY)}

    blockers = make_room(room({0: 0}, residents, on_one(6)), residents).blockers
    assert {model for model, _ in blockers} == names
    assert {why for _, why in blockers} == {Why.PINNED}


# Idle time

IDLE = copy("a", 8, NOW - 60, ttl_seconds=60)
END_CASES = {
    "its time after its last use": (IDLE, NOW),
    "none": (replace(IDLE, ttl_seconds=None), None),
    "pinned": (replace(IDLE, is_pinned=True), None),
    "busy": (replace(IDLE, is_busy=True), None),
    "wanted": (replace(IDLE, is_wanted=True), NOW),
    "at once": (replace(IDLE, ttl_seconds=0), NOW - 60),
}


@pytest.mark.parametrize("name", END_CASES)
def test_it_tells_when_idle_time_ends(name):
    resident, expected = END_CASES[name]

    assert expires_at(resident) == expected


def test_it_lets_idle_ones_go_when_their_time_is_over():
    assert expired([IDLE], NOW - 0.1) == ()
    assert expired([IDLE], NOW) == ("a",)


def test_it_lets_the_oldest_go_first_and_keeps_those_that_must_stay():
    residents = [
        copy("young", 8, NOW - 5, ttl_seconds=3),
        copy("busy", 8, NOW - 99, ttl_seconds=3, **BUSY),
        copy("old", 8, NOW - 50, ttl_seconds=49),
        copy("pinned", 8, NOW - 99, ttl_seconds=3, **PINNED),
        copy("for-ever", 8, NOW - 99),
        copy("not-yet", 8, NOW - 99, ttl_seconds=100),
    ]

    assert expired(residents, NOW) == ("old", "young")


# LM Studio's own auto-evict

EVICT_CASES = {
    "a copy gave way to another model": ({"a": "A"}, {"b": "B"}, {}, ("a", "b")),
    "beside one that stays": ({"a": "A", "c": "C"}, {"b": "B", "c": "C"}, {}, ("a", "b")),
    "its name went to the other model": ({"a": "A"}, {"a": "B"}, {}, ("a", "a")),
    "several: the first by name": ({"d": "D", "a": "A"}, {"c": "C", "b": "B"}, {}, ("a", "b")),
    "one of two that left was ours": ({"a": "A", "b": "B"}, {"c": "C"}, {"unloaded_by_us": ["a"]}, ("b", "c")),
    "nothing changed": ({"a": "A"}, {"a": "A"}, {}, None),
    "nothing there": ({}, {}, {}, None),
    "one only left": ({"a": "A"}, {}, {}, None),
    "one only came": ({"a": "A"}, {"a": "A", "b": "B"}, {}, None),
    "we unloaded it": ({"a": "A"}, {"b": "B"}, {"unloaded_by_us": ["a"]}, None),
    "its time was over": ({"a": "A"}, {"b": "B"}, {"expired": {"a"}}, None),
    "we loaded the other": ({"a": "A"}, {"b": "B"}, {"loaded_by_us": {"b"}}, None),
    "the same model came back under another name": ({"a": "A"}, {"a2": "A"}, {}, None),
    "another copy of a model that was there": ({"a": "A", "b": "B"}, {"b": "B", "b2": "B"}, {}, None),
}


@pytest.mark.parametrize("name", EVICT_CASES)
def test_it_detects_an_auto_evict(name):
    before, after, known, expected = EVICT_CASES[name]
    known = {"unloaded_by_us": (), "loaded_by_us": (), "expired": ()} | known

    assert detect_auto_evict(before, after, **known) == expected
