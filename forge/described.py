"""Models, their copies, fits and loads as JSON: for scripts, and for `--json` in a terminal. None = not known."""

from collections.abc import Mapping
from datetime import datetime

from django.utils import timezone

from fleet.models import Command, Node
from fleet.models.command import LOAD
from forge.fit.size import Told
from forge.fit.verdict import Fit
from forge.listing import Row, rows
from forge.places import Copy, Place, copies_of
from forge.preview import Preview

LAST_LINES = 20  # of what a load said


def inventory(filters: Mapping[str, str]) -> dict:
    """Every model over all nodes, or those that listing.rows() finds, from rows: with how old they are."""
    found = rows(filters)
    copies = copies_of([place.model for row in found for place in row.places])
    nodes = Node.objects.filter(**{"name": filters["node"]} if filters.get("node") else {})
    return {
        "nodes": [of_node(node) for node in nodes.defer("token", "agent_key", "notes")],
        "models": [of_row(row, copies) for row in found],
    }


def of_node(node: Node) -> dict:
    return {
        "name": node.name,
        "kind": node.kind,
        "is_enabled": node.is_enabled,
        "is_online": node.is_online,
        "state": node.state,
        "problem": node.reason_explanation or None,
        "looked_at": told(node.checked_at),
        "last_seen_at": told(node.last_seen_at),
    }


def of_row(row: Row, copies: Mapping[int, list[Copy]]) -> dict:
    model = row.model
    return {
        "key": model.key,
        "name": model.name,
        "type": model.type,
        "publisher": model.publisher or None,
        "architecture": model.architecture_name or None,
        "parameters": model.parameters or None,
        "vision": model.vision,
        "tools": model.tools,
        "reasoning_options": model.reasoning_options,
        "nodes": [of_place(place, copies.get(place.model.pk, [])) for place in row.places],
    }


def of_place(place: Place, copies: list[Copy]) -> dict:
    """One model on one node. `copies` is None where the node does not tell what is loaded."""
    model = place.model
    return {
        "node": model.node.name,
        "is_online": model.node.is_online,
        "is_loading": place.is_loading,
        "progress": place.progress,
        "format": model.format or None,
        "quantization": model.quantization or None,
        "variants": model.variants,
        "size_bytes": model.size_bytes,
        "max_context_length": model.context_length,
        "copies": None if place.copies is None else [of_copy(copy) for copy in copies],
    }


def of_copy(copy: Copy) -> dict:
    instance = copy.instance
    return {
        "instance": instance.identifier,
        "loaded_by": instance.origin,
        "is_busy": copy.is_busy,
        "prompts_running": copy.running,
        "is_pinned": copy.is_pinned,
        "is_leaving": copy.is_leaving,
        "context_length": instance.context_length,
        "parallel": instance.parallel,
        "options": instance.options,
        "memory_bytes": instance.total_bytes,
        "bytes_by_gpu": instance.bytes_by_gpu,
        "is_measured": instance.is_measured,
        "loaded_at": told(instance.loaded_at),
        "used_at": told(instance.used_at),
        "ttl_seconds": instance.ttl_seconds,
        "daemon_ttl_seconds": instance.told_ttl_seconds,
        "idle_left_seconds": idle_left(copy),
    }


def idle_left(copy: Copy) -> float | None:
    """Seconds until it is unloaded, by us or by its daemon; None: it stays, or its time does not run now."""
    instance = copy.instance
    ours = None if copy.is_pinned else instance.unload_at
    ends = [at for at in (ours, instance.daemon_lets_go_at) if at is not None]
    if copy.is_busy or not ends:
        return None
    return max(0.0, round((min(ends) - timezone.now()).total_seconds(), 1))


def of_fit(seen: Preview) -> dict:
    """The verdict counts for when what is named in `evict` is gone, as do the bytes that are free then."""
    after, decision = seen.fit_after, seen.decision
    has_reading = seen.reading is not None and seen.wish.node.has_host
    return {
        "model": seen.wish.model.key,
        "node": seen.wish.node.name,
        "verdict": slug(after),
        "verdict_now": slug(seen.fit),
        "context_length": after.size.context_length,
        "needed_bytes": after.size.total,
        "weights_bytes": after.size.weights,
        "weights_source": after.size.source or None,
        "context_bytes": after.size.context,
        "overhead_bytes": after.size.overhead,
        "learned_bytes": after.size.correction,
        "learned_from_loads": seen.learned.count,
        "free_bytes": after.free_bytes,
        "missing_bytes": after.missing_bytes,
        "largest_context": after.largest_context,
        "evict": list(decision.evict) if decision and decision.is_possible else [],
        "blockers": [{"model": model or None, "why": why} for model, why in decision.blockers] if decision else [],
        "sentences": list(after.sentences),
        "measured_at": told(seen.reading.read_at) if has_reading else None,
        "is_old": seen.reading.is_old if has_reading and seen.reading.read_at else None,
    }


def slug(fit: Fit) -> str:
    """ "fits", "tight", "too_large" or "unknown"."""
    return fit.verdict.name.lower()


def of_estimate(estimate: Told | None) -> dict | None:
    """What LM Studio says itself."""
    if estimate is None:
        return None
    return {
        "model_bytes": estimate.model_bytes,
        "context_bytes": estimate.context_bytes,
        "gpu_bytes": estimate.total_vram_bytes,
        "confidence": estimate.confidence or None,
        "passes_guardrails": estimate.passes_guardrails,
    }


def of_command(command: Command) -> dict:
    """A load or an ejection. `instance` is the copy that it made, or that was to go."""
    wished = command.parameters
    return {
        "id": str(command.pk),
        "action": "load" if command.action == LOAD else "eject",
        "node": command.node.name,
        "model": wished.get("model"),
        "instance": command.result.get("instance") or (None if command.action == LOAD else wished.get("instance")),
        "state": command.state,
        "progress": command.progress,
        "problem": command.problem or None,
        "output": command.output.splitlines()[-LAST_LINES:],
        "asked_at": told(command.asked_at),
        "started_at": told(command.started_at),
        "finished_at": told(command.finished_at),
    }


def told(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
