"""The older /api/v0 routes: models with their state, and what v0 adds to OpenAI's answers (contract §4.6)."""

from fleet.simulator.daemon import Daemon
from fleet.simulator.errors import UnknownModel
from fleet.simulator.exchange import Exchange
from fleet.simulator.generation import Generation
from fleet.simulator.models import Model

RUNTIME = {"name": "daemonpulse-simulator", "version": "1.0.0", "supported_formats": ["gguf"]}


async def list_models(daemon: Daemon, exchange: Exchange) -> None:
    """All models, or with just-in-time loading off only the loaded ones."""
    models = [_model(daemon, model) for model in daemon.models.values()]
    listed = [one for one in models if daemon.settings.jit or one["state"] == "loaded"]
    exchange.reply({"object": "list", "data": listed})


async def show_model(daemon: Daemon, exchange: Exchange, key: str) -> None:
    if key not in daemon.models:
        raise UnknownModel(key)
    exchange.reply(_model(daemon, daemon.models[key]))


def extras(exchange: Exchange, turn: Generation) -> dict:
    """`stats`, `model_info` and `runtime` of a v0 answer; nothing on the OpenAI routes."""
    if not exchange.route.startswith("/api/v0/"):
        return {}
    script = turn.model.script
    stats = {
        "tokens_per_second": turn.tokens_per_second(),
        "time_to_first_token": turn.first_token_seconds(),
        "generation_time": round(turn.ended_at - turn.first_token_at, 4),
        "stop_reason": _stop_reason(turn),
    }
    info = {
        "arch": script.architecture,
        "quant": script.quantization,
        "format": "gguf",
        "context_length": turn.instance.context_length,
    }
    return {"stats": stats, "model_info": info, "runtime": RUNTIME}


def _stop_reason(turn: Generation) -> str:
    if turn.script.is_truncated:
        return "maxPredictedTokensReached"
    return "toolCalls" if turn.ask.closes_with_call else "eosFound"


def _model(daemon: Daemon, model: Model) -> dict:
    script = model.script
    loaded = daemon.memory.ready(model)
    kind = "embeddings" if not model.is_llm else "vlm" if script.vision else "llm"
    answer = {
        "id": script.key,
        "object": "model",
        "type": kind,
        "publisher": script.publisher,
        "arch": script.architecture,
        "compatibility_type": "gguf",
        "quantization": script.quantization,
        "state": "loaded" if loaded else "not-loaded",
        "max_context_length": script.max_context_length,
    }
    if loaded:
        answer["loaded_context_length"] = loaded[0].context_length
    if script.calls_tools:
        answer["capabilities"] = ["tool_use"]
    return answer
