"""What is said of a fit: short sentences with the numbers. Pure."""

from collections.abc import Sequence

from fleet.allocation.amounts import amount
from fleet.allocation.planner import RAM_RESERVE_BYTES, RESERVE_BYTES
from fleet.telemetry.readings import Gpu
from forge.fit.learning import Learned
from forge.fit.room import RAM, Memory, Room
from forge.fit.size import SIMULATED, Options, Size, Told


def about_size(size: Size, options: Options, learned: Learned) -> list[str]:
    """What it needs, part by part, and what was assumed for that."""
    if size.total is None:
        return ["How large the model is, is not known."]
    source = "" if size.source == "its file" else f" by {size.source}"
    parts = [f"{amount(size.weights)} weights{source}"]
    if size.context is not None:
        where = "" if size.is_context_on_gpu else " of the machine's memory"
        tokens = f"a context of {size.context_length:,} tokens" if size.context_length else "its context"
        parts.append(f"{amount(size.context)}{where} for {tokens}")
    if size.overhead:
        parts.append(f"{amount(size.overhead)} overhead")
    if size.correction:
        sign = "minus " if size.correction < 0 else ""
        loads = "the last load" if learned.count == 1 else f"the last {learned.count} loads"
        parts.append(f"{sign}{amount(abs(size.correction))} learned from {loads}")
    sentences = [f"Needs {amount(size.total)}: {', '.join(parts)}."]
    if size.context is None:
        sentences.append("How much memory its context takes is not known, so it is not counted.")
    elif options.context_length is None and size.context_length:
        sentences.append(f"No context length is asked for: {size.context_length:,} tokens are assumed.")
    return sentences


def about_free(gpus: Sequence[Gpu], memory: Memory, is_on_gpus: bool) -> list[str]:
    """What is free on `gpus`, those that may be used; without any, in the machine's memory."""
    if memory.gpus and not gpus:
        return []
    if unknown := [gpu.index for gpu in gpus if gpu.memory_free_bytes is None]:
        return [f"How much is free on {_these(unknown)} is not known."]
    freed = sum(memory.freed_by_gpu.get(index, 0) for index in ([gpu.index for gpu in gpus] or [RAM]))
    then = f" once {amount(freed)} of other models are unloaded" if freed else ""
    if gpus:
        where = f" on {_these([gpu.index for gpu in gpus])}" if len(memory.gpus) > 1 else ""
        return [f"{amount(sum(gpu.memory_free_bytes for gpu in gpus))} are free{where}{then}."]
    if is_on_gpus:
        return ["It is to run on GPUs, but none is known here."]
    if memory.ram_bytes is None:
        return []
    return [f"No GPU is known here: {amount(memory.ram_bytes)} of the machine's memory are free{then}."]


def about_ram(bytes_in_ram: int | None, memory: Memory) -> list[str]:
    """Whether the machine's memory can be judged where something goes there."""
    if not bytes_in_ram:
        return []
    if memory.ram_bytes is None:
        return ["How much of the machine's memory is free is not known."]
    if bytes_in_ram <= memory.ram_bytes - RAM_RESERVE_BYTES or not memory.gpus:
        return []
    kept = amount(RAM_RESERVE_BYTES)
    return [f"The machine's memory has {amount(memory.ram_bytes)} free, {kept} of it should stay free: too little."]


def doubts(careful: Room, size: Size, memory: Memory, told: Told | None, learned: Learned) -> list[str]:
    """Why a load that fits in the best case is not sure to fit; none = it is."""
    reasons = []
    if careful.fits is False:
        reasons.append(_about_reserve(size, memory) if careful.missing else _about_split(memory))
    if told is not None and told.confidence == "low" and size.layers is None:
        reasons.append("LM Studio is not sure of its own estimate.")
    if told is not None and told.passes_guardrails is False:
        reasons.append("LM Studio says that its own guardrail is against this load.")
    if learned.is_in_doubt:
        reasons.append("The last load took more than twice what was estimated; why is not known, so it is not counted.")
    return reasons


def about_missing(missing: int, free: int | None, size: Size, memory: Memory) -> list[str]:
    """How much more would be needed for it to fit."""
    if not missing:
        return ["Even with nothing else in it, the GPUs' memory would be too small."] if free is None else []
    sentences = [f"{amount(missing)} are missing{', ' + _kept(size, memory) if _kept(size, memory) else ''}."]
    if memory.budget_left_bytes is not None and size.total > memory.budget_left_bytes:
        sentences.append(f"{amount(max(0, memory.budget_left_bytes))} are left of what this node's models may hold.")
    return sentences


def about_spilling(spilled: int) -> list[str]:
    """What LM Studio does with the part that finds no room on the GPUs (contract §9: nothing forbids it)."""
    where = "would go into the machine's memory and run on the processor, which is slower"
    return [f"{amount(spilled)} {where}."] if spilled > 0 else []


def about_largest(tokens: int | None) -> list[str]:
    if tokens is None:
        return []
    return [f"The largest context that fits: {tokens:,} tokens."] if tokens else ["No context fits, however short."]


def _about_reserve(size: Size, memory: Memory) -> str:
    if size.backend == SIMULATED:
        return "It fits only just: with less than a hundredth of a simulated card to spare."
    if not memory.gpus:
        return f"It leaves less than the {amount(RAM_RESERVE_BYTES)} of memory that should stay free."
    return f"It leaves less than should stay free: {amount(RESERVE_BYTES)} on each GPU for the driver and buffers."


def _about_split(memory: Memory) -> str:
    return (
        f"LM Studio decides how it is split over {len(memory.gpus)} GPUs: in equal parts, "
        "one of them would have too little room."
    )


def _kept(size: Size, memory: Memory) -> str:
    if size.backend == SIMULATED:
        return ""
    if not memory.gpus:
        return f"with {amount(RAM_RESERVE_BYTES)} kept free for the machine"
    return f"with {amount(RESERVE_BYTES)} kept free on each GPU"


def _these(indices: Sequence[int]) -> str:
    *first, last = [f"GPU {index}" for index in indices]
    return f"{', '.join(first)} and {last}" if first else last
