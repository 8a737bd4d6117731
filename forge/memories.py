"""What nodes hold and have free, for the queue: the same figures and the same policy as for any other load."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from django.conf import settings

from fleet.allocation.profile import Profile
from fleet.models import AllocationProfile, Kind, Node, Reading
from fleet.telemetry.readings import Machine
from forge import residents, sizing
from forge.eviction import HasRoom, Resident
from forge.models import Model, NodePolicy
from forge.use import Use


@dataclass(frozen=True, slots=True)
class Memory:
    """`has_room` by model key: of each model whose size is known, whether the queue's load of it fits."""

    residents: list[Resident]
    has_room: Mapping[str, HasRoom]
    free_bytes: int


def of_nodes(wanted: Mapping[int, Collection[str]], used: Mapping[tuple[int, str], Use]) -> dict[int, Memory]:
    """node id → its memory, where that can be measured. `wanted`: for each node the models that it may have to load.

    Five queries, however many nodes and models.
    """
    nodes = Node.objects.filter(pk__in=wanted, kind=Kind.LMSTUDIO).only("pk", "base_url", "agent_url", "is_simulated")
    readings = {reading.node_id: reading for reading in Reading.objects.filter(node__in=nodes)}
    measured = {node.pk: machine for node in nodes if (machine := _machine(readings.get(node.pk)))}
    if not measured:
        return {}
    held = residents.of_nodes(list(measured), used)
    budgets = dict(NodePolicy.objects.filter(node__in=measured).values_list("node", "vram_budget_bytes"))
    layouts = _layouts(measured)
    memories = {}
    models = list(Model.objects.present().filter(node__in=measured, key__in=set().union(*wanted.values())))
    for node_id, machine in measured.items():
        has_room = {
            model.key: sizing.has_room(
                size, layouts.get((node_id, model.key)) or layouts.get((node_id, ""), Profile()), machine,
                held[node_id], budgets.get(node_id), is_careful=False,
            )
            for model in models
            if model.node_id == node_id and model.key in wanted[node_id] and (size := model.size) and size.is_complete
        }  # fmt: skip
        memories[node_id] = Memory(held[node_id], has_room, _free(machine))
    return memories


def _machine(reading: Reading | None) -> Machine | None:
    """As last measured, while that is fresh and tells how much is free."""
    if reading is None or reading.machine_json is None or reading.is_old or not settings.RUN_LANES_SIDE_BY_SIDE:
        return None
    machine = reading.machine
    is_known = all(gpu.memory_free_bytes is not None for gpu in machine.gpus) if machine.gpus else _free_ram(machine)
    return machine if is_known else None


def _free_ram(machine: Machine) -> bool:
    return residents.free_ram(machine) is not None


def _layouts(nodes: Collection[int]) -> dict[tuple[int, str], Profile]:
    return {(row.node_id, row.model): row.profile for row in AllocationProfile.objects.filter(node__in=list(nodes))}


def _free(machine: Machine) -> int:
    if not machine.gpus:
        return residents.free_ram(machine) or 0
    return sum(residents.free_by_gpu(machine.gpus).values())
