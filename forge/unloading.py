"""Unloading a copy of a model, never one at work."""

import time

from django.utils import timezone

from daemonpulse.models.event import writing
from fleet.daemons.errors import DaemonError, Reason, SocketUnavailable
from fleet.models import Node
from fleet.telling import Telling
from forge import idle, inventory, states, use
from forge.models import Instance

SETTLE_SECONDS = 1.0  # after a load or an unload, until the driver's figures stand


class StillBusy(DaemonError):
    """It works, for us or for somebody else, so it stays."""

    def __init__(self, instance: Instance, for_whom: str):
        super().__init__(Reason.BUSY, f"{instance} is at work for {for_whom}, so it stays loaded.")


def unload(node: Node, parameters: dict, telling: Telling) -> dict:
    """The command "unload_model": {"instance": its identifier, "why"?}. Raises DaemonError or ValueError.

    "why" is "idle" when nobody asked: then it is looked once more whether its time is over.
    """
    found = Instance.objects.of(node).filter(identifier=parameters["instance"]).select_related("model__node")
    instance = found.first()
    if instance is None:
        raise ValueError(f"{parameters['instance']} is not loaded on {node} any more.")
    if parameters.get("why") == idle.WHY and not _is_still_idle(instance):
        telling.line(f"{instance} was used meanwhile, so it stays loaded.")
        return {}
    release(instance)
    telling.line(f"{instance} is unloaded.")
    if node.has_host and not node.has_simulated_machine:
        time.sleep(SETTLE_SECONDS)
    return {"instance": instance.identifier, "model": instance.model.key}


def _is_still_idle(instance: Instance) -> bool:
    states.refresh(instance.model.node)
    instance.refresh_from_db()
    return idle.is_over(instance)


def release(instance: Instance) -> None:
    """1. Choose it, unless one of our prompts runs on its model: from here on none is given to it. 2. Ask its daemon
    whether it works for somebody else. 3. Unload it. 4. Look at its node again.

    Raises StillBusy, or DaemonError when it could not be unloaded; then it is as it was.
    """
    node = instance.model.node
    _choose(instance)  # 1
    try:
        if _works_for_others(instance):  # 2
            instance.touch(timezone.now(), seen_busy=True)
            raise StillBusy(instance, "somebody else")
        _unload(node, instance.identifier)  # 3
    except BaseException:
        instance.move(Instance.State.LOADED)
        raise
    inventory.look(node)  # 4
    Instance.objects.filter(pk=instance.pk, state=Instance.State.UNLOADING).delete()  # the look may have failed


def _unload(node: Node, identifier: str) -> None:
    try:
        node.connect().unload(identifier)
    except DaemonError as error:
        if error.reason is not Reason.MODEL_NOT_FOUND:  # it is gone already: that is what was wished
            raise


def _choose(instance: Instance) -> None:
    with writing():
        its_use = use.of([instance.model.node_id]).get((instance.model.node_id, instance.model.key), use.NONE)
        if its_use.is_working:
            raise StillBusy(instance, f"{its_use.running} prompt{'s' if its_use.running != 1 else ''}")
        if not instance.move(Instance.State.UNLOADING):
            raise ValueError(f"{instance} is being unloaded already, or is gone.")


def _works_for_others(instance: Instance) -> bool:
    """As its daemon tells; where it cannot tell, the list of its copies must do."""
    try:
        told = instance.model.node.connect().processing(instance.identifier, instance.model.type == "embedding")
    except SocketUnavailable:
        return instance.was_seen_busy
    return told is not None and bool(told.is_busy)
