"""Where a model would go: its bytes laid out over GPUs and the machine's memory, as a profile wishes. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fleet.allocation.profile import Profile, Strategy
from fleet.telemetry.readings import Gpu

RESERVE_BYTES = 512 * 2**20  # kept free on every GPU: the driver's context, scratch buffers, perhaps a display
RAM_RESERVE_BYTES = 2**30  # kept free for everything else that runs on the machine


@dataclass(frozen=True, slots=True)
class Need:
    """What one copy of a model takes; None = not known."""

    weights_bytes: int | None = None
    context_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """One GPU's part. `free_after` below 0 is what it lacks. `fits`: None = cannot be told."""

    gpu_index: int
    name: str
    bytes_planned: int
    free_before: int | None
    free_after: int | None
    fits: bool | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The shares and `system_bytes`, the part in the machine's memory, make up the need. None = cannot be told."""

    shares: tuple[Share, ...]
    system_bytes: int | None
    fits: bool | None


def plan(need: Need, gpus: Sequence[Gpu], ram_free_bytes: int | None, profile: Profile) -> Plan:
    """Lay a model out. Never raises: what is not known stays None, and what cannot be does not fit.

    1. The size of the model is not known: nothing can be planned.
    2. What the profile keeps off the GPUs goes into the machine's memory; without a GPU, everything.
    3. The rest goes onto the GPUs: in order as far as each has room, or in equal parts.
    4. What finds no room goes into the machine's memory. Under a strict limit it may not: it stays on the last GPU,
       which then does not hold it.
    5. It fits if everything fits that gets something, and every GPU that was named is there.
    """
    if need.weights_bytes is None:  # 1
        return Plan((), None, None)
    used = profile.used(gpus)
    total = need.weights_bytes + (need.context_bytes or 0)
    wished = total if profile.offload_ratio is None else round(total * min(max(profile.offload_ratio, 0), 1))
    parts = _parts(wished, used, profile)  # 2, 3, 4
    shares = tuple(_share(gpu, part) for gpu, part in zip(used, parts, strict=True))
    system = total - sum(parts)
    is_sound = not gpus or not profile.problems(gpus)
    known = (None if need.context_bytes is None else True, is_sound)
    fits = all_fit([*known, _ram_fits(system, ram_free_bytes), *(share.fits for share in shares)])  # 5
    return Plan(shares, system, fits)


def all_fit(answers: Iterable[bool | None]) -> bool | None:
    """One no is a no; else one unknown is an unknown."""
    answers = list(answers)
    if False in answers:
        return False
    return None if None in answers else True


def _parts(wished: int, gpus: Sequence[Gpu], profile: Profile) -> list[int]:
    """What each GPU gets of `wished` bytes; less in all where the rest may spill into the machine's memory."""
    rooms = [_room(gpu) for gpu in gpus]
    if profile.strategy is Strategy.EVEN:
        return _evenly(wished, [None] * len(gpus) if profile.strict_vram_limit else rooms)
    parts = _in_order(wished, rooms)
    if profile.strict_vram_limit and parts:
        parts[-1] += wished - sum(parts)
    return parts


def _in_order(wished: int, rooms: Iterable[int | None]) -> list[int]:
    parts = []
    for room in rooms:
        parts.append(wished if room is None else min(wished, room))
        wished -= parts[-1]
    return parts


def _evenly(wished: int, rooms: Sequence[int | None]) -> list[int]:
    """Equal to the byte; the fullest GPU sets the size, because parts that differ would not be even."""
    count = len(rooms)
    most = min((room for room in rooms if room is not None), default=wished)
    return [min(wished // count + (place < wished % count), most) for place in range(count)]


def _room(gpu: Gpu) -> int | None:
    """Bytes that can be planned on it. Where free memory is not told: as if it were empty; None = not even that."""
    bound = gpu.memory_total_bytes if gpu.memory_free_bytes is None else gpu.memory_free_bytes
    return None if bound is None else max(0, bound - RESERVE_BYTES)


def _share(gpu: Gpu, part: int) -> Share:
    free, room = gpu.memory_free_bytes, _room(gpu)
    if part == 0:
        fits = True
    elif room is not None and part > room:
        fits = False
    else:
        fits = None if free is None else True
    return Share(gpu.index, gpu.name, part, free, None if free is None else free - part, fits)


def _ram_fits(system: int, free: int | None) -> bool | None:
    if system == 0:
        return True
    return None if free is None else system <= free - RAM_RESERVE_BYTES
