"""One prompt's events as Server-Sent Events, resumable at any character.

Every event's id says how much the client has after it: "<attempt>.<characters of reasoning>.<of answer>".
"""

import asyncio
import json
from collections.abc import AsyncIterator

from daemonpulse.consumers import in_thread
from daemonpulse.tail import tail
from pulse.thinking import Kind

from .live import Position, last_attempt_with_texts
from .models import Prompt
from .states import State

KEEP_ALIVE_SECONDS = 15.0
NAMES = {Kind.REASONING: "reasoning.delta", Kind.MESSAGE: "message.delta"}


def last_seen(header: str) -> Position | None:
    """The position that a `Last-Event-ID` names; None without one. Raises ValueError when it is none of ours."""
    if not header:
        return None
    attempt, reasoning, answer = (int(part) for part in header.split("."))
    if min(attempt, reasoning, answer) < 0:
        raise ValueError("a position is not negative")
    return Position(attempt, reasoning, answer)


def sse(name: str, data: dict, position: Position) -> bytes:
    at = f"{position.attempt}.{position.lengths[Kind.REASONING]}.{position.lengths[Kind.MESSAGE]}"
    return f"id: {at}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()


async def prompt_stream(prompt: Prompt, seen: Position | None, is_new: bool = False) -> AsyncIterator[bytes]:
    """Subscribe, catch up from the database, then forward what comes until the prompt has ended.

    Only the beginning, the end and a gap need the database; what is in between is in the messages. Of a prompt
    that was submitted just now (`is_new`) only what happened since is asked for.
    """
    position = seen or Position()
    async with tail().channel(f"prompt.{prompt.pk}") as receive:
        message: dict | None = None
        if is_new:
            if tail().cursor < prompt.submitted_as:  # nothing after its submission was handed out yet
                message = {"kind": "prompt.queued", "data": {}}
            yield sse("state", {"id": str(prompt.pk), "state": State.QUEUED, "attempt": 0}, position)
        while True:
            events = forwarded(message, position) if message else None
            has_ended = message is not None and message["kind"] == "prompt.finished"
            if events is None:
                try:
                    events, position, has_ended = await in_thread(caught_up)(prompt.pk, position)
                except Prompt.DoesNotExist:  # deleted meanwhile
                    return
            if events:
                yield b"".join(events)
            if has_ended:
                return
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):  # wait_for() of Python 3.11 can lose a cancellation
                    message = await receive()
            except TimeoutError:  # a message may have been lost, the last one too: look
                yield b": waiting\n\n"
                message = {"kind": "look"}


def forwarded(message: dict, position: Position) -> list[bytes] | None:
    """The events that a message from the log means to a client at `position`, which moves on; None when the
    database must be asked."""
    match message["kind"]:
        case "prompt.output" if position.knows_or_continues(message.get("pieces", ())):
            return [
                sse(NAMES[Kind(piece["kind"])], {"text": piece["text"]}, position)
                for piece in message["pieces"]
                if position.accepts(piece)  # moves on, so that each id counts its own piece and no later one
            ]
        case "prompt.progress":
            told = {name: message["data"][name] for name in ("phase", "fraction")}
            return [sse("progress", told, position)]
        case "prompt.claimed" if message["data"]["attempt"] > position.attempt and position.is_empty:
            position.begin(message["data"]["attempt"])
            told = {"id": message["subject"], "state": State.SENDING, "attempt": position.attempt}
            return [sse("state", told, position)]
        case "prompt.finished" if message.get("texts"):
            told = {"id": message["subject"], "state": State.DONE, "attempt": message["data"]["attempt"]}
            events = started_over(position, told["attempt"], message["texts"]) + missing(position, message["texts"])
            return [*events, sse(State.DONE, told | {"stats": message["stats"]}, position)]
        case "prompt.queued" if message["data"].get("attempt", 0) == 0:
            return []  # the submission itself
    return None


def caught_up(prompt_id, position: Position) -> tuple[list[bytes], Position, bool]:
    """The events that bring a client from `position` to what the database has, its position then, and whether
    the prompt has ended."""
    attempt, texts = last_attempt_with_texts(prompt_id)
    prompt = attempt.prompt if attempt else Prompt.objects.get(pk=prompt_id)
    events = started_over(position, attempt.number, texts) if attempt else []
    if not prompt.is_ended:
        events.append(sse("state", _state(prompt), position))
    events += missing(position, texts)
    if prompt.is_ended:
        events.append(sse(prompt.state, _state(prompt) | {"stats": attempt.stats if attempt else {}}, position))
    return events, position, prompt.is_ended


def started_over(position: Position, number: int, texts: dict[Kind, str]) -> list[bytes]:
    """Move to the beginning of attempt `number` when what the client holds does not begin its texts."""
    has_more = any(position.lengths[kind] > len(texts[kind]) for kind in texts)
    # An answer without reasoning, and now there is some: the answer's beginning may have become reasoning.
    may_be_sorted_anew = (
        position.lengths[Kind.MESSAGE] and not position.lengths[Kind.REASONING] and texts[Kind.REASONING]
    )
    if position.attempt == number and not has_more and not may_be_sorted_anew:
        return []
    held_something = not position.is_empty
    position.begin(number)
    return [sse("restart", {}, position)] if held_something else []


def missing(position: Position, texts: dict[Kind, str]) -> list[bytes]:
    """What the client lacks of these texts; its position moves on."""
    events = []
    for kind, name in NAMES.items():
        if rest := texts[kind][position.lengths[kind] :]:
            position.lengths[kind] = len(texts[kind])
            events.append(sse(name, {"text": rest}, position))
    return events


def _state(prompt: Prompt) -> dict:
    told = {"id": str(prompt.pk), "state": prompt.state, "attempt": prompt.attempt_number, "place": prompt.place()}
    if prompt.reason:
        told |= {"reason": prompt.reason, "explanation": prompt.reason_explanation}
    return told
