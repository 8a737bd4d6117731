"""What the board shows: each lane's counts, what runs, what waits and why."""

from dataclasses import dataclass, field
from datetime import timedelta

from django.conf import settings
from django.db.models import Count, F, Q, Window
from django.db.models.functions import RowNumber
from django.utils import timezone

from . import snapshot
from .models import Attempt, Lane, Prompt, Runner
from .scheduling import plan
from .situation import DEFAULT_SLOTS, Plan, Why, slots
from .states import State

WAITING_SHOWN = 5
RECENT = timedelta(hours=24)

WHY = {
    Why.PAUSED: "Paused. Resume the lane to go on.",
    Why.NO_NODE: "No node has this model. Add a node, or wait for the one that has it.",
    Why.NODE_OFFLINE: "The node that has this model does not answer. It goes on when it is back.",
    Why.SLOTS_FULL: "All slots are busy.",
    Why.PINNED: "A pinned model leaves no room for it.",
    Why.LOADING: "The model is being loaded.",
    Why.LOADING_ANOTHER: "Another model is being loaded there first.",
    Why.WAITS_FOR_SWAP: "The node is busy with another model.",
    Why.TURN_OF_ANOTHER: "Another lane has waited longest and gets the node next.",
}


@dataclass(slots=True)
class Row:
    """A prompt on the board. `is_own`: only then its text may be shown."""

    prompt: Prompt
    is_own: bool
    place: int | None = None
    wait: timedelta | None = None
    progress: dict | None = None


@dataclass(slots=True)
class LaneStatus:
    """One lane as its viewer sees it. Counts are of everybody's prompts; `own_waiting` of the viewer's."""

    lane: Lane
    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    own_waiting: int = 0
    slots: int = DEFAULT_SLOTS
    is_executed: bool = True
    why: str = ""
    blocker: str = ""
    running_rows: list[Row] = field(default_factory=list)
    waiting_rows: list[Row] = field(default_factory=list)

    def wait_of(self, prompt: Prompt, place: int) -> timedelta | None:
        """How long until it starts; None when nobody can say: nothing executes, or the lane waits for something."""
        if not self.is_executed or (self.why and not self.running):
            return None
        return prompt.expected_wait(place, self.slots)

    @property
    def more_waiting(self) -> int:
        return self.waiting - len(self.waiting_rows)

    @property
    def state(self) -> str:
        """In one word: paused, working, waiting or idle."""
        if self.lane.is_paused:
            return "paused"
        return "working" if self.running else "waiting" if self.waiting else "idle"

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.running)


def lane_statuses(user) -> list[LaneStatus]:
    """All lanes, the busy ones first; a handful of queries however many prompts there are. No rows without a user."""
    statuses = outlooks(list(Lane.objects.all()))
    _count(statuses, user)
    if user is not None:
        _fill_rows(statuses, user)
    return sorted(statuses.values(), key=lambda status: (status.is_idle, status.lane.model))


def outlooks(lanes: list[Lane]) -> dict[int, LaneStatus]:
    """lane id → its slots and what it waits for, without counts and rows."""
    decided, lane_slots = (Plan(), {}) if settings.IS_CLIENT else _plan_and_slots()
    is_executed = Runner.has_worker()
    statuses = {lane.pk: LaneStatus(lane, is_executed=is_executed) for lane in lanes}
    for lane_id, status in statuses.items():
        status.slots = lane_slots.get(lane_id, status.lane.limit or DEFAULT_SLOTS)
        if lane_id in decided.why:
            reason, status.blocker = decided.why[lane_id]
            status.why = WHY[reason]
        elif status.lane.is_paused:
            status.why = WHY[Why.PAUSED]
    return statuses


def _plan_and_slots() -> tuple[Plan, dict[int, int]]:
    lanes = snapshot.lanes()
    nodes = snapshot.nodes(lanes)
    decided = plan(lanes, nodes, timezone.now().timestamp(), settings.MAX_LANE_WAIT_SECONDS)
    offered = {
        lane.id: sum(
            slots(lane, node.models[lane.model]) for node in nodes if node.is_online and lane.model in node.models
        )
        for lane in lanes
    }
    return decided, {lane_id: count for lane_id, count in offered.items() if count}


def _count(statuses: dict[int, LaneStatus], user) -> None:
    own = Count("pk", filter=Q(owner=user))
    open_ = Prompt.objects.open().order_by().values("lane_id", "state").annotate(count=Count("pk"), own=own)
    for row in open_:
        status = statuses.get(row["lane_id"])
        if status is None:  # a lane that was made since its rows were read: the next look shows it
            continue
        if row["state"] == State.QUEUED:
            status.waiting, status.own_waiting = row["count"], row["own"]
        else:
            status.running = row["count"]
    ended = Prompt.objects.filter(finished_at__gte=timezone.now() - RECENT).order_by()
    for row in ended.values("lane_id", "state").annotate(count=Count("pk")):
        status = statuses.get(row["lane_id"])
        if status and row["state"] == State.DONE:
            status.done = row["count"]
        elif status and row["state"] == State.FAILED:
            status.failed = row["count"]


def _fill_rows(statuses: dict[int, LaneStatus], user) -> None:
    before_first_token = Attempt.objects.running().filter(first_token_at=None)
    progress = dict(before_first_token.values_list("prompt_id", "progress"))
    running = Prompt.objects.filter(state=State.SENDING).without_texts().select_related("node").order_by("started_at")
    for prompt in running:
        row = Row(prompt, prompt.owner_id == user.pk, progress=progress.get(prompt.pk))
        if status := statuses.get(prompt.lane_id):
            status.running_rows.append(row)
    rank = Window(RowNumber(), partition_by=F("lane"), order_by=[F("priority").desc(), F("position").asc()])
    first = Prompt.objects.queued().annotate(rank=rank).filter(rank__lte=WAITING_SHOWN).order_by("rank")
    places = dict(first.values_list("pk", "rank"))  # ranks thousands, so it reads the index only
    prompts = Prompt.objects.without_texts().in_bulk(places)
    for pk, place in places.items():
        prompt = prompts.get(pk)
        if prompt and (status := statuses.get(prompt.lane_id)):
            prompt.lane = status.lane
            wait = status.wait_of(prompt, place)
            status.waiting_rows.append(Row(prompt, prompt.owner_id == user.pk, place, wait))
