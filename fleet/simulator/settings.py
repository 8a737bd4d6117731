"""What the command line decides about a simulated daemon."""

from dataclasses import dataclass

from fleet.simulator.catalogue import MODELS, ScriptedModel


@dataclass(frozen=True)
class Settings:
    token: str | None = None
    vram_bytes: int = 24 * 2**30  # of all cards together
    gpus: int = 1
    overhead_bytes: int = 0  # what every load takes beyond its weights and its cache; no estimate knows of it
    ram_bytes: int = 64 * 2**30
    slots: int = 4
    jit: bool = True
    auto_evict: bool = True
    ttl_seconds: float = 3600
    speed: float = 1.0
    models: tuple[ScriptedModel, ...] = MODELS

    def card_bytes(self) -> list[int]:
        """The size of each card."""
        whole, rest = divmod(self.vram_bytes, self.gpus)
        return [whole + (card < rest) for card in range(self.gpus)]

    def scaled(self, seconds: float) -> float:
        """A simulated duration at this speed. A TTL is a promise to the client and is not scaled."""
        return seconds / self.speed
