"""What a node holds in memory, as the eviction policy sees it (forge/eviction.py)."""

from collections import defaultdict
from collections.abc import Collection, Mapping

from fleet.telemetry.readings import Gpu, Machine
from forge import use
from forge.eviction import Resident
from forge.fit.room import RAM
from forge.models import Instance, LoadProfile, Origin


def of_nodes(node_ids: Collection[int], used: Mapping | None = None) -> dict[int, list[Resident]]:
    """node id → its loaded copies, but for those that lie on another device; `used` as use.of() tells, where the
    caller has it already."""
    rows = Instance.objects.filter(model__node__in=node_ids, model__gone_at=None).exclude(origin=Origin.LINK)
    instances = list(rows.select_related("model"))
    pinned = set(LoadProfile.objects.filter(model__node__in=node_ids, is_pinned=True).values_list("pk", flat=True))
    used = use.of(node_ids) if used is None else used
    residents: dict[int, list[Resident]] = defaultdict(list)
    for instance in instances:
        its_use = used.get((instance.model.node_id, instance.model.key), use.NONE)
        resident = instance.resident(
            is_working=its_use.is_working,
            is_pinned=instance.model_id in pinned,
            is_wanted=its_use.waiting > 0,
        )
        residents[instance.model.node_id].append(resident)
    return residents


def others(held: Collection[Resident], key: str) -> list[Resident]:
    """Those that may make room for a model: never its own copies."""
    return [one for one in held if one.model != key]


def free_by_gpu(gpus: Collection[Gpu]) -> dict[int, int]:
    """Free bytes of each GPU; one whose memory is not known has none to give."""
    return {gpu.index: gpu.memory_free_bytes or 0 for gpu in gpus}


def free_ram(machine: Machine | None) -> int | None:
    if machine is None or machine.ram_total_bytes is None or machine.ram_used_bytes is None:
        return None
    return machine.ram_total_bytes - machine.ram_used_bytes


def freed(residents: Collection[Resident], ids: Collection[str]) -> dict[int, int]:
    """Bytes by GPU that these copies hold together, as far as known."""
    total: dict[int, int] = defaultdict(int)
    for resident in residents:
        if resident.id in ids:
            for index, count in (resident.bytes_by_gpu or {}).items():
                total[index] += count
    return dict(total)


def held(residents: Collection[Resident], has_gpus: bool) -> int:
    """Bytes that all of them hold on GPUs, or in the machine's memory where it has none, as far as known."""
    parts = [pair for one in residents for pair in (one.bytes_by_gpu or {}).items()]
    return sum(count for index, count in parts if (index != RAM) == has_gpus)
