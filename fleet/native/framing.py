"""Native messaging on the wire: four bytes of length in the machine's byte order, then that many bytes of UTF-8
JSON, both ways (contract §11)."""

import json
import struct
from collections.abc import Iterator
from typing import BinaryIO

MAX_MESSAGE_BYTES = 1024 * 1024  # a browser's limit for what a host sends; ours for what we accept
MAX_SKIPPED_BYTES = 64 * 1024 * 1024  # a longer announcement is taken for garbage, not for a message to read past
# JSON spells a control character with six bytes and nothing with more, so this many always fit a message.
PIECE_CHARACTERS = 100_000
LENGTH = struct.Struct("=I")
BLOCK_BYTES = 65536


class FrameError(Exception):
    """What came is not a message. `can_go_on`: it is known where the next one begins."""

    def __init__(self, sentence: str, can_go_on: bool):
        super().__init__(sentence)
        self.can_go_on = can_go_on


class TooLarge(ValueError):
    """An answer is longer than a browser accepts."""


def read_message(stream: BinaryIO) -> dict | None:
    """The next message, or None at the end of the stream. Raises FrameError."""
    head = _read(stream, LENGTH.size)
    if not head:
        return None
    if len(head) < LENGTH.size:
        raise FrameError(f"The stream ended inside a message's length ({len(head)} of {LENGTH.size} bytes).", False)
    (length,) = LENGTH.unpack(head)
    if length > MAX_MESSAGE_BYTES:
        raise _oversized(stream, length)
    body = _read(stream, length)
    if len(body) < length:
        raise FrameError(f"The stream ended inside a message ({len(body)} of {length} bytes).", False)
    return _parsed(body)


def _read(stream: BinaryIO, count: int) -> bytes:
    """`count` bytes, fewer only at the end of the stream."""
    parts = bytearray()
    while len(parts) < count and (block := stream.read(count - len(parts))):
        parts += block
    return bytes(parts)


def _oversized(stream: BinaryIO, length: int) -> FrameError:
    """Read past what is too long, where that is believable, and say so."""
    said = f"The message's length is {length} bytes, and at most {MAX_MESSAGE_BYTES} are accepted."
    if length > MAX_SKIPPED_BYTES:
        return FrameError(f"{said} Is it four bytes of length, in the machine's byte order, before the JSON?", False)
    left = length
    while left and (block := stream.read(min(left, BLOCK_BYTES))):
        left -= len(block)
    return FrameError(f"{said} Send less at once.", can_go_on=not left)


def _parsed(body: bytes) -> dict:
    try:
        message = json.loads(body.decode("utf-8"), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise FrameError("The message is not UTF-8.", True) from error
    except (ValueError, RecursionError) as error:
        raise FrameError(f"The message is not JSON: {str(error)[:200]}.", True) from error
    if not isinstance(message, dict):
        raise FrameError('The message is JSON, but not an object such as {"action": "check_lmstudio"}.', True)
    return message


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def write_message(stream: BinaryIO, message: dict) -> None:
    """Send one message at once. Raises TooLarge, and OSError when nobody reads any more."""
    body = encoded(message)
    if len(body) > MAX_MESSAGE_BYTES:
        raise TooLarge(f"An answer of {len(body)} bytes is more than the browser's {MAX_MESSAGE_BYTES}.")
    stream.write(LENGTH.pack(len(body)) + body)
    stream.flush()


def encoded(message: dict) -> bytes:
    """As UTF-8. Half a surrogate pair would make the browser drop the port, so it becomes U+FFFD."""
    text = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of which each fits a message, however it is escaped."""
    for start in range(0, len(text), PIECE_CHARACTERS):
        yield text[start : start + PIECE_CHARACTERS]
