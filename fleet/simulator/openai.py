"""The OpenAI-compatible routes beside chat: models, completions, embeddings (contract §4.2, §4.4).

Extra keys are welcome here; only what is needed is checked. The v0 routes use the same handlers and add their
own fields (contract §4.6).
"""

import math
import random
import secrets
import time

from fleet.simulator.answers import Ask, tokenize
from fleet.simulator.daemon import Daemon
from fleet.simulator.exchange import Exchange, encode
from fleet.simulator.generation import Generation, generation
from fleet.simulator.models import Model
from fleet.simulator.v0 import extras
from fleet.simulator.validation import Rule, invalid, is_flag, is_number, is_text, object_or_empty

EMBEDDING_DIMENSIONS = 384
COMMON = {
    "model": Rule(is_text, required=True),
    "stream": Rule(is_flag, nullable=True),
    "max_tokens": Rule(is_number, nullable=True),
    "max_completion_tokens": Rule(is_number, nullable=True),
    "ttl": Rule(is_number, low=0, nullable=True),
}


async def list_models(daemon: Daemon, exchange: Exchange) -> None:
    """All downloaded models, or with just-in-time loading off only what is loaded."""
    if daemon.settings.jit:
        ids = list(daemon.models)
    else:
        ids = [instance.id for instance in daemon.memory.instances.values() if instance.is_ready]
    data = [{"id": id, "object": "model", "owned_by": "simulated"} for id in ids]
    exchange.reply({"object": "list", "data": data})


async def completions(daemon: Daemon, exchange: Exchange) -> None:
    body = read_body(exchange)
    prompt = body.get("prompt", "")
    prompt = "\n".join(map(str, prompt)) if isinstance(prompt, list) else str(prompt)
    ask = Ask(prompt, len(tokenize(prompt)), max_tokens=token_limit(body))
    need_llm(daemon.memory.model_named(body["model"]))
    head = head_of("cmpl", "text_completion", body["model"])
    async with generation(daemon, body["model"], exchange.fault, ttl=body.get("ttl")) as turn:
        turn.prepare(ask)
        await turn.admitted()
        if body.get("stream"):
            await _stream_completion(turn, exchange, body, head)
        else:
            await turn.think_silently()
            text = "".join(part.text() for part in turn.script.parts)
            choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason(turn)}
            exchange.reply({**head, "choices": [choice], "usage": usage(turn), **extras(exchange, turn)})


async def _stream_completion(turn: Generation, exchange: Exchange, body: dict, head: dict) -> None:
    exchange.open_stream()
    await turn.read_prompt()
    pieces = (piece for part in turn.script.parts for piece in part.pieces)
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    await turn.speak((chunk(head, [{**choice, "text": piece}]) for piece in pieces), exchange.send)
    last = {**choice, "text": "", "finish_reason": finish_reason(turn)}
    end_stream(turn, exchange, body, head, last)


async def embeddings(daemon: Daemon, exchange: Exchange) -> None:
    body = read_body(exchange)
    texts = body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise invalid("invalid_union", "'input' must be a string or a list of strings.", "input")
    model = daemon.memory.model_named(body["model"])
    if model.is_llm:
        raise invalid("invalid_value", f'"{model.key}" is not an embedding model.', "model")
    async with generation(daemon, body["model"], exchange.fault, ttl=body.get("ttl")) as turn:
        await turn.admitted()
        await turn.think_silently()
        data = [{"object": "embedding", "embedding": _vector(text), "index": n} for n, text in enumerate(texts)]
        # The daemon reports no usage here (contract §4.4).
        no_usage = {"prompt_tokens": 0, "total_tokens": 0}
        exchange.reply({"object": "list", "data": data, "model": body["model"], "usage": no_usage})


def read_body(exchange: Exchange) -> dict:
    """The body with the common keys checked; raises ApiError 400."""
    body = exchange.body()
    if not isinstance(body, dict):
        raise invalid("invalid_type", "The body must be a JSON object.")
    for name, rule in COMMON.items():
        if name in body:
            rule.check(name, body[name])
        elif rule.required:
            raise invalid("missing_required_parameter", f"Missing required parameter '{name}'.", name)
    return body


def need_llm(model: Model) -> None:
    if not model.is_llm:
        raise invalid("invalid_value", f'"{model.key}" is an embedding model.', "model")


def token_limit(body: dict) -> int | None:
    """The caller's limit; -1 is none (contract §4.6)."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    return int(limit) if limit and limit > 0 else None


def head_of(prefix: str, kind: str, model_name: str) -> dict:
    id = f"{prefix}-{secrets.token_hex(12)}"
    return {
        "id": id,
        "object": kind,
        "created": int(time.time()),
        "model": model_name,
        "system_fingerprint": model_name,
    }


def finish_reason(turn: Generation) -> str:
    if turn.script.is_truncated:
        return "length"
    return "tool_calls" if turn.ask.closes_with_call else "stop"


def usage(turn: Generation) -> dict:
    prompt, completion = turn.ask.input_tokens, turn.produced
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def chunk(head: dict, choices: list, **more) -> bytes:
    return b"data: %s\n\n" % encode({**head, "choices": choices, **more})


def end_stream(turn: Generation, exchange: Exchange, body: dict, head: dict, last_choice: dict) -> None:
    """The last choice, the usage if it was asked for, and the end mark."""
    exchange.send(chunk(head, [last_choice], **extras(exchange, turn)))
    if object_or_empty(body.get("stream_options")).get("include_usage"):
        exchange.send(chunk(head, [], usage=usage(turn)))
    exchange.send(b"data: [DONE]\n\n")
    exchange.end()


def _vector(text: str) -> list[float]:
    """A unit vector that depends on the text alone."""
    numbers = random.Random(text)  # noqa: S311 (nothing here is a secret)
    values = [numbers.gauss(0, 1) for _ in range(EMBEDDING_DIMENSIONS)]
    length = math.hypot(*values)
    return [round(value / length, 6) for value in values]
