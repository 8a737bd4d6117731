"""The loaded copies of a node's models, kept as rows from what the node tells."""

from collections.abc import Mapping
from datetime import timedelta

from django.utils import timezone

from fleet.daemons.types import InstanceConfig, ModelInfo
from fleet.models import Command, Node
from fleet.models.command import LOAD
from forge import wishes
from forge.eviction import detect_auto_evict
from forge.models import Instance, LoadProfile, Model, NodePolicy, Origin
from forge.wishes import FOR_QUEUE

LEFT = timedelta(minutes=30)  # a load takes no longer
FIELDS = ("context_length", "parallel", "options")


def keep(node: Node, models: Mapping[str, Model], told: list[ModelInfo]) -> set[str]:
    """Make the copies' rows equal to what the node told; returns the keys of the models whose copies changed.

    Runs inside the transaction that keeps the models. What went and came by itself gives LM Studio's auto-evict away.
    """
    rows = {(row.model.key, row.identifier): row for row in Instance.objects.of(node).select_related("model")}
    listed = {
        (info.key, id): next((one for one in info.instances if one.id == id), InstanceConfig(id))
        for info in told
        if info.knows_loaded
        for id in info.loaded
    }
    gone = [row for pair, row in rows.items() if pair not in listed]
    new = [pair for pair in listed if pair not in rows]
    if gone and new:
        _note_auto_evict(node, rows, listed)
    Instance.objects.filter(pk__in=[row.pk for row in gone]).delete()
    _create(models, {pair: listed[pair] for pair in new})
    changed = [row for pair, row in rows.items() if pair in listed and _take_over(row, listed[pair])]
    Instance.objects.bulk_update(changed, FIELDS)
    return {row.model.key for row in [*gone, *changed]} | {key for key, _ in new}


def _create(models: Mapping[str, Model], new: dict[tuple[str, str], InstanceConfig]) -> None:
    if not new:
        return
    profiles = LoadProfile.objects.in_bulk([models[key].pk for key, _ in new])
    left_behind = _left_behind(models[next(iter(new))[0]].node_id)
    made = []
    for (key, identifier), config in new.items():
        row = Instance(model=models[key], identifier=identifier)
        _take_over(row, config)
        if left := left_behind.get(key):
            row.origin = Origin.QUEUE if left.parameters.get("for") == FOR_QUEUE else Origin.PERSON
            row.ttl_seconds = wishes.read(models[key].node, left.parameters).idle_seconds
        profile = profiles.get(models[key].pk)
        if profile and profile.ttl_seconds and not profile.is_pinned:  # wished for this model, whoever loads it
            row.ttl_seconds = profile.ttl_seconds
        if row.ttl_seconds:
            row.unload_at = row.used_at + timedelta(seconds=row.ttl_seconds)
        made.append(row)
    Instance.objects.bulk_create(made)


def _left_behind(node_id: int) -> dict[str, Command]:
    """By model, our loads that run, and those whose worker died: their daemon brings them to an end by itself."""
    since = timezone.now() - LEFT
    states = [Command.State.RUNNING, Command.State.INTERRUPTED]
    ours = Command.objects.filter(node=node_id, action=LOAD, state__in=states, started_at__gt=since)
    return {command.parameters["model"]: command for command in ours.order_by("asked_at")}


def _take_over(row: Instance, config: InstanceConfig) -> bool:
    values = {"context_length": config.context_length, "parallel": config.parallel, "options": config.options}
    told = {name: value for name, value in values.items() if value not in (None, {})}
    changed = any(getattr(row, name) != value for name, value in told.items())
    for name, value in told.items():
        setattr(row, name, value)
    return changed


def _note_auto_evict(node: Node, rows: dict, listed: dict) -> None:
    now = timezone.now()
    running = Command.objects.filter(node=node, action=LOAD, state=Command.State.RUNNING)
    being_loaded = {command.parameters.get("model") for command in running}
    seen = detect_auto_evict(
        before={row.identifier: key for (key, _), row in rows.items()},
        after={identifier: key for key, identifier in listed},
        unloaded_by_us={row.identifier for row in rows.values() if row.state == Instance.State.UNLOADING},
        loaded_by_us={identifier for key, identifier in listed if key in being_loaded},
        expired={row.identifier for row in rows.values() if row.daemon_lets_go_at and row.daemon_lets_go_at <= now},
    )
    if seen:
        NodePolicy.note_auto_evict(node, *seen)
