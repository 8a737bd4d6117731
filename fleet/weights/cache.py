"""How much memory a model takes beside its weights: the cache of its context, and what it calculates in. Pure.

Both follow llama.cpp: src/llama-context.cpp (how many cells), src/llama-kv-cache.cpp and src/llama-kv-cache-iswa.cpp
(what a cell takes), src/llama-memory-recurrent.cpp (states). tests/fleet/test_weights_engine.py holds them to it.
"""

from collections import Counter

from fleet.weights.architecture import Architecture

PADDING = 256  # cells: n_ctx, n_ctx_seq and the cache of sliding layers are rounded up to so many
BATCH = 512  # n_ubatch: tokens calculated at once; LM Studio's llama.physicalBatchSize (contract §9)
FLOAT = 4
# Numbers in a block, and its bytes (ggml/src/ggml-common.h): the types that LM Studio offers (contract §9).
BLOCKS = {
    "f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34), "q5_1": (32, 24), "q5_0": (32, 22),
    "q4_1": (32, 20), "q4_0": (32, 18), "iq4_nl": (32, 18),
}  # fmt: skip


def cache_bytes(
    architecture: Architecture,
    context: int,
    slots: int = 1,
    key_type: str = "f16",
    value_type: str = "f16",
    unified: bool = True,
) -> int:
    """Bytes of the cache for `context` tokens in all: `slots` requests at a time share them (unified), or each has
    its part. The types are names of BLOCKS; raises ValueError for another."""
    cells, streams = _cells(context, slots, unified), 1 if unified else slots
    sliding = _sliding_cells(architecture, cells, slots if unified else 1)
    total = 0
    slides = architecture.slides or (False,) * len(architecture.kv_heads)
    for (heads, is_sliding), layers in Counter(zip(architecture.kv_heads, slides, strict=True)).items():
        numbers = _row(architecture, heads, is_sliding)
        row = sum(_bytes(count, kind) for count, kind in zip(numbers, (key_type, value_type), strict=True))
        total += layers * row * (sliding if is_sliding else cells) * streams
    # Recurrent states are f32 whatever the types say, one for each slot (create_memory in src/llama-model.cpp).
    return total + sum(architecture.recurs) * architecture.state_length * FLOAT * slots


def _cells(context: int, slots: int, unified: bool) -> int:
    """Cells of one stream: llama_context() rounds n_ctx up, and again what is left to each slot."""
    padded = _padded(max(context, 1))
    return padded if unified else _padded(max(padded // slots, 1))


def _sliding_cells(architecture: Architecture, cells: int, sequences: int) -> int:
    """A window for each sequence and one batch (llama_kv_cache_iswa())."""
    return _padded(min(cells, architecture.sliding_window * sequences + BATCH))


def _row(architecture: Architecture, heads: int, is_sliding: bool) -> tuple[int, int]:
    """Numbers of the keys and of the values of one token in one layer."""
    if not heads:
        return 0, 0
    if architecture.is_latent:  # the values are part of the key, and are kept once (llama_hparams::is_mla())
        return architecture.kv_lora_rank + architecture.rope_length + architecture.indexer_length, 0
    if is_sliding:
        return heads * architecture.key_length_swa, heads * architecture.value_length_swa
    return heads * architecture.key_length, heads * architecture.value_length


def scratch_bytes(architecture: Architecture, context: int, flash_attention: bool = True, batch: int = BATCH) -> int:
    """Bytes to calculate in ("compute buffer"): an estimate, rather more than less, for one device.

    Two moments are the widest, and share the same memory: the logits of a whole batch, and one layer: its activations
    there, the mask (f32, and f16 beside it), and without flash attention the scores of all heads against the context
    (build_attn_mha in src/llama-graph.cpp). Newer versions reserve the logits for the slots only, and need less.
    """
    batch = min(batch, _padded(max(context, 1)))
    cells, width = _padded(max(context, 1)), architecture.embedding_length
    queries = architecture.heads * max(architecture.key_length, architecture.value_length)
    activations = batch * FLOAT * (4 * width + 2 * queries + 2 * architecture.feed_forward_length)
    mask = batch * cells * (FLOAT + 2) if any(architecture.kv_heads) else 0
    scores = 0 if flash_attention else batch * cells * architecture.heads * FLOAT
    return max(batch * FLOAT * (architecture.vocabulary + 2 * width), activations + mask + scores)


def _padded(cells: int) -> int:
    return -(-cells // PADDING) * PADDING


def _bytes(numbers: int, kind: str) -> int:
    """Of one row; its last block may be part empty."""
    if kind not in BLOCKS:
        raise ValueError(f'"{kind}" is not a type of cache. Known are: {", ".join(BLOCKS)}.')
    numbers_of_block, bytes_of_block = BLOCKS[kind]
    return -(-numbers // numbers_of_block) * bytes_of_block
