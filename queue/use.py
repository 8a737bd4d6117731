"""What Forge asks of the queue (forge/use.py): which models its prompts use."""

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime

from django.db.models import Count

from forge.models import Model
from forge.use import Use

from .models import Prompt
from .states import State


def of(node_ids: Collection[int]) -> dict[tuple[int, str], Use]:
    """(node id, model key) → Use. A prompt that waits counts for every one of these nodes that could run it."""
    running: dict[tuple[int, str], int] = defaultdict(int)
    waiting: dict[tuple[int, str], int] = defaultdict(int)
    sending = Prompt.objects.filter(state=State.SENDING, node__in=node_ids).order_by()
    for node_id, key, count in sending.values_list("node_id", "lane__model").annotate(count=Count("pk")):
        running[node_id, key] += count
    due = Prompt.objects.due().filter(lane__is_paused=False).order_by()
    counted = list(due.values_list("lane__model", "node_pin_id").annotate(count=Count("pk")))
    if counted:
        having = Model.objects.present().filter(node__in=node_ids, key__in={key for key, _, _ in counted})
        for node_id, key in having.order_by().values_list("node_id", "key"):
            waiting[node_id, key] = sum(n for model, pin, n in counted if model == key and pin in (None, node_id))
    return {pair: Use(running[pair], waiting[pair]) for pair in {*running, *waiting} if running[pair] or waiting[pair]}


def last_ended(node_id: int, key: str, since: datetime) -> datetime | None:
    """When a prompt of this model last ended on the node, if that was after `since`."""
    ended = Prompt.objects.filter(finished_at__gt=since, lane__model=key, node=node_id).order_by("-finished_at")
    return ended.values_list("finished_at", flat=True).first()
