"""POST /v1/chat/completions and its v0 twin, whole and streamed (contract §4.3, §4.6)."""

from collections.abc import Iterator

from fleet.simulator.answers import Ask, Part, tokenize
from fleet.simulator.daemon import Daemon
from fleet.simulator.exchange import Exchange, encode, encode_text
from fleet.simulator.functions import choose_calls
from fleet.simulator.generation import Generation, generation
from fleet.simulator.models import Model
from fleet.simulator.openai import (
    chunk,
    end_stream,
    finish_reason,
    head_of,
    need_llm,
    read_body,
    token_limit,
    usage,
)
from fleet.simulator.v0 import extras
from fleet.simulator.validation import invalid, object_or_empty

DELTA_KEYS = {"message": "content", "reasoning": "reasoning_content"}


async def chat_completions(daemon: Daemon, exchange: Exchange) -> None:
    body = read_body(exchange)
    model = daemon.memory.model_named(body["model"])
    ask = _ask(model, body)
    async with generation(daemon, body["model"], exchange.fault, ttl=body.get("ttl")) as turn:
        turn.prepare(ask)
        await turn.admitted()
        if body.get("stream"):
            await _stream(turn, exchange, body)
        else:
            await turn.think_silently()
            exchange.reply(_whole(turn, exchange, body))


def _ask(model: Model, body: dict) -> Ask:
    """The conversation as one question; raises ApiError 400 for messages that are none."""
    need_llm(model)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("invalid_type", "'messages' must be a list with at least one message.", "messages")
    texts = [_text_of(message) for message in messages]
    asked = [text for message, text in zip(messages, texts, strict=True) if message["role"] == "user"]
    prompt = asked[-1] if asked else texts[-1]
    if object_or_empty(body.get("response_format")).get("type") == "json_object":
        raise invalid("invalid_value", "'response_format.type' must be 'json_schema' or 'text'.", "response_format")
    calls = choose_calls(body, prompt) if model.script.calls_tools and messages[-1]["role"] != "tool" else []
    tools_tokens = len(tokenize(encode_text(body["tools"]))) if body.get("tools") else 0
    return Ask(
        prompt,
        input_tokens=sum(len(tokenize(text)) for text in texts) + tools_tokens,
        max_tokens=token_limit(body),
        reasoning=_effort(body),
        turn=max(1, len(asked)),
        tool_result=texts[-1] if messages[-1]["role"] == "tool" else None,
        calls=calls,
        closes_with_call=bool(calls),
    )


def _text_of(message) -> str:
    """The text of a message; its content may be text, a list of parts, or absent beside tool calls."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise invalid("invalid_union", "Every message needs a 'role'.", "messages")
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        return "\n".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")
    if content is not None and not isinstance(content, str):
        raise invalid("invalid_type", "'content' must be a string or a list of parts.", "messages")
    return content or ""


def _effort(body: dict) -> str:
    effort = body.get("reasoning_effort")
    return "off" if effort == "none" else effort if isinstance(effort, str) else "on"


def _whole(turn: Generation, exchange: Exchange, body: dict) -> dict:
    message = {"role": "assistant", "content": ""}
    for part in turn.script.parts:
        if part.kind in DELTA_KEYS:
            message[DELTA_KEYS[part.kind]] = part.text()
    calls = [part.detail for part in turn.script.parts if part.kind == "tool_call"]
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(turn)}
    head = head_of("chatcmpl", "chat.completion", body["model"])
    return {**head, "choices": [choice], "usage": usage(turn), **extras(exchange, turn)}


async def _stream(turn: Generation, exchange: Exchange, body: dict) -> None:
    head = head_of("chatcmpl", "chat.completion.chunk", body["model"])
    exchange.open_stream()
    await turn.read_prompt()
    exchange.send(chunk(head, [_choice({"role": "assistant", "content": ""})]))
    await turn.speak(_frames(turn, head), exchange.send)
    end_stream(turn, exchange, body, head, {**_choice({}), "finish_reason": finish_reason(turn)})


def _choice(delta: dict) -> dict:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}


def _frames(turn: Generation, head: dict) -> Iterator[bytes]:
    number = 0
    for part in turn.script.parts:
        if part.kind == "tool_call":
            yield from _call_frames(part, head, number)
            number += 1
        else:
            yield from _text_frames(part, head)


def _text_frames(part: Part, head: dict) -> Iterator[bytes]:
    # One chunk is encoded, the others differ in their text only.
    before, after = chunk(head, [_choice({DELTA_KEYS[part.kind]: "\0"})]).split(encode("\0"))
    return (before + encode(piece) + after for piece in part.pieces)


def _call_frames(part: Part, head: dict, number: int) -> Iterator[bytes]:
    """Id and name come with the first piece only."""
    call = {"index": number, **part.detail}
    opening = {**call, "function": {**call["function"], "arguments": ""}}
    start = chunk(head, [_choice({"tool_calls": [opening]})])
    for piece in part.pieces:
        delta = {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}
        yield start + chunk(head, [_choice(delta)])
        start = b""
