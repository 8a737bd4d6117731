"""What the scheduling policy looks at, read from the rows in three queries."""

from collections import defaultdict

from django.conf import settings
from django.db.models import Count, Max, Min
from django.utils import timezone

from fleet.models import ANSWERING
from forge.models import Model

from .models import Prompt
from .scheduling import LaneView, ModelView, NodeView, Plan, plan
from .states import State

LANE_FIELDS = ("lane__model", "lane__is_paused", "lane__limit", "lane__served_at")


def nodes() -> list[NodeView]:
    """Enabled nodes that have chat models, and what runs there for us."""
    models: dict[int, dict[str, ModelView]] = defaultdict(dict)
    online: dict[int, bool] = {}
    rows = Model.objects.usable().order_by().values_list("node_id", "node__state", "key", "loaded", "slots")
    for node_id, state, key, loaded, slots in rows:
        online[node_id] = state in ANSWERING
        models[node_id][key] = ModelView(None if loaded is None else bool(loaded), slots)
    running: dict[int, dict[str, int]] = defaultdict(dict)
    sending = Prompt.objects.filter(state=State.SENDING).order_by().values_list("node_id", "lane__model")
    for node_id, model, count in sending.annotate(count=Count("pk")):
        running[node_id][model] = count
    return [NodeView(node_id, online[node_id], models[node_id], running[node_id]) for node_id in models]


def lanes() -> list[LaneView]:
    """Lanes with due prompts."""
    due = Prompt.objects.due().order_by().values("lane_id", "node_pin_id", *LANE_FIELDS)
    by_lane: dict[int, list[dict]] = defaultdict(list)
    for row in due.annotate(count=Count("pk"), oldest=Min("due_at"), top=Max("priority")):
        by_lane[row["lane_id"]].append(row)
    return [_lane(lane_id, rows) for lane_id, rows in by_lane.items()]


def _lane(lane_id: int, rows: list[dict]) -> LaneView:
    oldest = min(row["oldest"] for row in rows)
    served_at = rows[0]["lane__served_at"]
    return LaneView(
        id=lane_id,
        model=rows[0]["lane__model"],
        waiting={row["node_pin_id"]: row["count"] for row in rows},
        waiting_since=max(oldest, served_at or oldest).timestamp(),
        top_priority=max(row["top"] for row in rows),
        is_paused=rows[0]["lane__is_paused"],
        limit=rows[0]["lane__limit"],
    )


def make_plan() -> Plan:
    waiting = lanes()
    if not waiting:
        return Plan()
    return plan(waiting, nodes(), timezone.now().timestamp(), settings.MAX_LANE_WAIT_SECONDS)
