"""One inference request on its way: fault, place, load, slot, prompt, tokens at their pace."""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import islice

from fleet.simulator.answers import Ask, Script, write_script
from fleet.simulator.daemon import Daemon
from fleet.simulator.errors import ApiError, ConnectionCut
from fleet.simulator.faults import Fault, on_arrival
from fleet.simulator.instances import Place
from fleet.simulator.models import Model

PROMPT_STEPS = 4  # progress reports while a prompt is read
SHORTEST_PAUSE_SECONDS = 0.004  # fast models send several tokens at a time rather than wake up for each
MOST_TOKENS_AT_ONCE = 512  # so that a very long instant answer lets other requests through


class Generation:
    def __init__(self, daemon: Daemon, model: Model, place: Place, fault: Fault | None):
        self.daemon, self.model, self.place, self.fault = daemon, model, place, fault
        self.script = Script([], False)
        self.ask: Ask | None = None
        self.produced = 0  # tokens so far
        self.began_at = self.first_token_at = self.ended_at = time.monotonic()

    @property
    def instance(self):
        return self.place.instance

    def prepare(self, ask: Ask) -> None:
        """Write the answer; raises ApiError 400 when the prompt does not fit the context."""
        room = self.instance.context_length - ask.input_tokens
        if room < 1:
            length = self.instance.context_length
            message = f"The prompt has {ask.input_tokens} tokens, the context length is {length}."
            raise ApiError(400, "invalid_request", message)
        ask.max_tokens = int(min(ask.max_tokens or room, room))
        self.ask, self.script = ask, write_script(self.model, ask)

    async def admitted(self) -> None:
        """Wait for the model to be loaded and for a slot."""
        await self.instance.loaded()
        await self.place.admitted()
        self.began_at = self.first_token_at = self.ended_at = time.monotonic()

    async def read_prompt(self, on_progress: Callable[[float], None] = lambda progress: None) -> None:
        """Spend the time to first token, reporting progress from 0 to 1."""
        seconds = self.daemon.settings.scaled(self.model.speed.ttft_seconds)
        steps = PROMPT_STEPS if seconds > 0 else 1
        self.place.is_reading = True
        for step in range(1, steps + 1):
            if seconds > 0:
                await self.place.sleep(seconds / steps)
            on_progress(step / steps)
        self.place.is_reading = False
        self.first_token_at = self.ended_at = time.monotonic()

    async def speak(self, frames: Iterable[bytes], write: Callable[[bytes], None]) -> None:
        """Write one frame for each token when its time has come; a cut or a hang strikes after its tokens."""
        frames = iter(frames)
        total = self.script.total_tokens
        last = total if self.fault is None else min(total, self.fault.after_tokens or 0)
        while self.produced < last:
            due = min(self._due(), last, self.produced + MOST_TOKENS_AT_ONCE)
            if due > self.produced:
                write(b"".join(islice(frames, due - self.produced)))
                self.produced = due
            if self.produced < last:
                await self.place.sleep(self._pause())
        self.ended_at = time.monotonic()
        if self.fault is not None:
            await self._strike()

    async def think_silently(self) -> None:
        """Spend the time of the whole answer without sending any of it."""
        await self.read_prompt()
        if self._rate() and self.fault is None:
            await self.place.sleep(max(0, self.script.total_tokens - 1) / self._rate())
        await self.speak((), lambda data: None)

    def _rate(self) -> float:
        """Tokens per second at this daemon's speed; 0: all at once."""
        return (self.model.speed.tokens_per_second or 0) * self.daemon.settings.speed

    def _due(self) -> int:
        if not self._rate():
            return self.script.total_tokens
        return int((time.monotonic() - self.first_token_at) * self._rate()) + 1

    def _pause(self) -> float:
        if not self._rate():
            return 0
        next_due = self.first_token_at + self.produced / self._rate()
        return max(next_due - time.monotonic(), SHORTEST_PAUSE_SECONDS)

    async def _strike(self) -> None:
        if self.fault.kind == "cut":
            raise ConnectionCut
        await self.place.sleep(None)  # a hang

    def tokens_per_second(self) -> float:
        seconds = self.ended_at - self.first_token_at
        # An instant answer took no time worth measuring; a millisecond keeps the figure finite.
        return round(self.produced / max(seconds, 0.001), 2)

    def first_token_seconds(self) -> float:
        return round(self.first_token_at - self.began_at, 4)


@asynccontextmanager
async def generation(
    daemon: Daemon,
    name: str,
    daemon_fault: Fault | None,
    ttl: float | None = None,
    context_length: int | None = None,
) -> AsyncIterator[Generation]:
    """Count the request, let a fault strike, take a place (loading just in time); leaving frees the place."""
    model = daemon.memory.model_named(name)
    with model.counts.visit():
        fault = daemon_fault or model.next_fault()
        await on_arrival(fault)
        with daemon.memory.seat(name, ttl, context_length) as place:
            yield Generation(daemon, model, place, fault)
