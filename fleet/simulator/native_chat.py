"""POST /api/v1/chat, whole and streamed (contract §2.6, §3)."""

from fleet.simulator.answers import Ask, tokenize
from fleet.simulator.chats import Chat
from fleet.simulator.daemon import Daemon
from fleet.simulator.errors import ApiError
from fleet.simulator.exchange import Exchange
from fleet.simulator.generation import Generation, generation
from fleet.simulator.integrations import check_integrations, tool_calls
from fleet.simulator.models import Model
from fleet.simulator.native import REASONING_OPTIONS
from fleet.simulator.native_events import event, frames
from fleet.simulator.validation import (
    Rule,
    check,
    check_union,
    invalid,
    is_flag,
    is_integer,
    is_list,
    is_number,
    is_text,
)

CHAT = {
    "model": Rule(is_text, required=True),
    "input": Rule(lambda value: True, required=True),
    "system_prompt": Rule(is_text),
    "integrations": Rule(is_list),
    "stream": Rule(is_flag),
    "temperature": Rule(is_number, low=0, high=1),
    "top_p": Rule(is_number, low=0, high=1),
    "min_p": Rule(is_number, low=0, high=1),
    "top_k": Rule(is_integer),
    "repeat_penalty": Rule(is_number),
    "max_output_tokens": Rule(is_integer, low=1),
    "reasoning": Rule(is_text),
    "context_length": Rule(is_integer, low=1),
    "store": Rule(is_flag),
    "previous_response_id": Rule(is_text),
}
INPUT_ITEMS = {
    "text": {"type": Rule(is_text, required=True), "content": Rule(is_text, required=True)},
    "image": {"type": Rule(is_text, required=True), "data_url": Rule(is_text, required=True)},
}
IMAGE_TOKENS = 256


async def chat(daemon: Daemon, exchange: Exchange) -> None:
    body = check(exchange.body(), CHAT)
    model = daemon.memory.model_named(body["model"])
    earlier = daemon.chats.find(body.get("previous_response_id"))
    ask = _ask(model, body, earlier)
    context_length = body.get("context_length")
    async with generation(daemon, body["model"], exchange.fault, context_length=context_length) as turn:
        turn.prepare(ask)
        if body.get("stream"):
            await _stream(turn, exchange, lambda: _result(turn, body, earlier))
        else:
            await turn.admitted()
            await turn.think_silently()
            exchange.reply(_result(turn, body, earlier))


def _ask(model: Model, body: dict, earlier: Chat) -> Ask:
    """What the body asks for; raises ApiError 400 for what this model cannot do."""
    if not model.is_llm:
        raise invalid("invalid_value", f'"{model.key}" is an embedding model.', "model")
    prompt, images = _read_input(body["input"])
    if images and not model.script.vision:
        raise invalid("invalid_value", f'"{model.key}" does not accept images.', "input")
    integrations = body.get("integrations", [])
    check_integrations(integrations)
    texts = len(tokenize(prompt)) + len(tokenize(body.get("system_prompt", "")))
    return Ask(
        prompt,
        input_tokens=earlier.tokens + texts + images * IMAGE_TOKENS,
        max_tokens=body.get("max_output_tokens"),
        reasoning=_reasoning(model, body),
        turn=earlier.turns + 1,
        calls=tool_calls(integrations, prompt) if model.script.calls_tools else [],
    )


def _read_input(value) -> tuple[str, int]:
    """(text, number of images) of `input`."""
    if isinstance(value, str):
        return value, 0
    if not isinstance(value, list):
        raise invalid("invalid_union", "'input' must be a string or a list of items.", "input")
    for item in value:
        check_union(item, "input", INPUT_ITEMS)
        if item["type"] == "image" and not item["data_url"].startswith("data:image/"):
            raise invalid("invalid_value", "'data_url' must be an image's data URL.", "input")
    texts = [item["content"] for item in value if item["type"] == "text"]
    return "\n".join(texts), len(value) - len(texts)


def _reasoning(model: Model, body: dict) -> str:
    options = REASONING_OPTIONS if model.script.thinking == "native" else []
    if "reasoning" not in body:
        return "on"
    if body["reasoning"] not in options:
        listed = ", ".join(options) or "none"
        message = f'"{model.key}" does not support reasoning "{body["reasoning"]}" (supported: {listed}).'
        raise invalid("invalid_value", message, "reasoning")
    return body["reasoning"]


async def _stream(turn: Generation, exchange: Exchange, result) -> None:
    exchange.open_stream()
    exchange.send(event("chat.start", model_instance_id=turn.instance.id))
    try:
        await _stream_load(turn, exchange)
        await turn.admitted()
        exchange.send(event("prompt_processing.start"))
        await turn.read_prompt(lambda share: exchange.send(event("prompt_processing.progress", progress=share)))
        exchange.send(event("prompt_processing.end"))
        await turn.speak(frames(turn.script), exchange.send)
    except ApiError as error:
        # An error does not end the stream: chat.end follows with what there is (contract §3).
        exchange.send(event("error", **error.native()[1]))
        exchange.send(event("chat.end", result=result()))
        exchange.end()
        raise
    exchange.send(event("chat.end", result=result()))
    exchange.end()


async def _stream_load(turn: Generation, exchange: Exchange) -> None:
    """The load events, only for the request whose load it is."""
    if not turn.place.is_loader:
        return
    id = turn.instance.id
    exchange.send(event("model_load.start", model_instance_id=id))
    turn.instance.progress_listeners.append(
        lambda share: exchange.send(event("model_load.progress", model_instance_id=id, progress=share))
    )
    await turn.instance.loaded()
    seconds = round(turn.instance.load_seconds, 3)
    exchange.send(event("model_load.end", model_instance_id=id, load_time_seconds=seconds))


def _result(turn: Generation, body: dict, earlier: Chat) -> dict:
    """The whole answer of §2.6, with what was produced so far."""
    shares = turn.script.produced(turn.produced)
    stats = {
        "input_tokens": turn.ask.input_tokens,
        "total_output_tokens": turn.produced,
        "reasoning_output_tokens": sum(tokens for part, tokens in shares if part.kind == "reasoning"),
        "tokens_per_second": turn.tokens_per_second(),
        "time_to_first_token_seconds": turn.first_token_seconds(),
    }
    if turn.place.is_loader and turn.instance.load_seconds is not None:
        stats["model_load_time_seconds"] = round(turn.instance.load_seconds, 3)
    output = [_item(part, tokens) for part, tokens in shares]
    result = {
        "model_instance_id": turn.instance.id,
        "output": [item for item in output if item],
        "stats": stats,
    }
    if body.get("store", True):
        tokens = turn.ask.input_tokens + turn.produced
        result["response_id"] = turn.daemon.chats.keep(Chat(tokens, earlier.turns + 1))
    return result


def _item(part, tokens: int) -> dict | None:
    if part.kind in ("message", "reasoning"):
        return {"type": part.kind, "content": part.text(tokens)}
    # A call that was not finished never happened.
    return {"type": part.kind, **part.detail} if tokens == len(part.pieces) else None
