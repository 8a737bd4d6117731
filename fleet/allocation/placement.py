"""Where a model went: memory before and after its load, held against what the profile wished. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.allocation.amounts import amount
from fleet.allocation.planner import Plan, Share
from fleet.allocation.profile import Profile, Strategy
from fleet.telemetry.readings import Gpu, Machine

# Growth that is no part of a model: every GPU an engine can see gets a context of its own, and desktops come and go.
NOISE_BYTES = 512 * 2**20
# Layers are whole: a split cannot be finer than one, and the largest models have the largest.
EVEN_TOLERANCE = 0.2  # of the largest part
RATIO_TOLERANCE = 0.15  # of the whole need


@dataclass(frozen=True, slots=True)
class Growth:
    """How much more of one GPU was in use after the load than before; None = not known, such as for a lost GPU.

    It counts whatever happened meanwhile, other programs' memory too.
    """

    gpu_index: int
    name: str
    bytes: int | None
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One wish ("gpus", "order", "even", "ratio" or "strict") held against the figures; None = cannot be told."""

    wish: str
    is_kept: bool | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Placement:
    """`is_kept`: True when every wish was kept, False when one was not, else None, also when nothing was wished."""

    findings: tuple[Finding, ...]
    is_kept: bool | None

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(finding.sentence for finding in self.findings)


def growth(before: Machine, after: Machine) -> tuple[Growth, ...]:
    """The growth of every GPU of either reading. A GPU is known again by its uuid; without one, by its index."""
    later = list(after.gpus)
    grown = []
    for gpu in before.gpus:
        again = _same(gpu, later)
        if again is not None:
            later.remove(again)
        grown.append(_growth(gpu, again))
    grown += [Growth(gpu.index, gpu.name, None) for gpu in later]
    return tuple(sorted(grown, key=lambda one: one.gpu_index))


def verdict(profile: Profile, plan: Plan, grown: Sequence[Growth]) -> Placement:
    """Was the profile kept? `plan` is what was expected of it, `grown` what was measured.

    1. GPUs outside the profile stay as they were, and those inside take something.
    2. By priority: no GPU takes a part while an earlier one has not taken its own.
    3. Even: the parts differ by no more than a layer or so.
    4. The part on all GPUs together is as wished.
    5. Nothing spilled over the GPUs' own memory: no driver tells that.
    """
    findings = []
    if profile.gpu_order:
        findings.append(_of_gpus(profile, plan, grown))  # 1
    if profile.strategy is Strategy.PRIORITY:
        findings.append(_of_order(profile, plan, grown))  # 2
    if profile.strategy is Strategy.EVEN:
        findings.append(_of_parts(_named(profile, grown)))  # 3
    if profile.offload_ratio is not None:
        findings.append(_of_ratio(profile.offload_ratio, plan, grown))  # 4
    if profile.strict_vram_limit:
        sentence = "Whether anything spilled over the GPUs' own memory is not known: no driver tells it here."
        findings.append(Finding("strict", None, sentence))  # 5
    kept = [finding.is_kept for finding in findings]
    is_kept = False if False in kept else None if None in kept or not kept else True
    return Placement(tuple(findings), is_kept)


def _same(gpu: Gpu, candidates: Sequence[Gpu]) -> Gpu | None:
    for other in candidates:
        if gpu.uuid and gpu.uuid == other.uuid:
            return other
    nameless = [other for other in candidates if not (gpu.uuid and other.uuid)]
    return next((other for other in nameless if other.index == gpu.index), None)


def _growth(before: Gpu, after: Gpu | None) -> Growth:
    if after is None:
        return Growth(before.index, before.name, None, is_gone=True)
    earlier, later = _used(before), _used(after)
    return Growth(after.index, after.name, None if earlier is None or later is None else later - earlier)


def _used(gpu: Gpu) -> int | None:
    if gpu.memory_used_bytes is not None or gpu.memory_total_bytes is None or gpu.memory_free_bytes is None:
        return gpu.memory_used_bytes
    return gpu.memory_total_bytes - gpu.memory_free_bytes


def _of_gpus(profile: Profile, plan: Plan, grown: Sequence[Growth]) -> Finding:
    named = _named(profile, grown)
    strays = [one for one in grown if one not in named and (one.bytes or 0) > NOISE_BYTES]
    asked = f"asked for {_these(profile.gpu_order)} alone"
    if strays:
        return Finding("gpus", False, _sentence(asked, *(_went(one) for one in strays)))
    if not named:
        return Finding("gpus", None, _sentence(asked, "nothing is known of it"))
    if unknown := [one for one in grown if one.bytes is None]:
        return Finding("gpus", None, _sentence(asked, *(_unknown(one) for one in unknown)))
    went = [_went(one) for one in named]
    if sum(one.bytes for one in named) > NOISE_BYTES:
        return Finding("gpus", True, _sentence(asked, *went))
    planned = sum(share.bytes_planned for share in plan.shares)
    if planned > 2 * NOISE_BYTES:
        return Finding("gpus", False, _sentence(asked, *went))
    return Finding("gpus", None, _sentence(asked, *went, "too little to tell a model from other programs"))


def _of_order(profile: Profile, plan: Plan, grown: Sequence[Growth]) -> Finding:
    asked = f"asked to fill {_these([one.gpu_index for one in _named(profile, grown)])} in this order"
    named = _named(profile, grown)
    expected = {share.gpu_index: share for share in plan.shares}
    for place, one in enumerate(named):
        later = [other for other in named[place + 1 :] if (other.bytes or 0) > NOISE_BYTES]
        if later and _has_room_left(one, expected.get(one.gpu_index)):
            return Finding("order", False, _sentence(asked, _went(one), *(_went(other) for other in later)))
    if unknown := [one for one in named if one.bytes is None]:
        return Finding("order", None, _sentence(asked, *(_unknown(one) for one in unknown)))
    if not plan.shares:
        return Finding("order", None, _sentence(asked, "what each of them could take was not known"))
    return Finding("order", True, _sentence(asked, *(_went(one) for one in named)))


def _has_room_left(one: Growth, share: Share | None) -> bool:
    """It took clearly less than was planned for it."""
    return one.bytes is not None and share is not None and one.bytes < share.bytes_planned - NOISE_BYTES


def _of_parts(named: Sequence[Growth]) -> Finding:
    asked = "asked for equal parts"
    if unknown := [one for one in named if one.bytes is None]:
        return Finding("even", None, _sentence(asked, *(_unknown(one) for one in unknown)))
    sizes = [one.bytes for one in named]
    if not sizes or max(sizes) <= NOISE_BYTES:
        return Finding("even", None, _sentence(asked, "no GPU took anything worth comparing"))
    is_even = max(sizes) - min(sizes) <= max(NOISE_BYTES, EVEN_TOLERANCE * max(sizes))
    return Finding("even", is_even, _sentence(asked, *(_went(one) for one in named)))


def _of_ratio(ratio: float, plan: Plan, grown: Sequence[Growth]) -> Finding:
    asked = f"asked for {ratio:.0%} of the model on the GPUs"
    if plan.system_bytes is None:
        return Finding("ratio", None, _sentence(asked, "how large the model is, is not known"))
    if not grown or any(one.bytes is None for one in grown):
        return Finding("ratio", None, _sentence(asked, "not every GPU's memory is known"))
    total = plan.system_bytes + sum(share.bytes_planned for share in plan.shares)
    there = sum(max(0, one.bytes) for one in grown)
    slack = max(RATIO_TOLERANCE * total, NOISE_BYTES * len(grown))
    went = f"{amount(there)} of {amount(total)} went there"
    return Finding("ratio", abs(there - ratio * total) <= slack, _sentence(asked, went))


def _named(profile: Profile, grown: Sequence[Growth]) -> list[Growth]:
    """The GPUs that the profile uses, in its order; all where it names none."""
    if not profile.gpu_order:
        return list(grown)
    return [one for index in profile.gpu_order for one in grown if one.gpu_index == index]


def _these(indices: Sequence[int]) -> str:
    return ", ".join(f"GPU {index}" for index in indices) or "the GPUs"


def _went(one: Growth) -> str:
    if one.bytes is None:
        return _unknown(one)
    return f"{amount(max(0, one.bytes))} went to GPU {one.gpu_index}"


def _unknown(one: Growth) -> str:
    return f"GPU {one.gpu_index} is gone" if one.is_gone else f"what GPU {one.gpu_index} took is not known"


def _sentence(asked: str, *went: str) -> str:
    return f"{asked[0].upper()}{asked[1:]}; {', '.join(went)}."
