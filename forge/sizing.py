"""What loads take, for rows: estimates with what was learned, and what the machine has for them."""

import dataclasses
from collections.abc import Collection

from fleet.allocation.placement import growth
from fleet.allocation.profile import Profile
from fleet.telemetry.readings import Machine
from forge import residents
from forge.eviction import HasRoom, Resident
from forge.fit.learning import Learned
from forge.fit.room import RAM, Memory, find_room
from forge.fit.size import Size, Told, size_of
from forge.fit.verdict import Fit
from forge.models import Measurement, Model
from forge.wishes import Wish

NOISE_BYTES = 64 * 2**20  # growth of a GPU that is no part of a model
FROM_FILE, FROM_DAEMON = "file", "daemon"


def source_of(model: Model) -> str:
    """How estimates for it are made now: only loads that were estimated alike teach anything."""
    return FROM_FILE if model.architecture else FROM_DAEMON


def told_before(wish: Wish) -> Told | None:
    """What the daemon said of this model, where its file tells nothing: kept with the queue's size of it. A context
    grows no faster than its tokens."""
    known = wish.model.size
    if wish.model.architecture or known is None or None in (known.weights, known.context, known.context_length):
        return None
    tokens = max(wish.options.get("context_length") or 0, known.context_length)
    return Told(known.weights, -(-known.context * tokens // known.context_length))


def learned_of(model: Model, backend: str) -> Learned:
    return Measurement.learned(model.key, model.quantization, backend, source_of(model))


def memory_of(
    machine: Machine | None, held: Collection[Resident], budget_bytes: int | None, gone: Collection[str] = ()
) -> Memory:
    stay = [one for one in held if one.id not in gone]
    has_gpus = bool(machine and machine.gpus)
    return Memory(
        gpus=machine.gpus if machine else (),
        ram_free_bytes=residents.free_ram(machine),
        freed_by_gpu=residents.freed(held, gone),
        budget_left_bytes=None if budget_bytes is None else max(0, budget_bytes - residents.held(stay, has_gpus)),
    )


def has_room(
    size: Size,
    layout: Profile,
    machine: Machine,
    held: Collection[Resident],
    budget_bytes: int | None,
    is_careful: bool = True,
) -> HasRoom:
    """The question that the eviction policy asks: does it fit when these copies are gone? Not careful: tightly."""

    def fits(ids: Collection[str]) -> bool:
        memory = memory_of(machine, held, budget_bytes, ids)
        return size.weights is not None and find_room(size, memory, layout, is_careful).fits is True

    return fits


def taken(before: Machine | None, after: Machine | None) -> dict[int, int] | None:
    """Bytes by GPU that are in use more than before; None where that is not known, as in a machine's own memory,
    of which a model's file is no part until it is read."""
    if before is None or after is None or not before.gpus:
        return None
    grown = growth(before, after)
    if any(one.bytes is None for one in grown):
        return None
    return {one.gpu_index: one.bytes for one in grown if one.bytes > NOISE_BYTES} or None


def expected(planned: Fit) -> dict[int, int] | None:
    """Bytes by GPU, or in the machine's memory, as planned; None where not even the size is known."""
    if planned.size.total is None:
        return None
    parts = {share.gpu_index: share.bytes_planned for share in planned.plan.shares if share.bytes_planned}
    return parts | ({RAM: planned.plan.system_bytes} if planned.plan.system_bytes else {})


def is_comparable(planned: Fit, wish: Wish) -> bool:
    """Whether what the GPUs took is all that was estimated: nothing of it went into the machine's memory."""
    is_on_gpus = wish.layout.offload_ratio in (None, 1) and wish.options.get("offload_kv_cache_to_gpu") is not False
    return is_on_gpus and planned.size.is_complete and not planned.plan.system_bytes


def learn(wish: Wish, backend: str, planned: Fit, measured_bytes: int) -> None:
    """Keep what a load took; estimates of this model on such a backend are made anew."""
    Measurement.keep(
        key=wish.model.key,
        quantization=wish.model.quantization,
        backend=backend,
        source=source_of(wish.model),
        node=wish.node,
        context_length=planned.size.context_length,
        estimated_bytes=sum(share.bytes_planned for share in planned.plan.shares) - planned.size.correction,
        measured_bytes=measured_bytes,
    )
    Model.objects.filter(key=wish.model.key).update(size_json=None)


def keep_size(wish: Wish, backend: str, told: Told | None) -> Size:
    """Write down what a load by the queue would take."""
    model = wish.model
    size = size_of(wish.facts, wish.fit_options, backend, learned_of(model, backend), told)
    model.size_json = dataclasses.asdict(size)
    Model.objects.filter(pk=model.pk).update(size_json=model.size_json)
    return size
