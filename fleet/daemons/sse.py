"""Server-Sent Events from the bytes of an HTTP answer, in pieces as they come from the socket.

Follows the event-stream section of the WHATWG HTML standard, with two deliberate differences, both named
in `SSEReader`: what happens at the end of the stream, and a limit on the size of one event. `retry:` is
ignored like any unknown field, because a generation is never reconnected.
"""

from typing import NamedTuple

MAX_EVENT_BYTES = 16 * 1024 * 1024


class EventTooLarge(ValueError):
    """One server-sent event is longer than MAX_EVENT_BYTES."""


class ServerEvent(NamedTuple):
    name: str  # "message" when the event did not name itself
    data: str  # the data lines, joined by "\n"
    id: str | None  # the last id seen in the stream up to this event


class SSEReader:
    """Turns the bytes of one stream into events; the result does not depend on where the bytes were cut.

    Guaranteed: an event is returned by the `feed` that brings the line end of its blank line; LF, CR and
    CRLF end a line; comments, unknown fields and events without data are dropped; invalid UTF-8 becomes
    U+FFFD.

    `close` differs from the standard: a last event that lacks its blank line is returned if it has data,
    because some servers end so. If the connection broke, that data may stop in the middle: the caller finds
    out by parsing.

    An event over MAX_EVENT_BYTES (all its lines, comments included) raises EventTooLarge, also while it is
    still incomplete. Events before it in the same `feed` are lost with it, and the reader must not be used
    any more.
    """

    def __init__(self) -> None:
        self._pending = bytearray()  # from the last blank line on, with LF line ends only
        self._after_cr = False
        self._at_start = True
        self._id: str | None = None

    def feed(self, data: bytes) -> list[ServerEvent]:
        if self._after_cr or b"\r" in data:
            data = self._with_line_feeds(data)
        pending = self._pending
        searched = len(pending)
        pending += data
        # One byte back, as a blank line may be half in the earlier bytes; no more, to stay linear.
        end = pending.rfind(b"\n\n", max(searched - 1, 0))
        if end < 0:
            self._check_size(pending)
            return []
        complete = pending[:end]
        del pending[: end + 2]
        self._check_size(pending)
        if end > MAX_EVENT_BYTES:
            for block in complete.split(b"\n\n"):
                self._check_size(block)
        return self._events(complete)

    def close(self) -> list[ServerEvent]:
        rest, self._pending = self._pending, bytearray()
        return self._events(rest)

    def _with_line_feeds(self, data: bytes) -> bytes:
        """A CR ends its line at once, so that no event waits for more bytes; an LF after it is skipped."""
        if not data:
            return data
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    @staticmethod
    def _check_size(block: bytearray) -> None:
        if len(block) > MAX_EVENT_BYTES and len(block.strip(b"\n")) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"A server-sent event is longer than {MAX_EVENT_BYTES} bytes.")

    def _events(self, blocks: bytearray) -> list[ServerEvent]:
        # LF is never part of a longer UTF-8 sequence, so decoding all at once equals decoding each line.
        text = blocks.decode("utf-8", "replace")
        if self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        events = []
        for block in text.split("\n\n"):
            # The two shapes that every known server sends need no loop over lines.
            if block.startswith("event: "):
                name, found, data = block[7:].partition("\ndata: ")
            else:
                name, found, data = "", block.startswith("data: "), block[6:]
            if found and "\n" not in data and "\n" not in name:
                events.append(ServerEvent(name or "message", data, self._id))
            elif (event := self._event(block)) is not None:
                events.append(event)
        return events

    def _event(self, block: str) -> ServerEvent | None:
        name, data = "", []
        for line in block.split("\n"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data.append(value)
            elif field == "event":
                name = value
            elif field == "id" and "\0" not in value:
                self._id = value
        return ServerEvent(name or "message", "\n".join(data), self._id) if data else None
