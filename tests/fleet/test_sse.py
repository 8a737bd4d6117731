import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.daemons import sse
from fleet.daemons.sse import EventTooLarge, ServerEvent, SSEReader


def read(*pieces: bytes) -> list[ServerEvent]:
    reader = SSEReader()
    events = [event for piece in pieces for event in reader.feed(piece)]
    return events + reader.close()


def data_of(*pieces: bytes) -> list[str]:
    return [event.data for event in read(*pieces)]


def reference(stream: bytes) -> list[ServerEvent]:
    """The standard's algorithm, line by line over the whole stream, plus our rule for its end."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events, name, data, last_id = [], "", "", None
    for line in [*text.split("\n"), ""]:
        if line == "":
            if data:
                events.append(ServerEvent(name or "message", data[:-1], last_id))
            name, data = "", ""
            continue
        field, colon, value = line.partition(":")
        if colon and value[:1] == " ":
            value = value[1:]
        if field == "event":
            name = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            last_id = value
    return events


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


fragments = st.sampled_from(
    [
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"data",
        b"event",
        b"id",
        b": ",
        b":",
        b" ",
        b"data: {}\n\n",
        b"event: a\n",
        b"\ndata: x",
        b"id: 7\n",
        b":ping\n\n",
        b"retry: 3\n",
        b"\x00",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\xe2\x82",
        b"\x85",
        "é€🦦".encode(),
        "\u2028".encode(),
        b"data: a\ndata: b\n\n",
    ]
)
streams = st.lists(st.one_of(fragments, st.binary(max_size=4)), max_size=16).map(b"".join)
places = st.lists(st.integers(min_value=0, max_value=120), max_size=8)


@settings(max_examples=500)
@given(streams, places)
def test_it_reads_any_bytes_cut_anywhere_as_the_standard_does(stream, places):
    assert read(*cut(stream, places)) == reference(stream)


@settings(max_examples=300)
@given(st.lists(st.text(), max_size=8), places, st.sampled_from(["\n", "\r", "\r\n"]))
def test_it_returns_what_a_daemon_sent(contents, places, line_end):
    lines = [f"event: message.delta{line_end}data: {json.dumps(text)}{line_end}{line_end}" for text in contents]
    events = read(*cut("".join(lines).encode(), places))
    assert [json.loads(event.data) for event in events] == contents
    assert {event.name for event in events} <= {"message.delta"}


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_it_returns_an_event_as_soon_as_its_blank_line_has_come(line_end):
    reader = SSEReader()
    assert reader.feed(b"data: one" + line_end) == []
    assert [event.data for event in reader.feed(line_end)] == ["one"]
    assert reader.close() == []


def test_it_returns_an_event_on_the_cr_and_skips_its_lf():
    reader = SSEReader()
    assert [event.data for event in reader.feed(b"data: one\r\n\r")] == ["one"]
    assert reader.feed(b"") == []
    assert [event.data for event in reader.feed(b"\ndata: two\n\n")] == ["two"]


def test_it_joins_data_lines_and_drops_one_space_only():
    assert data_of(b"data:  a\ndata:b\ndata\n\n") == [" a\nb\n"]


def test_it_names_an_event_message_unless_told():
    assert [event.name for event in read(b"data: x\n\nevent: \ndata: x\n\nevent: chat.end\ndata: x\n\n")] == [
        "message",
        "message",
        "chat.end",
    ]


def test_it_drops_comments_unknown_fields_and_events_without_data():
    assert data_of(b": ping\n\nevent: lonely\n\nretry: 10\nfoo: bar\n: x\ndata: y\n\n") == ["y"]


def test_it_keeps_an_event_whose_data_is_empty():
    assert data_of(b"data:\n\n") == [""]


def test_it_remembers_the_last_id_unless_it_holds_a_null():
    stream = b"data: a\n\nid: 1\ndata: b\n\nid: 2\n\ndata: c\n\nid: \0\ndata: d\n\n"
    assert [event.id for event in read(stream)] == [None, "1", "2", "2"]


def test_it_drops_a_byte_order_mark_at_the_start_only():
    assert data_of(b"\xef", b"\xbb", b"\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\ndata: \xef\xbb\xbf\n\n") == [
        "a",
        "\ufeff",
    ]


def test_it_replaces_invalid_utf8():
    assert data_of(b"data: \xff\xe2\x82\n\n") == ["\ufffd\ufffd"]


def test_it_returns_an_unfinished_last_event_that_has_data():
    assert data_of(b"data: [DONE]") == ["[DONE]"]
    assert data_of(b"event: x\n") == []


def test_it_refuses_an_event_that_is_too_large(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    fits, too_large = b"data: " + b"x" * 94 + b"\n\n", b"data: " + b"x" * 95 + b"\n\n"
    assert len(read(fits * 3)) == 3
    assert len(read(*[fits[i : i + 1] for i in range(len(fits))])) == 1
    for pieces in ([fits + too_large], [fits + too_large + fits], [too_large[:-2]]):
        with pytest.raises(EventTooLarge):
            read(*pieces)
    with pytest.raises(EventTooLarge):
        read(*[too_large[i : i + 1] for i in range(len(too_large))])


def test_it_takes_a_large_event_in_small_pieces_in_linear_time():
    reader = SSEReader()
    for _ in range(50_000):
        reader.feed(b"data: 0123456789")
    assert len(reader.feed(b"\n\n")[0].data) == 50_000 * 16 - 6
