"""The event stream of the native chat: framing and the bytes that go with each token (contract §3)."""

import time
from collections.abc import Iterator

from fleet.simulator.answers import Part, Script
from fleet.simulator.exchange import encode


def event(name: str, **fields) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode({"type": name, **fields}))


def frames(script: Script) -> Iterator[bytes]:
    """What to send with each token: its delta, with the start of its part before and the end behind."""
    for part in script.parts:
        framing = _text_frames if part.kind in ("message", "reasoning") else _call_frames
        yield from framing(part)


def _text_frames(part: Part) -> Iterator[bytes]:
    name = part.kind.encode()
    before = b'event: %s.delta\ndata: {"type":"%s.delta","content":' % (name, name)
    if part.detail.get("is_stamped"):
        return (before + b'"%d "}\n\n' % (time.time() * 1000) for _ in part.pieces)
    deltas = [before + encode(piece) + b"}\n\n" for piece in part.pieces]
    deltas[0] = event(f"{part.kind}.start") + deltas[0]
    deltas[-1] += event(f"{part.kind}.end")
    return iter(deltas)


def _call_frames(part: Part) -> Iterator[bytes]:
    """A call starts with its first token and is known, run and answered with its last."""
    if part.kind == "invalid_tool_call":
        start, end = b"", event("tool_call.failure", **part.detail)
    else:
        named = {name: part.detail[name] for name in ("tool", "provider_info")}
        start = event("tool_call.start", **named)
        end = event("tool_call.arguments", arguments=part.detail["arguments"], **named)
        end += event("tool_call.success", **part.detail)
    deltas = [b""] * len(part.pieces)
    deltas[0] = start
    # The model reads the tool's answer before it goes on.
    deltas[-1] += end + event("prompt_processing.start") + event("prompt_processing.end")
    return iter(deltas)
