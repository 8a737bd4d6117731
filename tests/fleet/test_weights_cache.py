"""Bytes of a context. tests/fleet/test_weights_engine.py asks llama.cpp itself."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.weights.architecture import Architecture
from fleet.weights.cache import BLOCKS, cache_bytes, scratch_bytes

MIB, GIB = 2**20, 2**30
LLAMA_8B = Architecture(
    "llama", layers=32, embedding_length=4096, heads=32, kv_heads=(8,) * 32, key_length=128, value_length=128,
    key_length_swa=128, value_length_swa=128, feed_forward_length=14336, context_length=131072, vocabulary=128256,
)  # fmt: skip


def changed(**fields):
    return dataclasses.replace(LLAMA_8B, **fields)


def test_a_llama_of_8b_takes_what_llama_cpp_says():
    assert cache_bytes(LLAMA_8B, 8192) == GIB
    assert cache_bytes(LLAMA_8B, 131072) == 16 * GIB
    assert cache_bytes(LLAMA_8B, 8192, key_type="q8_0", value_type="q8_0") == GIB * 34 // 64
    assert cache_bytes(LLAMA_8B, 8192, key_type="q8_0", value_type="q4_0") == GIB * (34 + 18) // 128


def test_the_context_is_rounded_up():
    assert cache_bytes(LLAMA_8B, 1) == cache_bytes(LLAMA_8B, 256) == GIB // 32
    assert cache_bytes(LLAMA_8B, 257) == GIB // 16


def test_slots_share_one_cache_or_have_a_part_each():
    assert cache_bytes(LLAMA_8B, 8192, slots=4) == GIB
    assert cache_bytes(LLAMA_8B, 8192, slots=4, unified=False) == GIB
    assert cache_bytes(LLAMA_8B, 5000, slots=3, unified=False) == 3 * 1792 * GIB // 8192  # 1666 rounded up, thrice


def test_layers_that_slide_keep_their_window_and_one_batch():
    gemma = changed(slides=(True, False) * 16, sliding_window=1024)
    assert cache_bytes(gemma, 32768) == GIB // 2 * 4 + GIB // 2 * 1536 // 8192
    assert cache_bytes(gemma, 32768, slots=4) == GIB // 2 * 4 + GIB // 2 * (4 * 1024 + 512) // 8192
    assert cache_bytes(gemma, 1024) == cache_bytes(LLAMA_8B, 1024)
    smaller = dataclasses.replace(gemma, key_length_swa=64, value_length_swa=64)
    assert cache_bytes(smaller, 1024) == cache_bytes(LLAMA_8B, 1024) * 3 // 4


def test_latent_attention_keeps_one_row_and_no_values():
    deepseek = changed(kv_heads=(1,) * 32, is_latent=True, kv_lora_rank=512, rope_length=64)
    assert cache_bytes(deepseek, 4096) == 4096 * 32 * 576 * 2
    assert cache_bytes(dataclasses.replace(deepseek, indexer_length=128), 4096) == 4096 * 32 * 704 * 2


def test_states_are_f32_and_one_for_each_slot():
    hybrid = changed(kv_heads=(8, 0) * 16, recurs=(False, True) * 16, state_length=MIB)
    assert cache_bytes(hybrid, 8192, slots=2) == GIB // 2 + 16 * 2 * 4 * MIB
    assert cache_bytes(hybrid, 8192, slots=2, key_type="q4_0") < cache_bytes(hybrid, 8192, slots=2)


def test_it_knows_no_other_types():
    with pytest.raises(ValueError, match=r'"q9_9" is not a type of cache\. Known are: f32, f16'):
        cache_bytes(LLAMA_8B, 8192, key_type="q9_9")


@settings(max_examples=60)
@given(st.integers(1, 2**20), st.integers(1, 64), st.sampled_from(list(BLOCKS)), st.booleans())
def test_more_context_and_more_slots_never_take_less(context, slots, kind, unified):
    gemma = changed(slides=(True, False) * 16, sliding_window=1024, recurs=(True,) * 32, state_length=100)
    here = cache_bytes(gemma, context, slots, kind, kind, unified)
    assert here <= cache_bytes(gemma, context + 1000, slots, kind, kind, unified)
    assert here <= cache_bytes(gemma, context, slots, "f32", "f32", unified)
    if unified:
        assert here <= cache_bytes(gemma, context, slots + 1, kind, kind, unified)


def test_scratch_is_about_what_llama_cpp_reserved():
    """Measured: 258.5 and 560 MiB by older versions on CUDA, that reserve logits for a whole batch; by that of
    November 2026 580 MiB (8192 tokens) and 2164 MiB (32768) without flash attention, 156 MiB (32768) with it."""
    assert 258 * MIB < scratch_bytes(LLAMA_8B, 8192) < 300 * MIB
    assert 580 * MIB < scratch_bytes(LLAMA_8B, 8192, flash_attention=False) < 700 * MIB
    assert 2164 * MIB < scratch_bytes(LLAMA_8B, 32768, flash_attention=False) < 2400 * MIB
    assert 156 * MIB < scratch_bytes(changed(vocabulary=1000), 32768) < 250 * MIB
    assert scratch_bytes(LLAMA_8B, 8192, batch=2048) == 4 * scratch_bytes(LLAMA_8B, 8192)
