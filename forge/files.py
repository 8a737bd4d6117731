"""What models' files tell of the memory they take, read once for each file, and the sizes worked out from it."""

import logging
from datetime import timedelta

from django.db.models import Q
from django.utils import timezone

from daemonpulse.models.event import record
from fleet.agent.errors import ActionFailed
from fleet.daemons.errors import DaemonError
from fleet.hosts import Host, explain, host_of
from fleet.lms.actions import Action
from fleet.lms.cli import LmsError
from fleet.models import Kind, Node, Reading
from fleet.weights.architecture import Architecture
from forge import loading, sizing, wishes
from forge.backends import backend_of
from forge.fit.room import RAM
from forge.models import Instance, Model, Origin

log = logging.getLogger(__name__)

AGAIN = timedelta(hours=6)  # after a file that could not be read


def unsized(node: Node):
    """Models of which it is not worked out what they take, or whose file could not be read a while ago."""
    wanted = lacks("size_json")
    if node.has_host:
        is_due = Q(metadata_at=None) | Q(metadata_at__lt=timezone.now() - AGAIN)
        wanted |= lacks("metadata") & is_due
    return Model.objects.present().filter(wanted, node=node)


def lacks(name: str) -> Q:
    """A JSON column has no value: NULL, or the JSON null that Django's bulk_update() writes."""
    return Q(**{f"{name}__isnull": True}) | Q(**{name: None})


def can_size(node: Node) -> bool:
    return node.kind == Kind.LMSTUDIO


def fill(node: Node) -> None:
    """Read what can be read, one model after another, and work out its size."""
    host = host_of(node) if node.has_host else None
    reading = Reading.objects.filter(node=node).first()
    machine = reading.machine if reading and reading.machine else loading.read(host)
    backend = backend_of(machine, node.has_simulated_machine)
    for model in unsized(node).select_related("node"):
        if model.metadata is None and host is not None and _is_due(model) and not _read(model, host):
            return  # the machine is silent: another time
        wish = wishes.saved(model)
        told = loading.estimate(wish, machine) if model.architecture is None else None
        sizing.keep_size(wish, backend, told)
        record("model.sized", node.pk, keys=[model.key])
    _guess(node, machine)


def _is_due(model: Model) -> bool:
    return model.metadata_at is None or timezone.now() - model.metadata_at > AGAIN


def _read(model: Model, host: Host) -> bool:
    """Ask for what its file tells, and keep it or why there is nothing; False when nobody answered."""
    parameters = {"model": model.key, "size_bytes": model.size_bytes}
    try:
        told = host.execute(Action.METADATA, parameters, None, None, None)
        model.metadata, model.metadata_problem = Architecture.from_json(told["architecture"]).as_json(), ""
    except (LmsError, ActionFailed) as error:
        model.metadata_problem = f"{error} {error.advice}".strip()[:300]
    except DaemonError as error:  # the machine is silent, or has no such action
        model.metadata_problem = explain(error, model.node)[:300]
        if error.reason.may_mean_node_down:
            return False
    except (ValueError, KeyError, TypeError) as error:
        model.metadata_problem = str(error)[:300]
    model.metadata_at = timezone.now()
    model.save(update_fields=["metadata", "metadata_problem", "metadata_at"])
    return True


def _guess(node: Node, machine) -> None:
    """What copies hold that somebody else loaded: as estimated, in equal parts on the GPUs."""
    if machine is None:
        return
    places = [gpu.index for gpu in machine.gpus] or [RAM]
    for instance in _unguessed(node).select_related("model__node"):
        total = _estimated(instance)
        if total is not None:
            held = {str(index): total // len(places) for index in places}
            Instance.objects.filter(lacks("bytes_by_gpu"), pk=instance.pk).update(bytes_by_gpu=held)


def _unguessed(node: Node):
    return Instance.objects.of(node).filter(lacks("bytes_by_gpu")).exclude(origin=Origin.LINK)


def has_unguessed(node: Node) -> bool:
    """Somebody else's copy holds memory of a machine that can be asked, and nobody has said how much."""
    return node.has_host and _unguessed(node).exists()


def _estimated(instance: Instance) -> int | None:
    size = instance.model.size
    if size is None or instance.context_length in (None, size.context_length) or size.context_length is None:
        return size.total if size else None
    context = round((size.context or 0) * instance.context_length / size.context_length)  # near enough for a guess
    return size.total - (size.context or 0) + context if size.total is not None else None
