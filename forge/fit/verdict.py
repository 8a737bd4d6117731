"""Will a model fit? The verdict, with the numbers behind it. Pure."""

from dataclasses import dataclass, replace
from enum import StrEnum

from fleet.allocation.planner import Plan
from fleet.allocation.profile import Profile
from forge.fit import words
from forge.fit.learning import Learned
from forge.fit.room import Memory, Room, find_room, is_for_gpus, lay_out
from forge.fit.size import DEFAULT_CONTEXT, SIMULATED, Facts, Options, Size, Told, size_of

CONTEXT_STEP = 256  # tokens; llama.cpp rounds a context up to it


class Verdict(StrEnum):
    """Its value is what people read."""

    FITS = "fits"  # with everything kept free that should be
    TIGHT = "tight"  # only in the best case: without the reserves, or with an estimate that is in doubt
    TOO_LARGE = "does not fit"  # not even then
    UNKNOWN = "unknown"  # too little is known to say


@dataclass(frozen=True, slots=True)
class Fit:
    """The verdict on one load. None = not known.

    `plan` is where it would go, what finds no room on GPUs in the machine's memory.
    `free_bytes`: on the GPUs that may be used, else in the machine's memory, after eviction. `missing_bytes`: 0 where
    nothing is. `largest_context`: tokens that would still fit, if tightly; 0 = not even a short one.
    """

    verdict: Verdict
    size: Size
    plan: Plan
    free_bytes: int | None
    missing_bytes: int
    largest_context: int | None
    sentences: tuple[str, ...]

    @property
    def is_measured(self) -> bool:
        """Whether making room for it can be judged: what it needs and what is free are known."""
        return self.size.weights is not None and self.free_bytes is not None


def fit(
    facts: Facts,
    options: Options,
    memory: Memory,
    profile: Profile,
    backend: str,
    learned: Learned = Learned(),  # noqa: B008 (it is immutable)
    told: Told | None = None,
    default_context: int = DEFAULT_CONTEXT,
) -> Fit:
    """Judge a load; quick enough for every key press. Never raises for what is not known. Arguments as size_of()'s."""
    size = size_of(facts, options, backend, learned, told, default_context)
    if size.weights is None:
        return _unknown(size, options, learned, memory, profile)
    careful, best = find_room(size, memory, profile), find_room(size, memory, profile, is_careful=False)
    doubts = words.doubts(careful, size, memory, told, learned)
    verdict = _verdict(size, careful, best, bool(doubts))
    planned = lay_out(size, memory, profile, is_careful=verdict is not Verdict.TIGHT)
    largest = None
    if verdict is Verdict.UNKNOWN:
        planned = replace(planned, fits=None)
    elif facts.architecture is not None and facts.longest_context and not memory.problems(profile):
        sizes = _Sizes(facts, options, backend, learned)
        largest = _largest_context(sizes, facts.longest_context, memory, profile)
    free = _free(size, memory, profile)
    missing = careful.missing if verdict is Verdict.TOO_LARGE else 0
    sentences = [
        *_about(size, options, learned, memory, profile),
        *(doubts if verdict is Verdict.TIGHT else ()),
        *(words.about_missing(missing, free, size, memory) if verdict is Verdict.TOO_LARGE else ()),
        *(_about_rest(size, memory, profile, planned) if verdict in (Verdict.TOO_LARGE, Verdict.UNKNOWN) else ()),
        *words.about_largest(largest),
    ]
    return Fit(verdict, size, planned, free, missing, largest, tuple(sentences))


def _verdict(size: Size, careful: Room, best: Room, is_doubtful: bool) -> Verdict:
    """From the careful and the best case.

    1. Not even the best case, the context left out where it is not known: too large.
    2. Something that decides is not known: unknown.
    3. The careful case as well, and nothing is in doubt: it fits. Else it is tight.
    """
    if best.fits is False:  # 1
        return Verdict.TOO_LARGE
    if None in (careful.fits, best.fits) or not size.is_complete:  # 2
        return Verdict.UNKNOWN
    return Verdict.TIGHT if is_doubtful else Verdict.FITS  # 3


def _unknown(size: Size, options: Options, learned: Learned, memory: Memory, profile: Profile) -> Fit:
    sentences = tuple(_about(size, options, learned, memory, profile))
    free = _free(size, memory, profile)
    return Fit(Verdict.UNKNOWN, size, Plan((), None, None), free, 0, None, sentences)


def _about(size: Size, options: Options, learned: Learned, memory: Memory, profile: Profile) -> list[str]:
    return [
        *memory.problems(profile),
        *words.about_size(size, options, learned),
        *words.about_free(memory.used(profile), memory, is_for_gpus(size, profile)),
    ]


def _about_rest(size: Size, memory: Memory, profile: Profile, planned: Plan) -> list[str]:
    """What is wished on GPUs and would go into the machine's memory; a simulated daemon fails such a load."""
    spilled = 0
    if size.backend != SIMULATED and not profile.strict_vram_limit and planned.shares:
        wished = lay_out(size, memory, replace(profile, strict_vram_limit=True))
        spilled = planned.system_bytes - wished.system_bytes
    return [*words.about_spilling(spilled), *words.about_ram(planned.system_bytes, memory)]


def _free(size: Size, memory: Memory, profile: Profile) -> int | None:
    if not memory.gpus:
        return None if is_for_gpus(size, profile) else memory.ram_bytes
    free = [gpu.memory_free_bytes for gpu in memory.used(profile)]
    return None if None in free else sum(free)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The size of the same load with another context."""

    facts: Facts
    options: Options
    backend: str
    learned: Learned

    def at(self, tokens: int) -> Size:
        return size_of(self.facts, replace(self.options, context_length=tokens), self.backend, self.learned)


def _largest_context(sizes: _Sizes, longest: int, memory: Memory, profile: Profile) -> int | None:
    """Tokens, in whole steps or all of `longest`; None when it cannot be told."""

    def fits(tokens: int) -> bool | None:
        return find_room(sizes.at(tokens), memory, profile, is_careful=False).fits

    if fits(min(CONTEXT_STEP, longest)) is None:
        return None
    if fits(longest):
        return longest
    low, high = 0, -(-longest // CONTEXT_STEP)  # in steps: `low` fits or is 0, `high` does not fit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * CONTEXT_STEP) else (low, middle)
    return low * CONTEXT_STEP
