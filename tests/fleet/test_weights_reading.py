"""Reading GGUF files: of real size, split, with big tokenizers, damaged and hostile."""

import contextlib
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.weights.__main__ import DAMAGED
from fleet.weights.gguf_file import read_file
from fleet.weights.reading import ROOT, Unreadable, read
from tests.fleet.sparse_gguf import sparse_model

GB = 10**9
ARRAY, UINT8, STRING = 9, 0, 8


@pytest.fixture(scope="module")
def otter(tmp_path_factory):
    (path,) = sparse_model(tmp_path_factory.mktemp("models") / "otter-8B-Q4_K_M.gguf")
    return path


def gguf(*pairs: bytes, tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(pairs)) + b"".join(pairs)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def test_it_reads_a_model_of_8b_in_a_process_of_its_own(otter):
    found = read(otter)
    assert (found.name, found.layers, found.heads, found.kv_heads) == ("llama", 32, 32, (8,) * 32)
    assert (found.key_length, found.context_length, found.vocabulary) == (128, 131_072, 128_256)
    assert 4.8 * GB < found.weights_bytes < 5 * GB
    assert 0 < otter.stat().st_size - found.weights_bytes < 100_000  # the file is its weights, and a header
    assert 8 * GB < found.parameters < 8.1 * GB
    assert found.output_bytes > found.embedding_bytes > 0
    assert found.file_type == "Q4_K_M"
    assert "numpy" not in imported_by("fleet.weights.reading", "fleet.weights.cache", "fleet.lms.manager")


def of(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def imported_by(*modules: str) -> set[str]:
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.split())


def test_all_parts_of_a_split_model_count(tmp_path, otter):
    parts = sparse_model(tmp_path / "otter.gguf", shards=3)
    assert len(parts) == 3
    assert read_file(parts[0]) == read_file(parts[2]) == read_file(otter)
    parts[1].unlink()
    with pytest.raises(Unreadable, match=r"its part otter-00002-of-00003\.gguf is missing\.$"):
        read(parts[0])


def test_a_big_tokenizer_takes_no_time(tmp_path):
    (path,) = sparse_model(tmp_path / "big.gguf", layers=1, tokens=60_000, metadata={"vocab_size": None})
    began = time.thread_time()  # seconds of the processor: what other tests take is not its
    assert read_file(path).vocabulary == 60_000
    assert time.thread_time() - began < 2  # as the package alone reads it: 7 s


def test_it_reads_experts_and_layers_that_differ(tmp_path):
    (path,) = sparse_model(
        tmp_path / "mixed.gguf", architecture="gemma3", layers=4, embedding=512, heads=4, kv_heads=[2, 0, 2, 2],
        head_length=256, feed_forward=256, experts=16, vocabulary=1000, file_type=15 + 1024,
        metadata={"attention.sliding_window": 1024, "attention.sliding_window_pattern": [True, True, False, True]},
    )  # fmt: skip
    found = read_file(path)
    assert (found.kv_heads, found.slides) == ((2, 0, 2, 2), (True, True, False, True))
    assert (found.key_length, found.experts, found.file_type) == (256, 16, "Q4_K_M")
    assert 0 < found.expert_bytes < found.weights_bytes


def test_it_says_why_a_file_cannot_be_read(tmp_path, otter):
    with otter.open("rb") as file:
        half = file.read(10_000)
    projector = gguf(text(b"general.architecture") + of(STRING) + text(b"clip"))
    for name, content in {"half.gguf": half, "empty.gguf": b"", "projector.gguf": projector}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DAMAGED):
            read_file(tmp_path / name)
    with pytest.raises(Unreadable, match=r"^projector.gguf cannot be read as a model: it is an image projector that"):
        read(tmp_path / "projector.gguf")


def test_only_a_file_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    for name in ("pipe.gguf", "missing.gguf", ""):
        with pytest.raises(Unreadable, match="There is no file"):
            read(tmp_path / name)


def test_it_waits_so_long_and_no_longer(otter):
    with pytest.raises(Unreadable, match=r"could not be read within 0.05 s\."):
        read(otter, seconds=0.05)
    assert not [child for child in psutil.Process().children() if "fleet.weights" in child.cmdline()]


def test_its_process_may_not_take_all_the_memory():
    code = "from fleet.weights.__main__ import limit; limit(); bytearray(2**31)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "MemoryError" in ended.stderr


@pytest.mark.parametrize("kind", [UINT8, STRING, ARRAY, 77])
@pytest.mark.parametrize("count", [5000, 2**40, 2**64 - 1])
def test_an_array_cannot_claim_more_than_there_is(tmp_path, kind, count):
    path = tmp_path / "liar.gguf"
    path.write_bytes(gguf(text(b"llama.layers") + of(ARRAY, kind) + struct.pack("<Q", count) + b"\0" * 100))
    began = time.thread_time()
    with pytest.raises(DAMAGED):
        read_file(path)
    assert time.thread_time() - began < 1


@settings(max_examples=60)
@given(st.data())
def test_no_damage_makes_it_fail_in_another_way(tmp_path_factory, data):
    """Cut, or changed in places: what comes of it is an architecture, or one of the errors that are expected."""
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    content = bytearray(small_model(folder))
    for place, byte in data.draw(st.dictionaries(st.integers(0, len(content) - 1), st.integers(0, 255))).items():
        content[place] = byte
    path = folder / "damaged.gguf"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(*DAMAGED):
        read_file(path)


def small_model(folder: Path) -> bytes:
    path = folder / "small.gguf"
    if not path.exists():
        sparse_model(path, layers=1, embedding=256, heads=4, kv_heads=[2], feed_forward=256, vocabulary=4, tokens=4)
    return path.read_bytes()[:3000]


@settings(max_examples=60)
@given(st.binary(max_size=300), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_no_garbage_makes_it_fail_in_another_way(tmp_path_factory, garbage, tensors, pairs):
    path = tmp_path_factory.getbasetemp() / "garbage.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + garbage)
    with pytest.raises(DAMAGED):
        read_file(path)
