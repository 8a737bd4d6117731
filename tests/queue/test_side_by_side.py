"""The scheduling policy on nodes whose memory is measured: lanes side by side, and the fewest idle models go."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from daemonpulse.queue.scheduling import plan
from daemonpulse.queue.situation import LaneView, MemoryView, ModelView, NodeView, Plan, Why
from forge.eviction import Resident

NOW, MAX_WAIT, STARVING = 1000.0, 60.0, 61
OTTER, HERON, IBIS = 1, 2, 3
NAMES = {OTTER: "otter", HERON: "heron", IBIS: "ibis"}
GIB = {"otter": 8, "heron": 8, "ibis": 8, "whale": 40}


def lane(number: int, waiting=1, waited: float = 1.0, **fields) -> LaneView:
    waiting = waiting if isinstance(waiting, dict) else {None: waiting}
    return LaneView(number, NAMES[number], waiting, NOW - waited, **fields)


def box(
    number: int = 1, *, loaded=(), running=None, pinned=(), wanted=(), card=16, slots=2, loading=(), sizes=None,
    used=None,
) -> NodeView:  # fmt: skip
    """A node with one card of `card` GiB; every model takes 8 GiB unless `sizes` says otherwise."""
    sizes = {**GIB, **(sizes or {})}
    running, used = running or {}, used or {}
    held = [
        Resident(key, key, {0: sizes[key]}, used.get(key, 0), is_busy=running.get(key, 0) > 0, is_pinned=key in pinned,
                 is_wanted=key in wanted)
        for key in loaded
    ]  # fmt: skip
    free = card - sum(sizes[key] for key in loaded)

    def has_room(key):
        return lambda ids: free + sum(sizes[one] for one in ids) >= sizes[key]

    models = {key: ModelView(key in loaded, slots) for key in NAMES.values()}
    memory = MemoryView(tuple(held), {key: has_room(key) for key in NAMES.values()}, free)
    return NodeView(number, True, models, running, frozenset(loading), memory=memory)


def decide(lanes, nodes) -> Plan:
    return plan(lanes, nodes, NOW, MAX_WAIT)


def starts(decided: Plan) -> set[tuple]:
    return {(start.lane_id, start.node_id, start.count, start.loads) for start in decided.starts}


CASES = {
    "a model is loaded beside one at work, where it fits": (
        [lane(OTTER, 9), lane(HERON, 9)], [box(loaded=["otter"], running={"otter": 2})], {(HERON, 1, 1, True)},
        {OTTER: (Why.SLOTS_FULL, "")},
    ),
    "both loaded run side by side": (
        [lane(OTTER, 9), lane(HERON, 9)], [box(loaded=["otter", "heron"])],
        {(OTTER, 1, 2, False), (HERON, 1, 2, False)}, {},
    ),
    "a third waits for what is at work": (
        [lane(OTTER, 9), lane(HERON, 9), lane(IBIS, 9)],
        [box(loaded=["otter", "heron"], running={"otter": 2, "heron": 2}, wanted=["otter", "heron"])], set(),
        {OTTER: (Why.SLOTS_FULL, ""), HERON: (Why.SLOTS_FULL, ""), IBIS: (Why.WAITS_FOR_SWAP, "heron")},
    ),
    "an idle model that nobody waits for goes": (
        [lane(OTTER, 9), lane(IBIS, 9)], [box(loaded=["otter", "heron"], running={"otter": 2}, wanted=["otter"])],
        {(IBIS, 1, 1, True)}, {OTTER: (Why.SLOTS_FULL, "")},
    ),
    "an idle model that prompts wait for stays": (
        [lane(HERON, 9, is_paused=True), lane(IBIS, 9)],
        [box(loaded=["otter", "heron"], running={"otter": 2}, wanted=["heron"])], set(),
        {HERON: (Why.PAUSED, ""), IBIS: (Why.WAITS_FOR_SWAP, "heron")},
    ),
    "a pinned model stays": (
        [lane(IBIS)], [box(loaded=["otter", "heron"], pinned=["otter", "heron"])], set(),
        {IBIS: (Why.PINNED, "heron")},
    ),
    "one load at a time": (
        [lane(OTTER), lane(HERON, 2)], [box()], {(HERON, 1, 1, True)}, {OTTER: (Why.LOADING_ANOTHER, "heron")},
    ),
    "none while a command loads another": (
        [lane(HERON)], [box(loading=["otter"])], set(), {HERON: (Why.LOADING_ANOTHER, "otter")},
    ),
    "none of its own while a command loads it": (
        [lane(HERON, 3)], [box(loading=["heron"])], set(), {HERON: (Why.LOADING, "")},
    ),
    "what is loaded goes on while another one is being loaded": (
        [lane(OTTER, 9), lane(HERON, 9)], [box(loaded=["otter"], running={"heron": 1})], {(OTTER, 1, 2, False)},
        {HERON: (Why.LOADING, "")},
    ),
    "a starving lane makes one of two stop, and only one": (
        [lane(OTTER, 9), lane(HERON, 9), lane(IBIS, 9, waited=STARVING)],
        [box(loaded=["otter", "heron"], running={"otter": 1, "heron": 1}, wanted=["otter", "heron"],
             used={"otter": 5, "heron": 9})],
        {(HERON, 1, 1, False)}, {OTTER: (Why.TURN_OF_ANOTHER, "ibis"), IBIS: (Why.WAITS_FOR_SWAP, "otter")},
    ),
    "a starving lane takes what others wait for as soon as it is idle": (
        [lane(OTTER, 9), lane(HERON, 9), lane(IBIS, 9, waited=STARVING)],
        [box(loaded=["otter", "heron"], running={"heron": 2}, wanted=["otter", "heron"])],
        {(IBIS, 1, 1, True)}, {OTTER: (Why.TURN_OF_ANOTHER, "ibis"), HERON: (Why.SLOTS_FULL, "")},
    ),
    "what no empty card could hold waits for the idle node": (
        [lane(IBIS)], [box(loaded=["otter"], running={"otter": 1}, sizes={"ibis": 40})], set(),
        {IBIS: (Why.WAITS_FOR_SWAP, "otter")},
    ),
    "and is tried there: it may run partly on the processor": (
        [lane(IBIS)], [box(loaded=["otter"], sizes={"ibis": 40})], {(IBIS, 1, 1, True)}, {},
    ),
    "loaded comes before more free memory": (
        [lane(OTTER, 2)], [box(1, card=80), box(2, loaded=["otter"])], {(OTTER, 2, 2, False)}, {},
    ),
    "then the most free memory": ([lane(OTTER, 2)], [box(1), box(2, card=24)], {(OTTER, 2, 1, True)}, {}),
    "then the least busy": (
        [lane(OTTER, 2)],
        [box(1, card=24, loaded=["heron"], running={"heron": 2}), box(2, card=24, loaded=["ibis"])],
        {(OTTER, 2, 1, True)}, {},
    ),
    "a pin wins": ([lane(OTTER, {1: 1})], [box(1), box(2, loaded=["otter"])], {(OTTER, 1, 1, True)}, {}),
    "what the first copy cannot serve is worth another one": (
        [lane(OTTER, 9)], [box(1, loaded=["otter"], running={"otter": 2}), box(2)], {(OTTER, 2, 1, True)}, {},
    ),
    "the lane with more to do goes first among those that wait as long": (
        [lane(OTTER, 3), lane(HERON, 7), lane(IBIS, 5)], [box()], {(HERON, 1, 1, True)},
        {OTTER: (Why.LOADING_ANOTHER, "heron"), IBIS: (Why.LOADING_ANOTHER, "heron")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_decides(case):
    lanes, nodes, expected_starts, expected_why = CASES[case]

    decided = decide(lanes, nodes)

    assert starts(decided) == expected_starts
    assert decided.why == expected_why


def test_it_says_when_a_load_may_take_what_others_wait_for():
    full = box(loaded=["otter", "heron"], wanted=["otter", "heron"])
    starving = decide([lane(OTTER), lane(HERON), lane(IBIS, waited=STARVING)], [full])
    patient = decide([lane(IBIS)], [box(loaded=["otter"])])

    assert {start.lane_id: start.may_take_wanted for start in starving.starts if start.loads} == {IBIS: True}
    assert [start.may_take_wanted for start in patient.starts] == [False]


@st.composite
def situations(draw):
    keys = st.sampled_from(sorted(NAMES.values()))
    nodes = []
    for number in range(1, draw(st.integers(1, 2)) + 1):
        loaded = draw(st.sets(keys, max_size=2))
        running = draw(st.dictionaries(keys, st.integers(0, 2)))
        sizes = draw(st.dictionaries(keys, st.integers(1, 20)))
        nodes.append(
            box(number, loaded=sorted(loaded), running=running, pinned=draw(st.sets(keys)), sizes=sizes,
                wanted=draw(st.sets(keys)), loading=draw(st.sets(keys, max_size=1)) - loaded)
        )  # fmt: skip
    lanes = [lane(number, draw(st.integers(1, 9)), waited=draw(st.floats(0, 120))) for number in NAMES]
    return lanes, nodes


@given(situations())
@hypothesis_settings(max_examples=150)
def test_it_never_overdoes_it_and_always_says_why(situation):
    lanes, nodes = situation
    decided = decide(lanes, nodes)
    by_lane, by_node = {view.id: view for view in lanes}, {node.id: node for node in nodes}
    for node in nodes:
        assert sum(start.loads for start in decided.starts if start.node_id == node.id) <= 1
    for start in decided.starts:
        node, model = by_node[start.node_id], by_lane[start.lane_id].model
        assert start.count <= 2 - node.running.get(model, 0)
        assert start.loads == (not node.models[model].is_loaded)
        if start.loads:
            arriving = {key for key, count in node.running.items() if count and not node.models[key].is_loaded}
            assert not arriving and not node.loading
    started = {start.lane_id for start in decided.starts}
    assert all(view.id in started or view.id in decided.why for view in lanes)


def test_a_load_keeps_its_turn_until_its_model_is_there():
    full = box(loaded=["otter", "heron"], running={"ibis": 1}, wanted=["otter", "heron"], used={"otter": 5, "heron": 9})
    turn = replace(full, turns=frozenset({"ibis"}), loading=frozenset({"ibis"}))

    decided = decide([lane(OTTER, 9), lane(HERON, 9)], [turn])

    assert starts(decided) == {(HERON, 1, 2, False)}, "the one that must go gets nothing new"


def test_what_is_tied_to_a_node_is_not_forgotten_while_its_lane_is_served_elsewhere():
    busy = box(1, loaded=["heron", "ibis"], running={"heron": 1, "ibis": 1}, wanted=["heron", "ibis"])
    tied = lane(OTTER, {1: 1, None: 5}, pinned_since={1: NOW - STARVING})

    decided = decide([tied, lane(HERON, 9), lane(IBIS, 9)], [busy, box(2, loaded=["otter"])])

    assert (OTTER, 2, 2, False) in starts(decided)
    assert {start.lane_id for start in decided.starts if start.node_id == 1} in ({HERON}, {IBIS}), "one of them stops"


def test_a_model_that_is_being_unloaded_holds_up_no_other():
    node = box()
    models = node.models | {"otter": ModelView(False, 2, is_leaving=True)}

    decided = decide([lane(OTTER, 9), lane(HERON)], [replace(node, models=models)])

    assert starts(decided) == {(HERON, 1, 1, True)}
