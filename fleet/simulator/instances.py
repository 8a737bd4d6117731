"""A loaded copy of a model, its parallel slots and the line before them (contract §6)."""

import time
from collections import Counter, deque
from collections.abc import Callable

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from fleet.simulator.errors import ApiError
from fleet.simulator.models import Model


class Instance:
    """Loading, then ready, then gone. Requests wait in order of arrival, also while it still loads."""

    def __init__(
        self,
        id: str,
        model: Model,
        context_length: int,
        how: str,
        ttl_seconds: float | None,
        busy_seconds: Counter,
        landed: list[int],
        in_ram: int,
    ):
        self.id, self.model, self.context_length, self.how = id, model, context_length, how
        self.ttl_seconds = ttl_seconds  # None: stays until it is unloaded
        self.landed = landed  # bytes on each card
        self.in_ram = in_ram  # bytes that are on none
        self.last_used_at: float | None = None  # unix; when a request last got a slot or left it
        self.busy_seconds = busy_seconds  # slot occupancy by instance id; outlives the instance
        self.is_ready = self.is_gone = False
        self.load_seconds: float | None = None  # measured
        self.options: dict = {}  # load options of an explicit load, echoed in its config
        self.progress_listeners: list[Callable[[float], None]] = []
        self.running: set[Place] = set()
        self.waiting: deque[Place] = deque()
        self.loading: Deferred | None = None
        self.expiry: IDelayedCall | None = None
        self.on_idle: Callable[[], None] = lambda: None
        self._awaiting_load: list[Deferred] = []

    @property
    def is_busy(self) -> bool:
        return bool(self.running or self.waiting)

    @property
    def slots(self) -> int:
        return self.options.get("parallel") or self.model.speed.slots

    @property
    def status(self) -> str:
        """What it does, in the words of `lms ps` (contract §7.3)."""
        if not self.running:
            return "idle"
        if not self.model.is_llm:
            return "computingEmbedding"
        return "processingPrompt" if all(place.is_reading for place in self.running) else "generating"

    def config(self) -> dict:
        """`loaded_instances[].config`; embeddings have the context length only (contract §2.1)."""
        if not self.model.is_llm:
            return {"context_length": self.context_length}
        defaults = {"eval_batch_size": 512, "flash_attention": True, "offload_kv_cache_to_gpu": True}
        return {
            "context_length": self.context_length,
            "parallel": self.slots,
            **defaults,
            **self.options,
        }

    async def loaded(self) -> None:
        """Wait until the model is in memory; raises LoadFailed or InstanceLost."""
        if not self.is_ready:
            waiter = Deferred()
            self._awaiting_load.append(waiter)
            await waiter

    def become_ready(self, load_seconds: float) -> None:
        self.is_ready, self.load_seconds = True, load_seconds
        waiters, self._awaiting_load = self._awaiting_load, []
        for waiter in waiters:
            waiter.callback(None)
        self.admit()
        if not self.is_busy:
            self.on_idle()

    def admit(self) -> None:
        """Give free slots to those who wait longest."""
        while self.is_ready and not self.is_gone and self.waiting and len(self.running) < self.slots:
            place = self.waiting.popleft()
            self.running.add(place)
            place.start()

    def give_up(self, error: ApiError) -> None:
        """The instance is gone: everybody who waits for it or generates on it gets `error`."""
        self.is_gone = True
        waiters, self._awaiting_load = self._awaiting_load, []
        for waiter in waiters:
            waiter.errback(error)
        for place in [*self.running, *self.waiting]:
            place.interrupt(error)


class Place:
    """One request's place on an instance: in line, then in a slot. Leaving it frees the slot at once."""

    def __init__(self, instance: Instance, is_loader: bool):
        self.instance, self.is_loader = instance, is_loader
        self.started_at: float | None = None
        self.is_reading = False  # its prompt is processed
        self._pause: Deferred | None = None
        instance.waiting.append(self)
        instance.admit()

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_) -> None:
        if self in self.instance.running:
            self.instance.running.discard(self)
            self.instance.busy_seconds[self.instance.id] += self.seconds()
            self.instance.last_used_at = time.time()
        else:
            self.instance.waiting.remove(self)
        self.instance.admit()
        if not self.instance.is_busy and not self.instance.is_gone:
            self.instance.on_idle()

    def seconds(self) -> float:
        return time.monotonic() - self.started_at if self.started_at is not None else 0.0

    def start(self) -> None:
        self.started_at = time.monotonic()
        self.instance.last_used_at = time.time()
        if self._pause is not None:
            # Next turn of the loop: a long line of instant requests must not nest one inside the other.
            reactor.callLater(0, _wake, self._pause)

    def interrupt(self, error: ApiError) -> None:
        if self._pause is not None and not self._pause.called:
            self._pause.errback(error)

    async def admitted(self) -> None:
        """Wait for a slot."""
        if self.started_at is None:
            await self.sleep(None)

    async def sleep(self, seconds: float | None) -> None:
        """Pause for `seconds` (None: until woken); ends early with the error if the instance is lost."""
        self._pause = Deferred()
        timer = None if seconds is None else reactor.callLater(seconds, _wake, self._pause)
        try:
            await self._pause
        finally:
            if timer is not None and timer.active():
                timer.cancel()


def _wake(pause: Deferred) -> None:
    if not pause.called:
        pause.callback(None)
