"""The wire of native messaging, byte by byte."""

import io
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.native.framing import (
    MAX_MESSAGE_BYTES,
    MAX_SKIPPED_BYTES,
    FrameError,
    TooLarge,
    pieces,
    read_message,
    write_message,
)


def framed(body: bytes) -> bytes:
    return struct.pack("=I", len(body)) + body


class Trickle(io.RawIOBase):
    """A pipe that gives one byte at a time."""

    def __init__(self, content: bytes):
        self.content = io.BytesIO(content)

    def read(self, count=-1):
        return self.content.read(min(count, 1))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25)
@given(st.lists(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), values), max_size=3))
def test_it_reads_what_it_wrote_however_it_arrives(messages):
    written = io.BytesIO()
    for message in messages:
        write_message(written, message)
    for stream in (io.BytesIO(written.getvalue()), Trickle(written.getvalue())):
        assert [read_message(stream) for _ in messages] == messages
        assert read_message(stream) is None


@settings(max_examples=100)
@given(st.binary(max_size=40))
def test_it_answers_any_bytes_with_a_message_the_end_or_a_frame_error(content):
    stream = io.BytesIO(content)
    for _ in range(20):
        try:
            if read_message(stream) is None:
                return
        except FrameError as error:
            assert str(error).endswith((".", "?"))
            if not error.can_go_on:
                return
    pytest.fail("it never came to an end")


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    ("content", "words", "can_go_on"),
    [
        (b"\x05\x00", "inside a message's length (2 of 4 bytes)", False),
        (framed(b"{}!")[:-1], "inside a message (2 of 3 bytes)", False),
        (framed(b'{"a": "\xff"}'), "not UTF-8", True),
        (framed(b"hello"), "not JSON", True),
        (framed(b""), "not JSON", True),
        (framed(b'{"a": NaN}'), "not JSON", True),
        (framed(b"[" * 200_000), "not JSON", True),
        (framed(b'["check_lmstudio"]'), "not an object", True),
        (framed(b" " * (MAX_MESSAGE_BYTES + 1)), "at most 1048576", True),
        (struct.pack("=I", MAX_SKIPPED_BYTES + 1) + b"x", "four bytes of length", False),
        (b'{"action": "check_lmstudio"}', "four bytes of length", False),
    ],
)
def test_it_says_how_a_frame_is_broken_and_whether_the_next_can_be_read(content, words, can_go_on):
    stream = io.BytesIO(content + framed(b'{"next": 1}') if can_go_on else content)
    with pytest.raises(FrameError) as caught:
        read_message(stream)
    assert words in str(caught.value)
    assert caught.value.can_go_on is can_go_on
    if can_go_on:
        assert read_message(stream) == {"next": 1}


def test_it_counts_bytes_and_not_characters():
    written = io.BytesIO()
    write_message(written, {"a": "€🦦"})
    length = struct.unpack("=I", written.getvalue()[:4])[0]
    assert length == len(written.getvalue()) - 4 == len(json.dumps({"a": "€🦦"}, ensure_ascii=False).encode()) - 1


def test_it_sends_no_half_of_a_character():
    written = io.BytesIO()
    write_message(written, {"a": "x\ud83d", "b": "\ud83e\udda6"})
    assert json.loads(written.getvalue()[4:].decode()) == {"a": "x\ufffd", "b": "🦦"}


def test_it_sends_nothing_that_a_browser_would_refuse():
    written = io.BytesIO()
    with pytest.raises(TooLarge, match="1048576"):
        write_message(written, {"a": "x" * MAX_MESSAGE_BYTES})
    with pytest.raises(ValueError, match="JSON"):
        write_message(written, {"a": float("nan")})
    assert written.getvalue() == b""


@settings(max_examples=20)
@given(st.sampled_from(["a", "\x00", "🦦", '"', "é"]), st.integers(0, 400_000))
def test_its_pieces_fit_a_message_however_they_are_escaped(character, count):
    cut = list(pieces(character * count))
    assert "".join(cut) == character * count
    for piece in cut:
        write_message(
            io.BytesIO(), {"status": "chunk", "payload": {"text": piece, "kind": "reasoning"}, "id": "x" * 200}
        )
