"""Which lane may start how many prompts on which node. Pure: lanes, nodes and the clock in, decisions out.

A model is never taken away while it works. Where a node's memory can be measured, lanes run side by side as far as
their models fit together, and the eviction policy (forge/eviction.py) says what must go for another one. Elsewhere
one model at a time is loaded, because LM Studio may evict what still generates (contract §12.2).
"""

from collections import Counter

from .sites import Site, site_of
from .situation import LaneView, NodeView, Plan, Start, Why, slots


def plan(lanes: list[LaneView], nodes: list[NodeView], now: float, max_wait: float) -> Plan:
    """Decide for every lane and node.

    1. A paused lane starts nothing; nor does one whose model no online node has.
    2. A lane that has waited for `max_wait` takes a node's turn: what must go for it gets no more prompts there.
    3. Lanes whose model is loaded, or whose node needs no care, start up to their slots, the least busy node first.
    4. What is left of a lane is worth a load on another node: most free memory first, then the least busy. One load
       at a time on a node, and one prompt with it.
    5. Everybody else waits, and the plan says for what.
    """
    decided = Plan()
    ready = [lane for lane in lanes if _may_start(lane, nodes, decided)]  # 1
    left = {lane.id: Counter(lane.waiting) for lane in ready}
    sites = [site_of(node) for node in nodes if node.is_online]
    starved_at = {lane.id: _starved_at(lane, sites, now - max_wait) for lane in ready}
    starving = [lane for lane in ready if starved_at[lane.id]]
    starving.sort(key=lambda lane: lane.waiting_since)
    for lane in starving:  # 2
        if chances := [chance for site in starved_at[lane.id] if (chance := site.chance(lane))]:
            min(chances, key=lambda chance: chance.cost).take()
    for lane in ready:  # 3
        _serve(lane, sites, left[lane.id], decided)
    for lane in [*starving, *sorted((one for one in ready if one not in starving), key=lambda one: one.urgency)]:  # 4
        _load(lane, sites, left[lane.id], decided)
    started = {start.lane_id for start in decided.starts}
    for lane in ready:  # 5
        reasons = [why for site in sites if _left(left[lane.id], site.node.id) > 0 and (why := site.why(lane))]
        if reasons and lane.id not in started:
            decided.why.setdefault(lane.id, min(reasons, key=lambda why: list(Why).index(why[0])))
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


def _starved_at(lane: LaneView, sites: list[Site], since: float) -> list[Site]:
    """Where others must stop for a lane that has waited since then: nowhere while it has a free slot somewhere, but for
    prompts that are tied to a node which lacks their model."""
    here = [site for site in sites if lane.waiting_for(site.node.id)]
    if lane.waiting_since <= since and not any(site.offer(lane) for site in here):
        return here
    tied = [site for site in here if lane.pinned_since.get(site.node.id, since + 1) <= since]
    return [site for site in tied if not site.offer(lane)]


def _serve(lane: LaneView, sites: list[Site], left: Counter, decided: Plan) -> None:
    """Share a lane's prompts out among the nodes that can take them now, one after the other to the least busy one."""
    here = [site for site in sites if lane.model in site.node.models]
    counts: Counter[int] = Counter()
    while True:
        offers = [site for site in here if site.offer(lane) > 0 and _left(left, site.node.id) > 0]
        if not offers:
            break
        site = min(offers, key=lambda site: (left[site.node.id] <= 0, site.load_factor(lane), site.node.id))
        site.begin(lane)
        counts[site.node.id] += 1
        _take(left, site.node.id, 1)
    decided.starts += [Start(lane.id, node_id, count) for node_id, count in counts.items()]
    for site in here:
        if site.is_open(lane) and lane.waiting_for(site.node.id):
            decided.open[lane.id, site.node.id] = slots(lane, site.node.models[lane.model])


def _load(lane: LaneView, sites: list[Site], left: Counter, decided: Plan) -> None:
    """Load a lane's model for what the copies that there are, or that are on their way, will not soon serve."""
    for site in sorted(sites, key=lambda site: site.preference):
        soon = sum(one.expected(lane) for one in sites)
        is_pinned_here = left[site.node.id] > site.expected(lane)
        is_needed = is_pinned_here or _left(left, site.node.id) > soon
        if is_needed and (start := site.load(lane)):
            decided.starts.append(start)
            _take(left, site.node.id, 1)


def _left(waiting: Counter, node_id: int) -> int:
    return waiting[None] + waiting[node_id]


def _take(waiting: Counter, node_id: int, count: int) -> None:
    """Pinned prompts count first: nobody else can run them."""
    pinned = min(count, waiting[node_id])
    waiting[node_id] -= pinned
    waiting[None] -= count - pinned
