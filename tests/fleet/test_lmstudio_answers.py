"""What LM Studio tells, read leniently: no answer breaks the reader, and no text of it can steer a terminal."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.lmstudio_answers import download, instance_state, model_info, processing
from fleet.daemons.types import Download, InstanceConfig, Processing

NAMES = [
    "key", "type", "publisher", "quantization", "name", "bits_per_weight", "capabilities", "reasoning", "vision",
    "allowed_options", "variants", "loaded_instances", "id", "config", "parallel", "context_length", "status", "queued",
    "identifier", "ttlMs", "lastUsedTime", "job_id", "estimated_completion", "bytes_per_second", "total_size_bytes",
]  # fmt: skip
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)
rows = st.dictionaries(st.sampled_from(NAMES), junk, max_size=8)
few = settings(max_examples=60)


@few
@given(rows)
@example({"key": "a", "loaded_instances": [{"id": "b", "config": {"context_length": True, "rope": float("nan")}}]})
def test_any_row_is_a_model_or_none(row):
    info = model_info({"key": "a"} | row)
    assert info is None or (info.key and info.type in {"llm", "embedding"})
    assert model_info(list(row)) is None


@few
@given(rows, junk)
def test_any_row_is_a_state_and_any_answer_a_download_or_not_understood(row, told):
    state = instance_state(row, False, processing(told))
    assert state.queued is None or state.queued >= 0
    try:
        assert download(row).status
    except DaemonError as error:
        assert error.reason is Reason.NOT_UNDERSTOOD


def test_its_texts_are_clean_and_short():
    hostile = "\x1b]0;owned\x07ot\x00ter\u202e\n" + "x" * 9000
    row = {"key": hostile, "publisher": hostile, "loaded_instances": [{"id": hostile}], "variants": [hostile, 5]}
    info = model_info(row)
    assert info.key == info.loaded[0] == info.instances[0].id == ("otter " + "x" * 9000)[:300]
    assert len(info.publisher) == 100
    assert info.variants == (info.key,)


def test_of_a_copys_load_only_numbers_and_flags_are_kept():
    config = {
        "context_length": 4096, "parallel": 2, "flash_attention": False, "num_experts": 8,
        "seed": 1.5, "name": "x", "rope": {"base": 1}, "big": 2**70,
    }  # fmt: skip
    info = model_info({"key": "a", "loaded_instances": [{"id": "b", "config": config}, {"config": {}}, "odd"]})
    assert info.instances == (InstanceConfig("b", 4096, 2, {"flash_attention": False, "num_experts": 8}),)
    assert (info.loaded, info.slots) == (("b",), 2)


def test_a_download_is_told_as_far_as_the_daemon_tells_it():
    told = {
        "job_id": "job_1", "status": "downloading", "bytes_per_second": 41000000.5, "total_size_bytes": 2279000000,
        "downloaded_bytes": 1100000000, "estimated_completion": "2026-09-01T08:00:55.000Z",
    }  # fmt: skip
    assert download(told) == Download("job_1", "downloading", 2279000000, 1100000000, 41000000.5, 1788249655.0)
    assert download({"status": "completed", "estimated_completion": "soon"}) == Download("", "completed")
    with pytest.raises(DaemonError):
        download({"job_id": "job_1"})


def test_what_a_copy_does_is_unknown_where_it_is_not_told():
    assert processing({"status": "idle", "queued": 0}) == Processing("idle", 0)
    assert processing({"status": 5, "queued": -1}) == processing(None) == Processing("", None)
