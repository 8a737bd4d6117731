"""Unloading a copy of a model, never one at work."""

from django.utils import timezone

from daemonpulse.models.event import writing
from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.lmstudio_socket import SocketUnavailable
from fleet.models import Node
from fleet.telling import Telling
from forge import inventory, use
from forge.models import Instance


class StillBusy(DaemonError):
    """It works, for us or for somebody else, so it stays."""

    def __init__(self, instance: Instance, for_whom: str):
        super().__init__(Reason.BUSY, f"{instance} is at work for {for_whom}, so it stays loaded.")


def unload(node: Node, parameters: dict, telling: Telling) -> dict:
    """The command "unload_model": {"instance": its identifier}. Raises DaemonError or ValueError."""
    found = Instance.objects.of(node).filter(identifier=parameters["instance"]).select_related("model__node")
    instance = found.first()
    if instance is None:
        raise ValueError(f"{parameters['instance']} is not loaded on {node} any more.")
    release(instance)
    telling.line(f"{instance} is unloaded.")
    return {"instance": instance.identifier, "model": instance.model.key}


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
        node.connect().unload(instance.identifier)  # 3
    except BaseException:
        instance.move(Instance.State.LOADED)
        raise
    inventory.look(node)  # 4
    Instance.objects.filter(pk=instance.pk, state=Instance.State.UNLOADING).delete()  # the look may have failed


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
