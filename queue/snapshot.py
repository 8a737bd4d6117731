"""What the scheduling policy looks at, read from the rows in four queries."""

from collections import defaultdict

from django.conf import settings
from django.db.models import Count, Max, Min
from django.utils import timezone

from fleet.models import Node
from forge.models import Model

from .models import Lane, Prompt
from .scheduling import LaneView, ModelView, NodeView, Plan, plan
from .states import State


def nodes() -> list[NodeView]:
    """Enabled nodes with their chat models and what runs there for us."""
    models: dict[int, dict[str, ModelView]] = defaultdict(dict)
    for row in Model.objects.usable().values("node_id", "key", "loaded", "slots"):
        is_loaded = None if row["loaded"] is None else bool(row["loaded"])
        models[row["node_id"]][row["key"]] = ModelView(is_loaded, row["slots"])
    running: dict[int, dict[str, int]] = defaultdict(dict)
    sending = Prompt.objects.filter(state=State.SENDING).order_by().values("node_id", "lane__model")
    for row in sending.annotate(count=Count("pk")):
        running[row["node_id"]][row["lane__model"]] = row["count"]
    return [
        NodeView(node.pk, node.is_online, models[node.pk], running[node.pk])
        for node in Node.objects.enabled().defer("token")
    ]


def lanes() -> list[LaneView]:
    """Lanes with due prompts."""
    due = Prompt.objects.due().order_by().values("lane_id", "node_pin_id")
    waiting: dict[int, dict] = defaultdict(dict)
    oldest: dict[int, float] = {}
    top: dict[int, int] = {}
    for row in due.annotate(count=Count("pk"), oldest=Min("due_at"), top=Max("priority")):
        lane_id = row["lane_id"]
        waiting[lane_id][row["node_pin_id"]] = row["count"]
        since = row["oldest"].timestamp()
        oldest[lane_id] = min(oldest.get(lane_id, since), since)
        top[lane_id] = max(top.get(lane_id, row["top"]), row["top"])
    return [
        LaneView(
            id=lane.pk,
            model=lane.model,
            waiting=waiting[lane.pk],
            waiting_since=max(oldest[lane.pk], lane.served_at.timestamp() if lane.served_at else 0.0),
            top_priority=top[lane.pk],
            is_paused=lane.is_paused,
            limit=lane.limit,
        )
        for lane in Lane.objects.filter(pk__in=waiting)
    ]


def make_plan() -> Plan:
    return plan(lanes(), nodes(), timezone.now().timestamp(), settings.MAX_LANE_WAIT_SECONDS)
