"""Everything one simulated daemon knows, in one place, so that a reset is a new beginning."""

from collections import deque

from fleet.simulator.catalogue import ScriptedModel
from fleet.simulator.chats import Chats
from fleet.simulator.downloads import Downloads
from fleet.simulator.faults import FaultSwitch
from fleet.simulator.memory import Memory
from fleet.simulator.models import Model
from fleet.simulator.settings import Settings

SOCKET_LOADS = 1_000


class Daemon:
    def __init__(self, settings: Settings):
        self.settings = settings
        self.passkeys: dict[str, str] = {}  # of the sockets' clients, fixed by their first connection
        self._begin()

    def _begin(self) -> None:
        self.requests = 0  # all HTTP requests but those of the control surface
        self.faults = FaultSwitch()
        self.chats = Chats()
        self.models: dict[str, Model] = {}
        for script in self.settings.models:
            self.add_model(script)
        self.memory = Memory(self.settings, self.models, self.faults)
        self.socket_loads: deque[dict] = deque(maxlen=SOCKET_LOADS)  # loads as they came through the socket
        self.downloads = Downloads(self.settings, self.models, self.add_model)

    def add_model(self, script: ScriptedModel) -> None:
        self.models[script.key] = Model(script, self.settings.slots)

    def reset(self) -> None:
        """As freshly started: nothing loaded, counters at zero, default speeds, no faults."""
        self.memory.unload_all("the simulated daemon was reset")
        self.downloads.forget()
        self._begin()

    def as_json(self) -> dict:
        """What GET /simulator answers."""
        memory = self.memory
        return {
            "models": {key: model.as_json(**memory.crowd(model)) for key, model in self.models.items()},
            "fault": self.faults.as_json(),
            "loads": memory.loads,
            "unloads": memory.unloads,
            "busy_unloads": memory.busy_unloads,
            "evictions": memory.evictions,
            "busy_evictions": memory.busy_evictions,
            "slot_busy_seconds": memory.slot_busy_seconds(),
            "requests": self.requests,
            "load_log": list(memory.load_log),
            "socket_loads": list(self.socket_loads),
            "gpus": [
                {"total_bytes": total, "free_bytes": free}
                for total, free in zip(self.settings.card_bytes(), memory.free_bytes(), strict=True)
            ],
            "landed": {instance.id: instance.landed for instance in memory.instances.values()},
        }
