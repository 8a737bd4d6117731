"""What we calculate against what llama.cpp says when it loads the same file."""

import re

import pytest

from fleet.weights.cache import cache_bytes, scratch_bytes
from fleet.weights.gguf_file import read_file
from tests.fleet.engine import BLOCKS, CONTEXT, FEED_FORWARD, HEADS, WIDTH, _vocabulary, write_model
from tests.fleet.engine_log import loaded
from tests.fleet.sparse_gguf import sparse_model

pytestmark = pytest.mark.engine
MIB = 2**20
CACHE = re.compile(r"llama_kv_cache: size = +([\d.]+) MiB")
SCRATCH = re.compile(r"compute buffer size = +([\d.]+) MiB")


def reported(log: str) -> float:
    """MiB of all its caches, and within what it may be off: it rounds to hundredths."""
    sizes = [float(size) for size in CACHE.findall(log)]
    assert sizes, log[-2000:]
    return pytest.approx(sum(sizes), rel=0.01, abs=0.01)


@pytest.fixture(scope="module", params=[HEADS, 1], ids=["every head", "grouped heads"])
def llama(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    write_model(path, kv_heads=request.param)
    return path, request.param


def test_it_reads_back_what_the_engine_runs(llama):
    from gguf import TokenType

    path, kv_heads = llama
    found = read_file(path)
    assert (found.name, found.layers, found.heads) == ("llama", BLOCKS, HEADS)
    assert (found.kv_heads, found.key_length) == ((kv_heads,) * BLOCKS, WIDTH // HEADS)
    assert (found.context_length, found.feed_forward_length) == (CONTEXT, FEED_FORWARD)
    assert found.vocabulary == len(_vocabulary(TokenType)[0])
    assert 0 < path.stat().st_size - found.weights_bytes < 20_000


def test_the_cache_of_a_llama_is_as_big_as_llama_cpp_says(llama):
    path, _ = llama
    found = read_file(path)
    for tokens, slots, unified in [(2048, 1, True), (8100, 3, True), (8100, 3, False)]:
        log = loaded(path, tokens, slots, kv_unified=unified)
        assert cache_bytes(found, tokens, slots, unified=unified) / MIB == reported(log)
        assert scratch_bytes(found, tokens) / MIB > float(SCRATCH.search(log)[1])


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """Five of its six layers slide."""
    from gguf import TokenType

    tokens, types = _vocabulary(TokenType)
    widths = {"attn_q_norm": 64, "attn_k_norm": 64, "post_attention_norm": 256, "post_ffw_norm": 256}
    (path,) = sparse_model(
        tmp_path_factory.mktemp("gemma") / "gemma.gguf", architecture="gemma3", layers=6, embedding=256, heads=4,
        kv_heads=2, head_length=64, feed_forward=256, vocabulary=len(tokens),
        metadata={
            "attention.sliding_window": 700, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [int(one) for one in types],
            "tokenizer.ggml.merges": ["Ġ t", "h e"], "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 1,
        },
        tensors={f"blk.{layer}.{name}": (width,) for layer in range(6) for name, width in widths.items()},
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("tokens", "slots", "unified", "kind"),
    [(8192, 1, True, "f16"), (5000, 3, True, "q8_0"), (5000, 3, False, "f16")],
)
def test_windows_and_types_of_the_cache_are_as_in_llama_cpp(gemma, tokens, slots, unified, kind):
    log = loaded(gemma, tokens, slots, kv_unified=unified, cache_type_k=kind, cache_type_v=kind)
    assert cache_bytes(read_file(gemma), tokens, slots, kind, kind, unified) / MIB == reported(log)
