"""One look at a node: does it answer, which models has it, what is loaded."""

import logging
import time
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import Q
from django.utils import timezone

from daemonpulse.models.event import record as record_event
from daemonpulse.models.event import writing
from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.types import ModelInfo
from fleet.models import Node
from forge import copies
from forge.models import Model

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node said when asked for its models, or why it said nothing."""

    models: list[ModelInfo] = field(default_factory=list)
    latency_seconds: float = 0.0
    error: DaemonError | None = None
    asked_at: datetime = field(default_factory=timezone.now)

    @property
    def latency_or_none(self) -> float | None:
        """None when there was no answer."""
        return self.latency_seconds if self.error is None else None


def look(node: Node) -> bool:
    """Ask the node and keep what it says. True when it answered."""
    answer = ask(node)
    record(node, answer)
    return answer.error is None


def ask(node: Node) -> Answer:
    """One call tells both: whether it is there and what it has. Never raises; touches no rows."""
    started, asked_at = time.monotonic(), timezone.now()
    try:
        told = node.connect().models()
    except DaemonError as error:
        return Answer(error=error)
    except Exception:  # an answer that nobody foresaw must not take its caller down
        log.exception("node.odd_answer node=%s", node.pk)
        return Answer(error=DaemonError(Reason.NOT_UNDERSTOOD, "an answer that we do not understand"))
    return Answer(told, time.monotonic() - started, asked_at=asked_at)


def record(node: Node, answer: Answer) -> None:
    """Keep what a node said: its state and its models."""
    if answer.error is not None:
        node.lost(answer.error)
        return
    keep(node, answer.models, answer.asked_at)
    node.seen(answer.latency_seconds)


def keep(node: Node, told: list[ModelInfo], asked_at: datetime | None = None) -> bool:
    """Make the rows of a node equal to what it told; True when something changed.

    An answer that was asked for before the last one that was kept is too old to be true: nothing of it is.
    """
    told = list({info.key: info for info in told}.values())  # a daemon may tell a model twice
    with writing():
        asked_at = asked_at or timezone.now()
        is_newer = Q(models_asked_at=None) | Q(models_asked_at__lte=asked_at)
        if not Node.objects.filter(is_newer, pk=node.pk).update(models_asked_at=asked_at):
            return False
        rows = {row.key: row for row in Model.objects.filter(node=node)}
        now = timezone.now()
        changed = [_new_or_changed(node, rows.get(info.key), info) for info in told]
        gone = [row for key, row in rows.items() if row.gone_at is None and key not in {info.key for info in told}]
        for row in gone:
            row.gone_at = now
        touched = [row for row in changed if row is not None] + gone
        Model.objects.bulk_create([row for row in touched if row.pk is None])
        Model.objects.bulk_update([row for row in touched if row.pk is not None], [*VALUES, *OF_CONTENT, "gone_at"])
        keys = {row.key for row in touched} | copies.keep(node, rows | {row.key: row for row in touched}, told)
        if keys:
            record_event("model.changed", node.pk, keys=sorted(keys)[:50])
    return bool(keys)


VALUES = {
    "name": lambda info: info.name,
    "type": lambda info: info.type,
    "publisher": lambda info: info.publisher,
    "architecture_name": lambda info: info.architecture,
    "parameters": lambda info: info.parameters,
    "quantization": lambda info: info.quantization,
    "format": lambda info: info.format,
    "vision": lambda info: info.vision,
    "tools": lambda info: info.tools,
    "variants": lambda info: list(info.variants),
    "selected_variant": lambda info: info.selected_variant,
    "loaded": lambda info: list(info.loaded) if info.knows_loaded else None,
    "slots": lambda info: info.slots,
    "size_bytes": lambda info: info.size_bytes,
    "context_length": lambda info: info.context_length,
    "reasoning_options": lambda info: list(info.reasoning_options),
}
OF_CONTENT = ("size_json", "metadata", "metadata_at")  # what was found out of its file
OF_FILE = ("size_bytes", "quantization", "selected_variant")  # when these change, it is another file


def _new_or_changed(node: Node, row: Model | None, info: ModelInfo) -> Model | None:
    values = {name: value_of(info) for name, value_of in VALUES.items()} | {"gone_at": None}
    if row is None:
        return Model(node=node, key=info.key, **values)
    changed = {name for name, value in values.items() if getattr(row, name) != value}
    if not changed:
        return None
    for name, value in values.items():
        setattr(row, name, value)
    if changed & set(OF_FILE):
        row.size_json = row.metadata = row.metadata_at = None
    return row
