"""What earlier loads teach about the next one: a constant that the estimate misses. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

COUNTED = 5  # loads; older ones tell of an older engine or driver
LEAST, MOST = 0.5, 2.0  # measured / estimated; beyond, something else came or went during the load


@dataclass(frozen=True, slots=True)
class Load:
    """One load: what it was estimated to take, without a correction, and what then was in use more. Bytes."""

    estimated_bytes: int
    measured_bytes: int
    context_length: int | None = None

    @property
    def is_plausible(self) -> bool:
        """False when the measurement cannot be the model's alone: less than half, or more than twice the estimate."""
        least, most = LEAST * self.estimated_bytes, MOST * self.estimated_bytes
        return self.estimated_bytes > 0 and least <= self.measured_bytes <= most


@dataclass(frozen=True, slots=True)
class Learned:
    """`bytes` to add to an estimate, may be negative, and the number of loads that say so. `is_in_doubt`: the last load
    took far more than estimated, and was left out."""

    bytes: int = 0
    count: int = 0
    is_in_doubt: bool = False


def learn(loads: Sequence[Load]) -> Learned:
    """The median of what the last plausible loads took beyond their estimates; `loads` come newest first.

    A number of bytes and not a factor, because what estimates miss (a driver's context, work buffers) does not grow
    with the context. The median, so that one load during which another program came or went changes little.
    """
    last = [load for load in loads if load.is_plausible][:COUNTED]
    is_in_doubt = bool(loads) and not loads[0].is_plausible and loads[0].measured_bytes > loads[0].estimated_bytes
    middle = round(median(load.measured_bytes - load.estimated_bytes for load in last)) if last else 0
    return Learned(middle, len(last), is_in_doubt)
