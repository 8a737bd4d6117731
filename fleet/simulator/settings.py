"""What the command line decides about a simulated daemon."""

from dataclasses import dataclass

from fleet.simulator.catalogue import MODELS, ScriptedModel


@dataclass(frozen=True)
class Settings:
    token: str | None = None
    vram_bytes: int = 24 * 2**30
    slots: int = 4
    jit: bool = True
    auto_evict: bool = True
    ttl_seconds: float = 3600
    speed: float = 1.0
    models: tuple[ScriptedModel, ...] = MODELS

    def scaled(self, seconds: float) -> float:
        """A simulated duration at this speed. A TTL is a promise to the client and is not scaled."""
        return seconds / self.speed
