"""What a load of a model takes: weights, context, overhead, and what earlier loads taught. Bytes. Pure."""

from dataclasses import dataclass
from functools import lru_cache

from fleet.weights.architecture import Architecture
from fleet.weights.cache import cache_bytes, scratch_bytes
from forge.fit.learning import Learned

MIB = 2**20
SIMULATED = "simulated"
# Tokens of context when none is asked for. The schema's 2048 is not what is used (contract §9): a model's own
# default or settings.json decides (§6). What is taken where neither says anything is documented nowhere: a guess.
DEFAULT_CONTEXT = 4096
DEFAULT_SLOTS = 4  # contract §6
PHYSICAL_BATCH = 512  # tokens computed at once, whatever the logical batch is (contract §9)

# What the engine takes on a GPU beside the model and its buffers. The middle of what is known: the reserve that is
# kept free covers the rest, and the first loads tell the exact figure (forge.fit.learning).
BACKEND_BYTES = {
    "cuda": 320 * MIB,  # the driver's context: 107 to 555 MiB, more on larger cards (llama.cpp pull 20595, 23604)
    "rocm": 320 * MIB,  # the same kind of context; no figures are known
    "vulkan": 192 * MIB,  # no resident kernels, but staging buffers and pipelines; no figures are known
    "metal": 64 * MIB,  # command queues and compiled kernels; the driver is the system's own
    "cpu": 64 * MIB,  # the engine's own process
    SIMULATED: 0,  # the simulated daemon has none
    "": 320 * MIB,  # not known which: the largest
}
# The work buffers of a model whose file could not be read: the logits of 152,000 words for 512 tokens are 297 MiB.
UNREAD_SCRATCH_BYTES = 384 * MIB


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model. `size_bytes`: its files on disk. `max_context`: tokens it was made for."""

    size_bytes: int | None = None
    architecture: Architecture | None = None
    max_context: int | None = None

    @property
    def longest_context(self) -> int | None:
        """Tokens; as the daemon tells it, else as the model's file does."""
        return self.max_context or (self.architecture.context_length if self.architecture else None) or None


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of a load; None = the daemon decides. `num_experts` changes the speed, never the memory."""

    context_length: int | None = None
    parallel: int | None = None
    flash_attention: bool | None = None
    offload_kv_cache_to_gpu: bool | None = None
    num_experts: int | None = None
    eval_batch_size: int | None = None
    key_type: str = "f16"
    value_type: str = "f16"


@dataclass(frozen=True, slots=True)
class Told:
    """The daemon's own estimate for the same options (contract §9): bytes, None where it says nothing."""

    model_bytes: int | None = None
    context_bytes: int | None = None
    total_vram_bytes: int | None = None
    confidence: str = ""  # "high" or "low"
    passes_guardrails: bool | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of one loaded copy; None = not known. `source` says where the weights' figure comes from.

    `overhead` is what each GPU in use takes beside its part of the model. `context_length` is the number of tokens
    that was counted. The rest is what tells how the bytes may be laid out.
    """

    weights: int | None
    context: int | None
    overhead: int
    correction: int = 0  # may be negative
    source: str = ""
    context_length: int | None = None
    backend: str = ""
    layers: int | None = None
    is_context_on_gpu: bool = True

    @property
    def total(self) -> int | None:
        """Everything, on one GPU. A context that is not known counts nothing: see `is_complete`."""
        if self.weights is None:
            return None
        return max(0, self.weights + (self.context or 0) + self.overhead + self.correction)

    @property
    def is_complete(self) -> bool:
        return self.weights is not None and self.context is not None


def size_of(
    facts: Facts,
    options: Options,
    backend: str,
    learned: Learned = Learned(),  # noqa: B008 (it is immutable)
    told: Told | None = None,
    default_context: int = DEFAULT_CONTEXT,
) -> Size:
    """What a load would take on `backend`, a key of BACKEND_BYTES; "" = not known which.

    The model's file is believed before the daemon's estimate, and that before the size on disk. `default_context`:
    tokens that the daemon is thought to take when `options` ask for none. `learned` must come from loads whose
    estimate was made in the same way.
    """
    told = told or Told()
    weights, source = _weights(facts, told)
    tokens = options.context_length or min(default_context, facts.longest_context or default_context)
    architecture = facts.architecture
    context = told.context_bytes
    if architecture is not None:
        slots = options.parallel or DEFAULT_SLOTS
        context = _context(architecture, tokens, slots, options.key_type, options.value_type)
    is_counted = context is not None and (architecture is not None or options.context_length is not None)
    return Size(
        weights,
        context,
        _overhead(architecture, tokens, options, backend),
        learned.bytes,
        source,
        tokens if is_counted else None,
        backend,
        architecture.layers if architecture else None,
        options.offload_kv_cache_to_gpu is not False,
    )


# A search for the largest context asks for much the same lengths at every key press; each is a walk over all layers.
@lru_cache(maxsize=512)
def _context(architecture: Architecture, tokens: int, slots: int, key_type: str, value_type: str) -> int:
    return cache_bytes(architecture, tokens, slots, key_type, value_type)


def _weights(facts: Facts, told: Told) -> tuple[int | None, str]:
    if facts.architecture is not None and facts.architecture.weights_bytes:
        return facts.architecture.weights_bytes, "its file"
    if told.model_bytes:
        return told.model_bytes, "LM Studio's estimate"
    return (facts.size_bytes, "its size on disk") if facts.size_bytes else (None, "")


def _overhead(architecture: Architecture | None, tokens: int, options: Options, backend: str) -> int:
    if backend == SIMULATED:
        return BACKEND_BYTES[SIMULATED]
    own = BACKEND_BYTES.get(backend, BACKEND_BYTES[""])
    if architecture is None:
        return own + UNREAD_SCRATCH_BYTES
    has_flash = options.flash_attention is not False  # the engine's default is to use it where it can
    batch = min(options.eval_batch_size or PHYSICAL_BATCH, PHYSICAL_BATCH)
    return own + scratch_bytes(architecture, tokens, has_flash, batch)
