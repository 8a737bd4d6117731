"""What a node's loaded copies do for others, as far as its daemon tells (contract §10)."""

from datetime import UTC, datetime, timedelta

from django.utils import timezone

from daemonpulse.models.event import record, writing
from fleet.daemons.errors import DaemonError
from fleet.daemons.types import InstanceState
from fleet.models import Kind, Node
from forge import use
from forge.models import Instance, Origin

FINENESS = timedelta(seconds=1)  # a time of use that moved by less is not worth a write


def can_tell(node: Node) -> bool:
    return node.kind == Kind.LMSTUDIO


def refresh(node: Node) -> None:
    """Ask for all copies at once, and keep who is at work and who has an idle time of its own."""
    try:
        told = {(state.model, state.id): state for state in node.connect().instances()}
    except DaemonError:
        return  # the list of models tells what is loaded all the same
    with writing():
        ours = {key for (_, key), its_use in use.of([node.pk]).items() if its_use.is_working}
        rows = Instance.objects.of(node).select_related("model")
        changed = {row.model.key for row in rows if (state := told.get((row.model.key, row.identifier)))
                   and take_over(row, state, row.model.key in ours)}  # fmt: skip
        if changed:
            record("model.changed", node.pk, keys=sorted(changed))


def take_over(row: Instance, state: InstanceState, is_ours: bool = False) -> bool:
    """Keep what a daemon tells of one copy; True when something changed. `is_ours`: our prompts run on its model, so
    that it works says nothing of others."""
    now = timezone.now()
    values = {"told_ttl_seconds": None if state.ttl_seconds is None else round(state.ttl_seconds)}
    values["context_length"] = row.context_length or state.context_length
    if not row.is_ours:
        values["origin"] = _origin(state)
    if state.is_busy and not is_ours:
        values["busy_seen_at"] = now
    last = datetime.fromtimestamp(state.last_used_at, UTC) if state.last_used_at else None
    used_at = now if state.is_busy else last
    if used_at and used_at - row.used_at > FINENESS:
        values["used_at"] = min(used_at, now)
        values["unload_at"] = values["used_at"] + timedelta(seconds=row.ttl_seconds) if row.ttl_seconds else None
    changed = {name: value for name, value in values.items() if getattr(row, name) != value}
    if changed:
        Instance.objects.filter(pk=row.pk).update(**changed)
    return bool(changed)


def _origin(state: InstanceState) -> Origin:
    """Of a copy that we did not load: just-in-time loads have an idle time, others hardly ever (contract §6)."""
    if state.device:
        return Origin.LINK
    return Origin.JUST_IN_TIME if state.ttl_seconds is not None else Origin.ELSEWHERE
