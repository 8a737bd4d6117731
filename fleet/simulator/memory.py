"""The cards: what is loaded, what fits, just-in-time loads, idle unloading and eviction (contract §6, §12)."""

import time
from collections import Counter, deque

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from fleet.simulator.cards import Split, spread
from fleet.simulator.errors import ApiError, InstanceLost, LoadFailed, UnknownModel
from fleet.simulator.faults import LOAD_FAILURE, FaultSwitch
from fleet.simulator.instances import Instance, Place
from fleet.simulator.models import Model
from fleet.simulator.settings import Settings

LOAD_STEPS = 20
LOAD_LOG_ENTRIES = 10_000


class Memory:
    def __init__(self, settings: Settings, models: dict[str, Model], daemon_faults: FaultSwitch):
        self.settings, self.models, self.daemon_faults = settings, models, daemon_faults
        self.instances: dict[str, Instance] = {}
        self.loads = self.unloads = self.busy_unloads = self.evictions = self.busy_evictions = 0
        self.load_log: deque[dict] = deque(maxlen=LOAD_LOG_ENTRIES)
        self._busy_seconds: Counter[str] = Counter()  # by instance id, over all instances that ever had it

    def ready(self, model: Model) -> list[Instance]:
        return [one for one in self.instances.values() if one.model is model and one.is_ready]

    def crowd(self, model: Model) -> dict[str, int]:
        """Requests of a model that hold a slot, and that wait for one or for the load."""
        mine = [one for one in self.instances.values() if one.model is model]
        return {
            "active": sum(len(instance.running) for instance in mine),
            "waiting": sum(len(instance.waiting) for instance in mine),
        }

    def model_named(self, name: str) -> Model:
        """The model behind a model key or an instance id; raises UnknownModel."""
        if instance := self.instances.get(name):
            return instance.model
        if model := self.models.get(name):
            return model
        raise UnknownModel(name)

    def seat(self, name: str, ttl_seconds: float | None = None, context_length: int | None = None) -> Place:
        """A place on the instance of that name, on any of that model, or on one loaded just in time."""
        model = self.model_named(name)
        instance = self.instances.get(name) or self._least_busy(model)
        if instance is not None:
            self._stop_expiry(instance)
            return Place(instance, is_loader=False)
        if not self.settings.jit:
            what = f'Model "{name}" is not loaded.' if self.instances else "No models loaded."
            raise ApiError(400, "invalid_request", f"{what} Please load a model first.", param="model")
        if self.settings.auto_evict:
            self._evict_jit_instances(f"evicted by the load of {model.key}")
        ttl = self.settings.ttl_seconds if ttl_seconds is None else ttl_seconds
        return Place(self.load(model, "jit", context_length, ttl), is_loader=True)

    def load(
        self,
        model: Model,
        how: str,
        context_length: int | None,
        ttl_seconds: float | None = None,
        identifier: str = "",
        split: Split | None = None,
        options: dict | None = None,
    ) -> Instance:
        """Begin to load another copy of a model. Raises LoadFailed when it does not fit or its name is taken.

        `options`: what else was asked of it, in the names of `loaded_instances[].config` (contract §2.1).
        """
        if identifier in self.instances:
            raise LoadFailed(model.key, f'the identifier "{identifier}" is already in use.')
        context = model.context(context_length)
        options = options or {}
        is_cache_on_cards = options.get("offload_kv_cache_to_gpu", True)
        landed, in_ram = self._land(model, context, split or Split(), is_cache_on_cards)
        id = identifier or self._free_id(model.key)
        instance = Instance(id, model, context, how, ttl_seconds, self._busy_seconds, landed, in_ram)
        instance.options = options
        self.instances[instance.id] = instance
        instance.on_idle = lambda: self._start_expiry(instance)
        fails = bool(model.faults.take((LOAD_FAILURE,)) or self.daemon_faults.take((LOAD_FAILURE,)))
        # The load belongs to the daemon, not to the request that caused it: it survives the client.
        instance.loading = ensureDeferred(self._run_load(instance, fails))
        instance.loading.addErrback(_ignore_cancelled)
        return instance

    def free_bytes(self) -> list[int]:
        """What is free on each card."""
        used = [sum(column) for column in zip(*(one.landed for one in self.instances.values()), strict=True)]
        sizes = self.settings.card_bytes()
        return [size - taken for size, taken in zip(sizes, used or [0] * len(sizes), strict=True)]

    def free_ram_bytes(self) -> int:
        """What is free of the machine's own memory."""
        return self.settings.ram_bytes - sum(one.in_ram for one in self.instances.values())

    def _land(self, model: Model, context: int, split: Split, is_cache_on_cards: bool) -> tuple[list[int], int]:
        """The load's bytes on each card, and beside them; raises LoadFailed where there is no room for its part."""
        free = self.free_bytes()
        weights, cache = model.script.size_bytes + self.settings.overhead_bytes, model.script.cache_bytes(context)
        landed = spread(weights + cache * is_cache_on_cards, free, split)
        if any(part > room for part, room in zip(landed, free, strict=True)):
            told = f"needs {sum(landed) / 1e9:.1f} GB of VRAM, {max(sum(free), 0) / 1e9:.1f} GB are free"
            raise LoadFailed(model.key, f"insufficient memory: {told}.")
        if (in_ram := weights + cache - sum(landed)) > self.free_ram_bytes():
            told = f"needs {in_ram / 1e9:.1f} GB of RAM, {self.free_ram_bytes() / 1e9:.1f} GB are free"
            raise LoadFailed(model.key, f"insufficient memory: {told}.")
        return landed, in_ram

    async def _run_load(self, instance: Instance, fails: bool) -> None:
        started = time.monotonic()
        seconds = self.settings.scaled(instance.model.speed.load_seconds)
        steps = LOAD_STEPS if seconds > 0 else 1
        for step in range(1, steps + 1):
            await deferLater(reactor, seconds / steps)
            if fails and step * 2 >= steps:
                del self.instances[instance.id]
                instance.give_up(LoadFailed(instance.model.key, "simulated load failure."))
                return
            for listen in instance.progress_listeners:
                listen(step / steps)
        self.loads += 1
        self.load_log.append({"model": instance.model.key, "at": time.time(), "how": instance.how})
        instance.become_ready(time.monotonic() - started)

    def unload(self, instance: Instance, why: str) -> None:
        """Take an instance out of memory; its requests end with InstanceLost."""
        self.unloads += 1
        self.busy_unloads += instance.is_busy
        self.drop(instance, InstanceLost(instance.id, why))

    def drop(self, instance: Instance, error: ApiError) -> None:
        """Forget an instance, also one that still loads; its requests end with `error`."""
        del self.instances[instance.id]
        self._stop_expiry(instance)
        instance.loading.cancel()
        instance.give_up(error)

    def unload_all(self, why: str) -> None:
        for instance in list(self.instances.values()):
            self.unload(instance, why)

    def slot_busy_seconds(self) -> dict[str, float]:
        """Slot occupancy by instance id, what is running now included."""
        totals = Counter(self._busy_seconds)
        for instance in self.instances.values():
            totals[instance.id] += sum(place.seconds() for place in instance.running)
        return {id: round(seconds, 6) for id, seconds in totals.items()}

    def _least_busy(self, model: Model) -> Instance | None:
        mine = [instance for instance in self.instances.values() if instance.model is model]
        return min(mine, key=lambda one: len(one.running) + len(one.waiting), default=None)

    def _evict_jit_instances(self, why: str) -> None:
        """Make room the way the real daemon does: without a look at whether they are busy."""
        for instance in [one for one in self.instances.values() if one.how == "jit"]:
            self.evictions += 1
            self.busy_evictions += instance.is_busy
            self.unload(instance, why)

    def _free_id(self, key: str) -> str:
        id, number = key, 1
        while id in self.instances:
            number += 1
            id = f"{key}:{number}"
        return id

    def _start_expiry(self, instance: Instance) -> None:
        self._stop_expiry(instance)
        if instance.ttl_seconds is not None:
            why = f"unused for {instance.ttl_seconds:g} s"
            instance.expiry = reactor.callLater(instance.ttl_seconds, self.unload, instance, why)

    def _stop_expiry(self, instance: Instance) -> None:
        if instance.expiry is not None and instance.expiry.active():
            instance.expiry.cancel()


def _ignore_cancelled(failure: Failure) -> None:
    """A load that an unload called off is no error."""
    failure.trap(CancelledError)
