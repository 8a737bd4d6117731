"""The room that a machine has, and whether a load of some size finds its place in it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fleet.allocation.planner import RAM_RESERVE_BYTES, RESERVE_BYTES, Need, Plan, all_fit, plan
from fleet.allocation.profile import Profile, Strategy
from fleet.telemetry.readings import Gpu
from forge.fit.size import SIMULATED, Size

RAM = -1  # stands for the machine's memory where bytes are told by GPU
PLENTY = 2**62  # bytes, where the machine's memory is not the question
GPU_BACKENDS = ("cuda", "rocm", "vulkan", "metal", SIMULATED)
FEWEST_LAYERS = 24  # of a model that needs several GPUs, where its file was not read


@dataclass(frozen=True, slots=True)
class Memory:
    """What is free on a machine. `freed_by_gpu`: bytes that would be made free first, by GPU index or RAM.

    `budget_left_bytes`: what may still be taken on this node, on its GPUs, or in its memory where it has none.
    """

    gpus: tuple[Gpu, ...]
    ram_free_bytes: int | None
    freed_by_gpu: Mapping[int, int] = field(default_factory=dict)
    budget_left_bytes: int | None = None

    @property
    def ram_bytes(self) -> int | None:
        """What would be free in the machine's memory."""
        return None if self.ram_free_bytes is None else self.ram_free_bytes + self.freed_by_gpu.get(RAM, 0)

    def problems(self, profile: Profile) -> tuple[str, ...]:
        """Why a profile cannot be kept here; a machine without GPUs has nothing that it could name wrongly."""
        return profile.problems(self.gpus) if self.gpus else ()

    def used(self, profile: Profile) -> list[Gpu]:
        """The GPUs that a profile may use, in its order, with what would be free on them.

        Without names an integrated GPU counts only where there is no other: so llama.cpp chooses its devices.
        """
        discrete = [gpu for gpu in self.gpus if not gpu.is_integrated]
        eligible = self.gpus if profile.gpu_order or not discrete else discrete
        return [_grown(gpu, self.freed_by_gpu.get(gpu.index, 0)) for gpu in profile.used(eligible)]


@dataclass(frozen=True, slots=True)
class Room:
    """Whether everything finds room where it is wished; None = cannot be told. `missing`: bytes it lacks."""

    fits: bool | None
    missing: int = 0


@dataclass(frozen=True, slots=True)
class _Ground:
    """What the planner is given.

    It keeps a reserve of its own and knows no overhead, so `shown` are the GPUs made smaller or larger by the
    difference. `overheads` and `in_ram` are the bytes that it does not see.
    """

    gpus: Sequence[Gpu]
    shown: Sequence[Gpu]
    overheads: Sequence[int]
    need: Need
    in_ram: int

    def taken(self, planned: Plan) -> int:
        """Bytes on the GPUs, overhead included."""
        pairs = zip(planned.shares, self.overheads, strict=True)
        return sum(share.bytes_planned + over for share, over in pairs if share.bytes_planned)


def find_room(size: Size, memory: Memory, profile: Profile, is_careful: bool = True) -> Room:
    """Does a load find room where the profile wishes it? The weights' size must be known.

    Careful: the reserves stay free, every GPU in use pays the overhead, layers are whole, and where LM Studio splits
    by itself it fits both as one heap and in equal parts, its default (contract §9). Else the best case: no reserves,
    one overhead, any split. Nothing can be told of a GPU backend whose GPUs are not known.
    """
    if memory.problems(profile):
        return Room(False)
    ground = _ground(size, memory, profile, is_careful)
    if not ground.gpus and is_for_gpus(size, profile):
        return Room(None)
    planned = plan(ground.need, ground.shown, PLENTY, replace(profile, strict_vram_limit=True))
    rooms = [
        Room(planned.fits, sum(_lacking(share.free_after) for share in planned.shares if share.bytes_planned)),
        _ram_room(planned.system_bytes + ground.in_ram, memory, is_careful),
    ]
    if is_careful and profile.strategy is Strategy.AUTOMATIC and len(ground.gpus) > 1:
        evenly = find_room(size, memory, replace(profile, strategy=Strategy.EVEN))
        rooms.append(Room(evenly.fits))
    together = Room(all_fit(room.fits for room in rooms), sum(room.missing for room in rooms))
    return _within(memory.budget_left_bytes, together, ground.taken(planned) if ground.gpus else planned.system_bytes)


def lay_out(size: Size, memory: Memory, profile: Profile, is_careful: bool = True) -> Plan:
    """The planner's layout with each GPU's overhead in its share."""
    ground = _ground(size, memory, profile, is_careful)
    ram = memory.ram_bytes
    kept = 0 if is_careful else RAM_RESERVE_BYTES
    planned = plan(ground.need, ground.shown, None if ram is None else ram - ground.in_ram + kept, profile)
    shares = []
    for share, gpu, over in zip(planned.shares, ground.gpus, ground.overheads, strict=True):
        part, free = share.bytes_planned + (over if share.bytes_planned else 0), gpu.memory_free_bytes
        after = None if free is None else free - part
        shares.append(replace(share, bytes_planned=part, free_before=free, free_after=after))
    return replace(planned, shares=tuple(shares), system_bytes=planned.system_bytes + ground.in_ram)


def is_for_gpus(size: Size, profile: Profile) -> bool:
    """Whether the engine is one for GPUs, and the profile wants something there."""
    return size.backend in GPU_BACKENDS and profile.offload_ratio != 0


def reserve_of(gpu: Gpu, backend: str) -> int:
    """Bytes kept free on a GPU. A simulated card has no driver: a hundredth, for figures that were rounded."""
    return (gpu.memory_free_bytes or 0) // 100 if backend == SIMULATED else RESERVE_BYTES


def _ground(size: Size, memory: Memory, profile: Profile, is_careful: bool) -> _Ground:
    gpus = memory.used(profile)
    is_on_gpus = bool(gpus) and profile.offload_ratio != 0
    context = size.context or 0
    beside = context if is_on_gpus and not size.is_context_on_gpu else 0
    weights = size.weights + size.correction + (0 if is_on_gpus else size.overhead)
    need = Need(max(0, weights), context - beside)
    counts = [is_on_gpus and (is_careful or place == 0) for place in range(len(gpus))]
    overheads = [size.overhead if is_counted else 0 for is_counted in counts]
    kept = _kept(gpus, size, need, profile) if is_careful else [0] * len(gpus)
    pairs = zip(gpus, overheads, kept, strict=True)
    shown = [_grown(gpu, RESERVE_BYTES - over - keep) for gpu, over, keep in pairs]
    return _Ground(gpus, shown, overheads, need, beside)


def _kept(gpus: Sequence[Gpu], size: Size, need: Need, profile: Profile) -> list[int]:
    """What stays free on each GPU: its reserve, and where a model is split the layer that may not fit any more."""
    layer = 0
    if len(gpus) > 1 and size.backend != SIMULATED:  # simulated cards split to the byte
        layer = (need.weights_bytes + need.context_bytes) // (size.layers or FEWEST_LAYERS)
    has_layer = [profile.strategy is Strategy.EVEN or place > 0 for place in range(len(gpus))]
    pairs = zip(gpus, has_layer, strict=True)
    return [reserve_of(gpu, size.backend) + (layer if is_split else 0) for gpu, is_split in pairs]


def _grown(gpu: Gpu, by: int) -> Gpu:
    """A GPU with so many bytes more, or less, to plan with: only what the planner looks at. Not known stays so."""
    if not by:
        return gpu
    total, free = gpu.memory_total_bytes, gpu.memory_free_bytes
    return Gpu(
        gpu.index,
        gpu.name,
        memory_total_bytes=None if total is None else total + by,
        memory_free_bytes=None if free is None else free + by,
    )


def _lacking(free_after: int | None) -> int:
    """Of a share as the planner sees it, which keeps its reserve."""
    return 0 if free_after is None else max(0, RESERVE_BYTES - free_after)


def _ram_room(bytes: int, memory: Memory, is_careful: bool) -> Room:
    if not bytes:
        return Room(True)
    if memory.ram_bytes is None:
        return Room(None)
    missing = max(0, bytes - memory.ram_bytes + (RAM_RESERVE_BYTES if is_careful else 0))
    return Room(missing == 0, missing)


def _within(budget: int | None, room: Room, bytes: int) -> Room:
    over = 0 if budget is None else max(0, bytes - budget)
    return Room(False, max(room.missing, over)) if over else room
