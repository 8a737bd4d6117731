"""Copies whose idle time is over are unloaded: one policy for all that we loaded, whoever asked for it."""

from datetime import timedelta

from django.utils import timezone

from fleet.models import Command
from fleet.models.command import UNLOAD
from forge import eviction, residents, use
from forge.models import Instance

WHY = "idle"
AGAIN = timedelta(seconds=30)  # after an unload that was asked for: it may fail


def step() -> int:
    """Ask for the unloading of what has been idle for too long; returns how many. One query where nothing is due."""
    due = list(Instance.objects.due().select_related("model__node"))
    asked = 0
    for instance in due:
        if is_over(instance):
            Instance.objects.filter(pk=instance.pk).update(unload_at=timezone.now() + AGAIN)
            Command.ask(instance.model.node, UNLOAD, instance=instance.identifier, model=instance.model.key, why=WHY)
            asked += 1
    return asked


def is_over(instance: Instance) -> bool:
    """Whether its idle time really is over; one that was used meanwhile, or is about to be, gets a new time."""
    node_id, key = instance.model.node_id, instance.model.key
    used = use.of([node_id])
    its_use = used.get((node_id, key), use.NONE)
    if its_use.running or its_use.waiting:
        instance.touch(timezone.now())
        return False
    last = use.last_ended(node_id, key, instance.used_at)
    if last or instance.unload_at is None or instance.unload_at < instance.used_at:
        instance.touch(last or instance.used_at)
    there = [one for one in residents.of_nodes([node_id], used)[node_id] if one.id == instance.identifier]
    return bool(eviction.expired(there, timezone.now().timestamp()))
