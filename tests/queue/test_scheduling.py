"""The scheduling policy: a table of situations, what it never does, and how a node fares under it."""

import heapq
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from daemonpulse.queue.scheduling import plan
from daemonpulse.queue.situation import LaneView, ModelView, NodeView, Plan, Start, Why, slots

NOW, MAX_WAIT = 1000.0, 60.0
OTTER, HERON, IBIS = 1, 2, 3
NAMES = {OTTER: "otter", HERON: "heron", IBIS: "ibis"}
ALL = ("otter", "heron", "ibis")


def lane(number: int, waiting=1, waited: float = 1.0, **fields) -> LaneView:
    """Lane 1 is of the model otter, 2 of heron, 3 of ibis."""
    waiting = waiting if isinstance(waiting, dict) else {None: waiting}
    return LaneView(number, NAMES[number], waiting, NOW - waited, **fields)


def box(number: int = 1, *, loaded=(), running=None, is_online=True, slots=4, models=ALL) -> NodeView:
    known = {key: ModelView(key in loaded, slots) for key in models}
    return NodeView(number, is_online, known, running or {})


def decide(lanes, nodes) -> Plan:
    return plan(lanes, nodes, NOW, MAX_WAIT)


def starts(decided: Plan) -> set[tuple[int, int, int]]:
    return {(start.lane_id, start.node_id, start.count) for start in decided.starts}


STARVING = 61
CASES = {
    "1 a paused lane starts nothing": (
        [lane(OTTER, is_paused=True)], [box(loaded=["otter"])], set(), {OTTER: (Why.PAUSED, "")},
    ),
    "1 a paused lane gets no turn": (
        [lane(OTTER, is_paused=True, waited=STARVING), lane(HERON)], [box(loaded=["heron"])], {(HERON, 1, 1)},
        {OTTER: (Why.PAUSED, "")},
    ),
    "1 no node has the model": (
        [lane(OTTER)], [box(models=["heron"])], set(), {OTTER: (Why.NO_NODE, "")},
    ),
    "1 there are no nodes": ([lane(OTTER)], [], set(), {OTTER: (Why.NO_NODE, "")}),
    "1 the node that has the model is offline": (
        [lane(OTTER)], [box(is_online=False), box(2, models=["heron"])], set(), {OTTER: (Why.NODE_OFFLINE, "")},
    ),
    "1 the node it is pinned to is offline, another is not": (
        [lane(OTTER, {1: 2})], [box(is_online=False), box(2)], set(), {OTTER: (Why.NODE_OFFLINE, "")},
    ),
    "1 it is pinned to a node that lacks the model": (
        [lane(OTTER, {2: 1})], [box(), box(2, models=["heron"])], set(), {OTTER: (Why.NO_NODE, "")},
    ),
    "2 a node that does not tell serves every lane": (
        [lane(OTTER, 9), lane(HERON, 2)],
        [NodeView(1, True, {"otter": ModelView(None, 3), "heron": ModelView(None, None)})],
        {(OTTER, 1, 3), (HERON, 1, 2)}, {},
    ),
    "2 up to its slots": (
        [lane(OTTER, 9)], [NodeView(1, True, {"otter": ModelView(None, None)}, {"otter": 4})], set(),
        {OTTER: (Why.SLOTS_FULL, "")},
    ),
    "3a a starving lane gets the idle node before a loaded one": (
        [lane(OTTER, 9, waited=STARVING), lane(HERON, 9)], [box(loaded=["heron"])], {(OTTER, 1, 1)},
        {HERON: (Why.TURN_OF_ANOTHER, "otter")},
    ),
    "3a the longest starving first": (
        [lane(OTTER, waited=70), lane(IBIS, waited=80), lane(HERON, top_priority=10)], [box()], {(IBIS, 1, 1)},
        {OTTER: (Why.TURN_OF_ANOTHER, "ibis"), HERON: (Why.TURN_OF_ANOTHER, "ibis")},
    ),
    "3a exactly the maximum wait is starving": (
        [lane(OTTER, waited=MAX_WAIT), lane(HERON)], [box(loaded=["heron"])], {(OTTER, 1, 1)},
        {HERON: (Why.TURN_OF_ANOTHER, "otter")},
    ),
    "3b nobody new while a loaded lane has work": (
        [lane(OTTER, waited=59), lane(HERON, 2)], [box(loaded=["heron"])], {(HERON, 1, 2)},
        {OTTER: (Why.WAITS_FOR_SWAP, "heron")},
    ),
    "3b nobody new while something runs": (
        [lane(OTTER)], [box(loaded=["heron"], running={"heron": 1})], set(), {OTTER: (Why.WAITS_FOR_SWAP, "heron")},
    ),
    "3c the most urgent": (
        [lane(OTTER, waited=9), lane(HERON, waited=1, top_priority=10)], [box()], {(HERON, 1, 1)},
        {OTTER: (Why.WAITS_FOR_SWAP, "")},
    ),
    "3c then the longest waiting": (
        [lane(OTTER, waited=1), lane(HERON, waited=9)], [box(loaded=["ibis"])], {(HERON, 1, 1)},
        {OTTER: (Why.WAITS_FOR_SWAP, "ibis")},
    ),
    "3 an unloaded lane starts with one prompt": ([lane(OTTER, 9)], [box()], {(OTTER, 1, 1)}, {}),
    "4 a loaded lane fills its slots": (
        [lane(OTTER, 9)], [box(loaded=["otter"], running={"otter": 1})], {(OTTER, 1, 3)}, {},
    ),
    "4 no more than wait": ([lane(OTTER, 2)], [box(loaded=["otter"])], {(OTTER, 1, 2)}, {}),
    "4 no more than the lane's limit": ([lane(OTTER, 9, limit=2)], [box(loaded=["otter"])], {(OTTER, 1, 2)}, {}),
    "4 a limit above the slots changes nothing": (
        [lane(OTTER, 9, limit=99)], [box(loaded=["otter"])], {(OTTER, 1, 4)}, {},
    ),
    "4 all slots taken": (
        [lane(OTTER)], [box(loaded=["otter"], running={"otter": 4})], set(), {OTTER: (Why.SLOTS_FULL, "")},
    ),
    "4 more running than slots": (
        [lane(OTTER)], [box(loaded=["otter"], running={"otter": 6})], set(), {OTTER: (Why.SLOTS_FULL, "")},
    ),
    "4 both loaded run side by side": (
        [lane(OTTER, 9), lane(HERON, 1)], [box(loaded=["otter", "heron"], running={"otter": 2})],
        {(OTTER, 1, 2), (HERON, 1, 1)}, {},
    ),
    "4 a starving lane drains the loaded one": (
        [lane(OTTER, 9), lane(HERON, waited=STARVING)], [box(loaded=["otter"], running={"otter": 2})], set(),
        {OTTER: (Why.TURN_OF_ANOTHER, "heron"), HERON: (Why.WAITS_FOR_SWAP, "otter")},
    ),
    "4 a loaded model may be gone as soon as another one loads": (
        [lane(OTTER, 9)], [box(loaded=["otter"], running={"heron": 1})], set(), {OTTER: (Why.WAITS_FOR_SWAP, "heron")},
    ),
    "5 the first prompt loads the model": (
        [lane(OTTER, 9)], [box(running={"otter": 1})], set(), {OTTER: (Why.LOADING, "")},
    ),
    "5 the others wait for what runs": (
        [lane(OTTER), lane(HERON, 3)], [box(loaded=["heron"], running={"heron": 4})], set(),
        {OTTER: (Why.WAITS_FOR_SWAP, "heron"), HERON: (Why.SLOTS_FULL, "")},
    ),
    "a lane spreads over two nodes": (
        [lane(OTTER, 6)], [box(1, loaded=["otter"]), box(2, loaded=["otter"])], {(OTTER, 1, 3), (OTTER, 2, 3)}, {},
    ),
    "two lanes take a node each": (
        [lane(OTTER, 2, waited=9), lane(HERON, 2)], [box(1), box(2)], {(OTTER, 1, 1), (HERON, 2, 1)}, {},
    ),
    "a second node loads a model for what the first copy will not serve": (
        [lane(OTTER, 5)], [box(1), box(2)], {(OTTER, 1, 1), (OTTER, 2, 1)}, {},
    ),
    "no second load while the first may do": (
        [lane(OTTER, 2)], [box(1, running={"otter": 1}), box(2)], set(), {OTTER: (Why.LOADING, "")},
    ),
    "the node with less to do comes first": (
        [lane(OTTER, 1)],
        [box(1, loaded=["otter"], running={"otter": 3}), box(2, loaded=["otter"], running={"otter": 1})],
        {(OTTER, 2, 1)}, {},
    ),
    "pinned prompts leave the others to other nodes": (
        [lane(OTTER, {1: 3, None: 2})], [box(1, loaded=["otter"], slots=3), box(2, loaded=["otter"])],
        {(OTTER, 1, 3), (OTTER, 2, 2)}, {},
    ),
    "a pinned prompt waits for its node": (
        [lane(OTTER, {1: 1})], [box(1, loaded=["heron"], running={"heron": 1}), box(2, loaded=["otter"])], set(),
        {OTTER: (Why.WAITS_FOR_SWAP, "heron")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_decides(case):
    lanes, nodes, expected_starts, expected_why = CASES[case]

    decided = decide(lanes, nodes)

    assert starts(decided) == expected_starts
    assert decided.why == expected_why


def test_it_says_which_starts_load_a_model():
    loaded, unloaded = box(1, loaded=["otter"], models=["otter"]), box(2, models=["heron"])

    decided = decide([lane(OTTER), lane(HERON)], [loaded, unloaded])

    assert {(start.lane_id, start.loads) for start in decided.starts} == {(OTTER, False), (HERON, True)}


def test_it_leaves_a_lane_open_that_may_go_on_by_itself():
    full = decide([lane(OTTER, 5)], [box(loaded=["otter"], running={"otter": 4})])
    going = decide([lane(OTTER, 5)], [box(loaded=["otter"], running={"otter": 1})])

    assert set(full.open) == set(going.open) == {(OTTER, 1)}


def test_it_closes_a_lane_that_must_drain_or_is_paused():
    drained = decide([lane(OTTER, 5), lane(HERON, waited=STARVING)], [box(loaded=["otter"], running={"otter": 1})])
    paused = decide([lane(OTTER, 5, is_paused=True)], [box(loaded=["otter"], running={"otter": 1})])

    assert not drained.open
    assert not paused.open


def test_it_counts_slots_as_offered_or_four_and_never_above_the_limit():
    model, silent = ModelView(True, 8), ModelView(True, None)

    assert [slots(lane(OTTER), model), slots(lane(OTTER, limit=3), model), slots(lane(OTTER), silent)] == [8, 3, 4]


# What it never does, whatever it is asked


@st.composite
def situations(draw):
    keys = st.sampled_from(sorted(NAMES.values()))
    nodes = [
        NodeView(
            number,
            draw(st.booleans()),
            {
                key: ModelView(draw(st.sampled_from([True, False])), draw(st.none() | st.integers(1, 5)))
                for key in draw(st.sets(keys))
            },
            draw(st.dictionaries(keys, st.integers(0, 5))),
        )
        for number in range(1, draw(st.integers(0, 3)) + 1)
    ]
    pins = st.dictionaries(st.none() | st.integers(1, 4), st.integers(1, 9), min_size=1)
    lanes = [
        lane(
            number,
            draw(pins),
            waited=draw(st.floats(0, 200)),
            top_priority=draw(st.sampled_from([-10, 0, 10])),
            is_paused=draw(st.booleans()),
            limit=draw(st.none() | st.integers(1, 5)),
        )
        for number in draw(st.sets(st.sampled_from(list(NAMES))))
    ]
    return lanes, nodes


def rest(view: LaneView, decided: Plan, node_id: int) -> int:
    """How many prompts that the node could run are left of a lane after the plan's starts."""
    counts = {start.node_id: start.count for start in decided.starts if start.lane_id == view.id}
    unpinned = sum(max(n - view.waiting.get(at, 0), 0) for at, n in counts.items())
    pinned = max(view.waiting.get(node_id, 0) - counts.get(node_id, 0), 0)
    return view.waiting.get(None, 0) - unpinned + pinned


def coming(view: LaneView, nodes: list[NodeView], decided: Plan) -> int:
    """Slots of copies that are being loaded, or that the plan loads, which the lane will have for itself."""
    free = 0
    for node in nodes:
        model = node.models.get(view.model)
        begun = sum(start.count for start in decided.starts if (start.lane_id, start.node_id) == (view.id, node.id))
        taken = node.running.get(view.model, 0) + begun
        if node.is_online and model and model.is_loaded is False and taken:
            free += max(0, slots(view, model) - taken)
    return free


@given(situations())
@hypothesis_settings(max_examples=100)
def test_it_never_overdoes_it(situation):
    lanes, nodes = situation
    decided = decide(lanes, nodes)
    by_lane, by_node = {view.id: view for view in lanes}, {node.id: node for node in nodes}
    for start in decided.starts:
        view, node = by_lane[start.lane_id], by_node[start.node_id]
        model = node.models[view.model]
        mine = node.running.get(view.model, 0)
        others = sum(node.running.values()) - mine
        at_work = {key for key, count in node.running.items() if count and key != view.model}
        assert node.is_online
        assert not view.is_paused
        assert 0 < start.count <= slots(view, model) - mine
        assert rest(view, decided, node.id) >= 0
        # What loads now may evict this model, and we know it only when the load has ended.
        assert all(key in node.models and node.models[key].is_loaded for key in at_work)
        if not model.is_loaded:
            assert others == mine == 0
            assert [other for other in decided.starts if other.node_id == node.id] == [start]
            assert start.count == 1


@given(situations())
@hypothesis_settings(max_examples=100)
def test_it_gives_every_lane_a_start_or_a_reason_and_leaves_no_node_idle(situation):
    lanes, nodes = situation
    decided = decide(lanes, nodes)
    started = {start.lane_id for start in decided.starts}
    for view in lanes:
        assert view.id in started or view.id in decided.why
    used = {start.node_id for start in decided.starts}
    for node in nodes:
        if node.is_online and not any(node.running.values()) and node.id not in used:
            ready = [view for view in lanes if view.model in node.models and not view.is_paused]
            assert all(rest(view, decided, node.id) <= coming(view, nodes, decided) for view in ready)


# How a node fares: a small simulation of one that holds one model at a time

LOOK = 0.5  # the runner looks at the lanes at least this often


@dataclass
class Arrival:
    at: float
    lane: int
    seconds: float


@dataclass
class OneModelNode:
    """Runs a trace of arrivals under a policy, as the runner does: looks at every change and every LOOK seconds,
    and lets an open lane go on by itself. Fails when a start would evict a model at work. What the node tells of
    its models is old while it loads: the one that gives way is still told as loaded."""

    trace: list[Arrival]
    policy: object = plan
    load_seconds: float = 5.0
    slots: int = 4
    max_wait: float = MAX_WAIT
    loaded: int | None = None
    loads: int = 0
    now: float = 0.0
    longest_wait: float = 0.0
    running: dict[int, int] = field(default_factory=dict)

    def run(self) -> "OneModelNode":
        self.queues = {arrival.lane: [] for arrival in self.trace}
        self.served = dict.fromkeys(self.queues, 0.0)
        self.loading: int | None = None
        self.open = {}
        order = count()
        self.events = [(arrival.at, next(order), "arrival", arrival) for arrival in self.trace]
        heapq.heapify(self.events)
        self.order = order
        left = len(self.trace)
        looks_at = 0.0
        while left:
            if self.events and self.events[0][0] <= looks_at:
                self.now, _, kind, what = heapq.heappop(self.events)
                should_look = True
                if kind == "arrival":
                    self.queues[what.lane].append(what)
                elif kind == "loaded":
                    self.loaded, self.loading = what, None
                else:
                    self.running[what] -= 1
                    left -= 1
                    should_look = not self.goes_on(what)
            else:
                self.now, should_look = looks_at, True
            if should_look:
                looks_at = self.now + LOOK
                self.look()
        return self

    def goes_on(self, number: int) -> bool:
        if (number, 1) not in self.open or not self.queues[number]:
            return False
        self.start(number)
        return True

    def look(self) -> None:
        lanes = [
            LaneView(number, str(number), {None: len(queue)}, max(queue[0].at, self.served[number]))
            for number, queue in self.queues.items()
            if queue
        ]
        models = {str(number): ModelView(self.loaded == number, self.slots) for number in self.queues}
        running = {str(number): count for number, count in self.running.items()}
        decided = self.policy(lanes, [NodeView(1, True, models, running)], self.now, self.max_wait)
        self.open = decided.open
        for start in decided.starts:
            for _ in range(start.count):
                self.start(start.lane_id)

    def start(self, number: int) -> None:
        busy = {other for other, count in self.running.items() if count}
        assert busy <= {number}, "it would evict a model at work"
        arrival = self.queues[number].pop(0)
        since = max(arrival.at, self.served[number])
        self.longest_wait = max(self.longest_wait, self.now - since)
        self.served[number] = self.now
        self.running[number] = self.running.get(number, 0) + 1
        assert self.running[number] <= self.slots
        ready_at = self.now
        if number != (self.loading or self.loaded):
            assert self.loading is None, "one load at a time"
            self.loading = number
            self.loads += 1
            ready_at += self.load_seconds
            heapq.heappush(self.events, (ready_at, next(self.order), "loaded", number))
        heapq.heappush(self.events, (ready_at + arrival.seconds, next(self.order), "end", number))


def first_come_first_served(lanes, nodes, now, max_wait) -> Plan:
    """What a queue does that knows nothing of models: the oldest prompt next."""
    node, oldest = nodes[0], min(lanes, key=lambda view: view.waiting_since, default=None)
    if oldest is None or any(node.running.values()):
        return Plan()
    return Plan(starts=[Start(oldest.id, 1, 1)])


TRACES = st.lists(
    st.builds(Arrival, at=st.floats(0, 300), lane=st.integers(1, 4), seconds=st.floats(0.1, 20)),
    min_size=1,
    max_size=60,
)


@given(TRACES)
@hypothesis_settings(max_examples=80)
def test_it_lets_no_lane_wait_beyond_its_bound(trace):
    node = OneModelNode(trace).run()

    one_turn = node.load_seconds + max(arrival.seconds for arrival in trace)
    others = len(node.queues) - 1
    drain = one_turn
    assert node.longest_wait <= MAX_WAIT + LOOK + drain + others * one_turn


@given(TRACES)
@hypothesis_settings(max_examples=80)
def test_it_swaps_no_more_than_starving_lanes_force_it_to(trace):
    batch = [Arrival(0, arrival.lane, arrival.seconds) for arrival in trace]
    node = OneModelNode(batch).run()

    # A lane is loaded once, and again for each time that it starved or was sent away for a starving one.
    forced = len(node.queues) * int(node.now / MAX_WAIT)
    assert node.loads <= len(node.queues) + 2 * forced


def alternating(prompts: int, seconds: float = 1.0) -> list[Arrival]:
    return [Arrival(number * 1e-3, number % 2 + 1, seconds) for number in range(prompts)]


def test_it_loads_at_most_four_times_for_a_hundred_prompts_that_alternate():
    ours = OneModelNode(alternating(100)).run()
    naive = OneModelNode(alternating(100), policy=first_come_first_served).run()

    assert ours.loads <= 4
    assert naive.loads == 100
    assert ours.longest_wait <= MAX_WAIT + LOOK + 2 * (ours.load_seconds + 1)


def test_it_shares_a_node_that_never_gets_to_the_end_of_one_lane():
    node = OneModelNode(alternating(400, seconds=5.0)).run()

    assert node.longest_wait <= MAX_WAIT + LOOK + 2 * (node.load_seconds + 5)
    assert 4 <= node.loads <= 2 * node.now / MAX_WAIT + 2
