"""What of a model decides its memory, and that nobody can make us believe nonsense about it."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.weights.architecture import MAX_LAYERS, MOST, Architecture
from fleet.weights.metadata import Tensor, architecture_of

OTTER = {
    "general.architecture": "llama", "llama.block_count": 4, "llama.embedding_length": 256,
    "llama.attention.head_count": 8, "llama.attention.head_count_kv": 2, "llama.context_length": 4096,
}  # fmt: skip
names = st.sampled_from([field.name for field in dataclasses.fields(Architecture)])
values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers())
keys = st.sampled_from([
    "block_count", "attention.head_count", "attention.head_count_kv", "attention.sliding_window",
    "attention.sliding_window_pattern", "ssm.inner_size", "full_attention_interval", "attention.recurrent_layers",
    "feed_forward_length", "nextn_predict_layers", "shortconv.l_cache",
])  # fmt: skip


def described(name="llama", tensors=(), **told):
    """An architecture of these keys; dots are written as double underscores."""
    keys = {key.replace("__", "."): value for key, value in told.items()}
    metadata = {f"{name}.{key}": value for key, value in {"block_count": 4, "embedding_length": 256, **keys}.items()}
    return architecture_of({"general.architecture": name} | metadata, tensors)


def test_it_survives_the_way_through_json():
    found = architecture_of(OTTER, [Tensor("token_embd.weight", 10, 20)], 300, "Q4_K_M")
    assert Architecture.from_json(json.loads(json.dumps(found.as_json()))) == found
    assert found.kv_heads == (2, 2, 2, 2)
    assert (found.key_length, found.value_length_swa) == (32, 32)
    assert (found.weights_bytes, found.embedding_bytes, found.vocabulary, found.file_type) == (20, 20, 300, "Q4_K_M")


def test_an_older_machine_may_leave_out_what_it_does_not_know():
    told = architecture_of(OTTER, []).as_json()
    kept = {name: told[name] for name in list(told) if name not in ("recurs", "is_latent", "file_type")}
    assert Architecture.from_json(kept | {"colour": "blue"}).recurs == ()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("layers", 0, "at least one layer"), ("layers", MAX_LAYERS + 1, "whole number"), ("layers", 5, "each of the 5"),
        ("kv_heads", [1] * (MAX_LAYERS + 1), "not of its kind"), ("kv_heads", [2, 2, 2, -1], "whole number"),
        ("kv_heads", [2, 2, 2, 2**17], "whole number"), ("slides", [1, 0, 0, 0], "not of its kind"),
        ("recurs", [True], "each of the 4"), ("key_length", True, "whole number"), ("key_length", 1e3, "whole number"),
        ("weights_bytes", 2**60, "whole number"), ("name", 7, "not of its kind"), ("heads", None, "whole number"),
    ],
)  # fmt: skip
def test_it_believes_no_nonsense(key, value, said):
    with pytest.raises(ValueError, match=said):
        Architecture.from_json(architecture_of(OTTER, []).as_json() | {key: value})


def test_its_texts_can_be_shown():
    told = architecture_of(OTTER, []).as_json() | {"name": "\x1b[31mllama\x00" + "x" * 100, "file_type": "Q4\n_K"}
    found = Architecture.from_json(told)
    assert (found.name[:6], len(found.name), found.file_type) == ("llamax", 64, "Q4 _K")


@settings(max_examples=50)
@given(st.dictionaries(names | st.text(max_size=3), values, max_size=8) | values)
def test_any_json_is_an_architecture_or_a_value_error(data):
    base = architecture_of(OTTER, []).as_json()
    try:
        found = Architecture.from_json(base | data if isinstance(data, dict) else data)
    except ValueError:
        return
    assert Architecture.from_json(found.as_json()) == found
    assert all(0 <= getattr(found, name) <= most for name, most in MOST.items() if name != "kv_heads")


@settings(max_examples=50)
@given(st.sampled_from(["llama", "gemma3", "qwen35", "falcon-h1", "exaone4"]), st.dictionaries(keys, values))
def test_any_metadata_is_an_architecture_or_a_value_error(name, told):
    try:
        found = architecture_of({"general.architecture": name} | {f"{name}.{key}": told[key] for key in told}, [])
    except ValueError:
        return
    assert Architecture.from_json(found.as_json()) == found


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "does not tell its architecture"), ({"general.architecture": "clip"}, "image projector"),
        (OTTER | {"general.type": "adapter"}, "adapter"), (OTTER | {"llama.block_count": 0}, "no block_count"),
        (OTTER | {"llama.block_count": 10**9}, "claims to have"),
        (OTTER | {"llama.attention.head_count_kv": [1, 2]}, "2 layers where there are 4"),
        (OTTER | {"llama.context_length": "long"}, "whole number belongs"),
    ],
)  # fmt: skip
def test_it_says_what_is_no_model(metadata, said):
    with pytest.raises(ValueError, match=said):
        architecture_of(metadata, [])


def full(found):
    """The layers that see everything."""
    return [layer for layer in range(found.layers) if not found.slides[layer]]


@pytest.mark.parametrize(
    ("name", "layers", "seeing_all"),
    [
        ("gemma2", 6, [1, 3, 5]), ("gpt-oss", 6, [1, 3, 5]), ("gemma3", 13, [5, 11]), ("gemma3n", 12, [4, 9]),
        ("cohere2", 9, [3, 7]), ("llama4", 9, [3, 7]), ("exaone4", 64, list(range(3, 64, 4))), ("olmo2", 8, [3, 7]),
        ("cohere2moe", 9, [0, 4, 8]), ("smallthinker", 9, [0, 4, 8]), ("exaone4", 30, list(range(30))),
        ("phi3", 6, list(range(6))), ("qwen2", 6, list(range(6))), ("never-seen", 6, list(range(6))),
    ],
)  # fmt: skip
def test_layers_slide_as_in_llama_cpp(name, layers, seeing_all):
    assert full(described(name, block_count=layers, attention__sliding_window=512)) == seeing_all


def test_a_file_may_tell_itself_which_layers_slide():
    pattern = [True, True, False, True]
    assert full(described("gemma4", attention__sliding_window=512, attention__sliding_window_pattern=pattern)) == [2]
    assert full(described("gemma3", attention__sliding_window=512, attention__sliding_window_pattern=2)) == [1, 3]


def test_no_layer_slides_without_a_window():
    assert full(described("gemma3", attention__sliding_window=0)) == [0, 1, 2, 3]
    assert full(described("llama4", attention__sliding_window=0)) == [0, 1, 2, 3]
    assert (described("llama4").sliding_window, full(described("llama4"))) == (8192, [3])
    assert described("gemma2").sliding_window == 4096


def test_hybrids_keep_states_in_some_layers_and_a_cache_in_others():
    sizes = {"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 16, "ssm__group_count": 2}
    granite = described("granitehybrid", attention__head_count=4, attention__head_count_kv=[0, 2, 0, 2], **sizes)
    assert (granite.kv_heads, granite.recurs) == ((0, 2, 0, 2), (True, False, True, False))
    assert granite.state_length == 3 * (128 + 2 * 2 * 16) + 16 * 128
    qwen = described("qwen35", attention__head_count=4, attention__head_count_kv=2, **sizes)
    assert (qwen.kv_heads, qwen.recurs) == ((0, 0, 0, 2), (True, True, True, False))
    falcon = described("falcon-h1", attention__head_count=4, **sizes)
    assert (falcon.kv_heads, falcon.recurs) == ((4,) * 4, (True,) * 4)
    mamba = described("mamba", **sizes)
    assert (mamba.kv_heads, mamba.recurs) == ((0,) * 4, (True,) * 4)
    nemotron = described(
        "nemotron_h", attention__head_count=4, attention__head_count_kv=[0, 2, 0, 0],
        feed_forward_length=[0, 0, 512, 0], **sizes,
    )  # fmt: skip
    assert nemotron.recurs == (True, False, False, True)


def test_layers_without_a_cache_of_their_own_have_no_heads():
    heads = {"attention__head_count": 4}
    assert described("glm4moe", nextn_predict_layers=1, **heads).kv_heads == (4, 4, 4, 0)
    assert described("gemma4", attention__shared_kv_layers=2, **heads).kv_heads == (4, 4, 0, 0)
    assert sum(described("gemma3n", block_count=30, **heads).kv_heads) == 20 * 4
    assert not any(described("nomic-bert", **heads).kv_heads)


def test_it_counts_what_belongs_to_experts():
    tensors = [Tensor("blk.0.ffn_up_exps.weight", 8, 80), Tensor("blk.0.ffn_up_shexp.weight", 1, 7)]
    found = described("glm4moe", tensors, expert_count=8, expert_used_count=2, expert_feed_forward_length=300)
    assert (found.experts, found.experts_used, found.expert_bytes, found.weights_bytes) == (8, 2, 80, 87)
    assert found.feed_forward_length == 600
