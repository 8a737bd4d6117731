"""A model over a node's GPUs: what would land where, and, after a load, what did."""

import dataclasses
import time
from collections.abc import Callable

from fleet.allocation.channels import Channel, carried
from fleet.allocation.placement import growth, verdict
from fleet.allocation.planner import Need, Plan, plan
from fleet.allocation.profile import Profile
from fleet.daemons.errors import DaemonError
from fleet.daemons.types import LoadedModel, LoadRequest
from fleet.hosts import Host, host_of
from fleet.lms.actions import Action
from fleet.lms.cli import LmsError
from fleet.models import AllocationProfile, Node
from fleet.telemetry.readings import Machine
from fleet.telling import Telling

SETTLE_SECONDS = 1.0  # after a load, until the driver's figures stand
FROM_DISK = "its size on disk"


def plan_load(node: Node, parameters: dict, telling: Telling) -> dict:
    """{"need", "plan", "profile"} of a load with the profile that counts for the model; nothing is loaded."""
    intent = Intent(node, parameters)
    planned = intent.plan(telling)
    for sentence in planned.sentences:
        telling.line(sentence)
    return intent.as_json(planned)


def load(node: Node, parameters: dict, telling: Telling) -> dict:
    """Load a model as its profile says, and measure where it went.

    1. What should go where. 2. Load through the channel that carries most of it. 3. What the GPUs hold now that they
    did not before. 4. Was the profile kept? Raises DaemonError.
    """
    intent = Intent(node, parameters)
    planned = intent.plan(telling)  # 1
    loaded = node.connect().load_with(intent.request, telling.at, by_cli=intent.by_cli(telling))  # 2
    telling.line(f"{loaded.instance} is loaded.")
    if loaded.dropped:
        telling.line(f"LM Studio could not be told: {', '.join(loaded.dropped)}.")
    result = intent.as_json(planned) | {
        "instance": loaded.instance,
        "channel": loaded.channel,
        "dropped": list(loaded.dropped),
        "load_seconds": loaded.load_seconds,
    }
    if intent.before is not None:
        time.sleep(SETTLE_SECONDS)
    after = read(intent.host)  # 3
    if intent.before is None or after is None:
        telling.line("Where it went could not be measured: the machine's GPUs are unknown.")
        return result
    grown = growth(intent.before, after)
    placement = verdict(intent.profile, planned, grown)  # 4
    for sentence in placement.sentences:
        telling.line(sentence)
    measured = [dataclasses.asdict(one) for one in grown]
    return result | {"measured": measured, "is_kept": placement.is_kept, "sentences": list(placement.sentences)}


class Intent:
    """A model, how it should lie, and what the machine has right now."""

    def __init__(self, node: Node, parameters: dict):
        self.node = node
        self.model: str = parameters["model"]
        self.profile: Profile = AllocationProfile.chosen(node, self.model)
        self.host: Host | None = host_of(node) if node.has_host else None
        self.before = read(self.host)
        row = node.models.filter(key=self.model).first()
        self.size_bytes: int | None = row.size_bytes if row else None
        self.request = LoadRequest(
            model=self.model,
            context_length=parameters.get("context_length"),
            profile=self.profile,
            gpu_indices=tuple(gpu.index for gpu in self.before.gpus) if self.before else (),
            is_embedding=bool(row) and row.type == "embedding",
        )

    def plan(self, telling: Telling) -> Plan:
        self.need = self._need(telling)
        return plan(self.need, self.before.gpus if self.before else (), free_ram(self.before), self.profile)

    def _need(self, telling: Telling) -> Need:
        """What it takes, from who knows best: 1. the daemon's socket, 2. `lms` there, 3. the size of its files."""
        try:
            told = self.node.connect().estimate(self.request)  # 1
            if told.get("model_bytes") is not None:
                return Need(told["model_bytes"], told.get("context_bytes"), True, "LM Studio")
        except DaemonError:
            pass
        try:
            if self.host is not None and self.node.can_be_managed:  # 2
                told = self.host.execute(
                    Action.ESTIMATE, self._estimate_parameters(), telling.line, None, telling.signed
                )
                total = told.get("total_bytes")
                if isinstance(total, int) and total >= 0:  # an agent may say anything
                    return Need(total, 0, True, "LM Studio")
        except (DaemonError, LmsError):
            pass
        return Need(self.size_bytes, None, True, FROM_DISK)  # 3

    def _estimate_parameters(self) -> dict:
        told = {"model": self.model, "context_length": self.request.context_length}
        return told | {"gpu_ratio": self.profile.offload_ratio}

    def by_cli(self, telling: Telling) -> Callable[[LoadRequest], LoadedModel] | None:
        """Loading through `lms` on the node's machine, where that can be reached."""
        if self.host is None or not self.node.can_be_managed:
            return None

        def load(request: LoadRequest) -> LoadedModel:
            wishes = {name: value for name, value in request.options.items() if value not in (None, "")}
            parameters = wishes | {"model": request.model, "gpu_ratio": request.profile.offload_ratio}
            told = self.host.execute(Action.LOAD, parameters, telling.line, None, telling.signed)
            dropped = carried(request.profile, request.options, Channel.CLI).dropped
            return LoadedModel(str(told.get("identifier") or request.model), Channel.CLI, dropped)

        return load

    def as_json(self, planned: Plan) -> dict:
        return {
            "model": self.model,
            "context_length": self.request.context_length,
            "need": dataclasses.asdict(self.need),
            "profile": dataclasses.asdict(self.profile),
            "plan": dataclasses.asdict(planned),
        }


def read(host: Host | None) -> Machine | None:
    """The machine now, None where it cannot be read."""
    try:
        return host.telemetry() if host else None
    except DaemonError:
        return None


def free_ram(machine: Machine | None) -> int | None:
    if machine is None or machine.ram_total_bytes is None or machine.ram_used_bytes is None:
        return None
    return machine.ram_total_bytes - machine.ram_used_bytes
