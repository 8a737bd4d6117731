"""What somebody wishes: on which GPUs a model goes, and how much of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from fleet.telemetry.readings import Gpu


class Strategy(StrEnum):
    """How a model is spread over the GPUs that `gpu_order` names; without names, over all."""

    AUTOMATIC = "automatic"  # nothing is passed: LM Studio decides
    PRIORITY = "priority"  # the first GPU is filled, what is left goes to the next
    EVEN = "even"  # equal parts
    DEDICATED = "dedicated"  # one GPU alone


@dataclass(frozen=True, slots=True)
class Profile:
    """A wish for one model or for all. GPUs that `gpu_order` does not name are left alone.

    `offload_ratio` is the part of the model on GPUs, 0..1; the rest stays in the machine's memory. None: LM Studio
    decides. `strict_vram_limit`: nothing may spill over the GPUs' own memory.
    """

    strategy: Strategy = Strategy.AUTOMATIC
    gpu_order: tuple[int, ...] = ()
    offload_ratio: float | None = None
    strict_vram_limit: bool = False

    def problems(self, gpus: Sequence[Gpu] | None = None) -> tuple[str, ...]:
        """What is wrong with it, one sentence each; with `gpus`, also whether they are the ones it names."""
        return (*self._of_strategy(), *self._of_ratio(), *self._of_names(gpus))

    def used(self, gpus: Sequence[Gpu]) -> list[Gpu]:
        """Those of `gpus` that it may use, in its order; names that no GPU has are left out."""
        if not self.gpu_order:
            return sorted(gpus, key=lambda gpu: gpu.index)
        by_index = {gpu.index: gpu for gpu in gpus}
        return [by_index[index] for index in dict.fromkeys(self.gpu_order) if index in by_index]

    def _of_strategy(self) -> list[str]:
        if self.strategy is Strategy.DEDICATED and len(self.gpu_order) != 1:
            return [f"A dedicated profile needs exactly one GPU, this one names {len(self.gpu_order)}. Pick one."]
        if self.strategy is Strategy.AUTOMATIC and self.gpu_order:
            return ["An automatic profile cannot name GPUs. Choose another strategy, or take the GPUs out."]
        return []

    def _of_ratio(self) -> list[str]:
        problems = []
        if self.offload_ratio is not None and not 0 <= self.offload_ratio <= 1:  # NaN is not in between either
            problems.append(f"The part on the GPUs is {self.offload_ratio:g}; it must be between 0 and 1.")
        elif self.offload_ratio == 0 and self.strategy is not Strategy.AUTOMATIC:
            problems.append("With nothing on the GPUs there is nothing to spread. Choose automatic, or a larger part.")
        return problems

    def _of_names(self, gpus: Sequence[Gpu] | None) -> list[str]:
        if not self.gpu_order:
            return []
        twice = [index for index, count in Counter(self.gpu_order).items() if count > 1]
        problems = [f"GPU {index} is named twice. Name each GPU once." for index in twice]
        problems += [f"GPU {index} cannot be: GPUs count from 0." for index in self.gpu_order if index < 0]
        if gpus is not None:
            there = {gpu.index for gpu in gpus}
            named = [index for index in dict.fromkeys(self.gpu_order) if index >= 0]
            problems += [_missing(index, there) for index in named if index not in there]
        return problems


def _missing(index: int, there: set[int]) -> str:
    known = f"It has {_listed(there)}." if there else "It shows no GPU at all."
    return f"The machine has no GPU {index}. {known} Change the profile, or look whether a card is lost."


def _listed(indices: set[int]) -> str:
    return ", ".join(f"GPU {index}" for index in sorted(indices))
