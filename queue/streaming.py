"""One prompt's events as Server-Sent Events, resumable at any character.

Every event's id says how much the client has after it: "<attempt>.<characters of reasoning>.<of answer>".
"""

import asyncio
import json
from collections.abc import AsyncIterator

from daemonpulse.consumers import in_thread
from daemonpulse.tail import tail
from pulse.thinking import Kind

from .live import Position, texts_of
from .models import Prompt

KEEP_ALIVE_SECONDS = 15.0
NAMES = {Kind.REASONING: "reasoning.delta", Kind.MESSAGE: "message.delta"}


def last_seen(header: str) -> Position | None:
    """The position that a `Last-Event-ID` names; None without one. Raises ValueError when it is none of ours."""
    if not header:
        return None
    attempt, reasoning, answer = (int(part) for part in header.split("."))
    return Position(attempt or None, reasoning, answer)


def sse(name: str, data: dict, position: Position) -> bytes:
    counts = f"{position.attempt_id or 0}.{position.lengths[Kind.REASONING]}.{position.lengths[Kind.MESSAGE]}"
    return f"id: {counts}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()


async def prompt_stream(prompt_id, seen: Position | None) -> AsyncIterator[bytes]:
    """Subscribe, catch up from the database, then forward pieces until the prompt has ended."""
    position = seen or Position()
    state = None
    async with tail().channel(f"prompt.{prompt_id}") as receive:
        message: dict = {"kind": "start"}
        while True:
            if message["kind"] == "prompt.output" and position.knows_or_continues(message["pieces"]):
                for piece in message["pieces"]:
                    if position.accepts(piece):
                        yield sse(NAMES[Kind(piece["kind"])], {"text": piece["text"]}, position)
            elif message["kind"] == "prompt.progress":
                yield sse("progress", message["data"], position)
            elif message["kind"] != "wait":
                prompt, events, position = await in_thread(_catch_up)(prompt_id, position, state)
                for event in events:
                    yield event
                state = (prompt.state, prompt.attempt_number)
                if prompt.is_ended:
                    return
            try:
                message = await asyncio.wait_for(receive(), KEEP_ALIVE_SECONDS)
            except TimeoutError:
                yield b": waiting\n\n"
                message = {"kind": "wait"}


def _catch_up(prompt_id, position: Position, known_state) -> tuple[Prompt, list[bytes], Position]:
    """The events that bring a client from `position` to what the database has now."""
    prompt = Prompt.objects.select_related("lane", "node").get(pk=prompt_id)
    attempt, texts = texts_of(prompt)
    now = Position.of(attempt, texts)
    events: list[bytes] = []
    at = Position(position.attempt_id, position.lengths[Kind.REASONING], position.lengths[Kind.MESSAGE])
    if attempt is not None and at.attempt_id != attempt.pk:
        at = Position(attempt.pk)
    if (prompt.state, prompt.attempt_number) != known_state and not prompt.is_ended:
        events.append(sse("state", _state(prompt), at))
    for kind in (Kind.REASONING, Kind.MESSAGE):
        if at.lengths[kind] > len(texts[kind]):  # it was reasoning after all: start over
            at = Position(attempt.pk if attempt else None)
            events.append(sse("restart", {"why": "the text was sorted anew"}, at))
            break
    for kind in (Kind.REASONING, Kind.MESSAGE):
        if missing := texts[kind][at.lengths[kind] :]:
            at.lengths[kind] = len(texts[kind])
            events.append(sse(NAMES[kind], {"text": missing}, at))
    if prompt.is_ended:
        stats = attempt.stats if attempt else {}
        events.append(sse(prompt.state, _state(prompt) | {"stats": stats}, now))
    return prompt, events, at


def _state(prompt: Prompt) -> dict:
    told = {"id": str(prompt.pk), "state": prompt.state, "attempt": prompt.attempt_number, "place": prompt.place()}
    if prompt.reason:
        told |= {"reason": prompt.reason, "explanation": prompt.reason_explanation}
    return told | ({"node": prompt.node.name} if prompt.node else {})
