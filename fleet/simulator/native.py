"""The native v1 routes about models: list, load, unload, download (contract §2.1 to §2.5)."""

from fleet.simulator.catalogue import ScriptedModel
from fleet.simulator.daemon import Daemon
from fleet.simulator.errors import ApiError, UnknownModel
from fleet.simulator.exchange import Exchange
from fleet.simulator.models import Model
from fleet.simulator.validation import Rule, check, is_flag, is_integer, is_text

LOAD = {
    "model": Rule(is_text, required=True),
    "context_length": Rule(is_integer, low=1),
    "eval_batch_size": Rule(is_integer, low=1),
    "flash_attention": Rule(is_flag),
    "num_experts": Rule(is_integer, low=0),
    "offload_kv_cache_to_gpu": Rule(is_flag),
    "echo_load_config": Rule(is_flag),
}
UNLOAD = {"instance_id": Rule(is_text, required=True)}
DOWNLOAD = {"model": Rule(is_text, required=True), "quantization": Rule(is_text)}
LLM_LOAD_OPTIONS = ("eval_batch_size", "flash_attention", "offload_kv_cache_to_gpu")
REASONING_OPTIONS = ["off", "low", "medium", "high", "on"]


async def list_models(daemon: Daemon, exchange: Exchange) -> None:
    exchange.reply({"models": [_model(daemon, model) for model in daemon.models.values()]})


async def load_model(daemon: Daemon, exchange: Exchange) -> None:
    """Blocks until the model is in memory; another load of the same model makes another instance."""
    body = check(exchange.body(), LOAD)
    model = daemon.models.get(body["model"])
    if model is None:
        raise UnknownModel(body["model"])
    options = {name: body[name] for name in LLM_LOAD_OPTIONS if name in body}
    instance = daemon.memory.load(model, "explicit", body.get("context_length"), options=options)
    await instance.loaded()
    answer = {
        "type": model.script.kind,
        "instance_id": instance.id,
        "load_time_seconds": round(instance.load_seconds, 3),
        "status": "loaded",
    }
    if body.get("echo_load_config"):
        answer["load_config"] = instance.config()
    exchange.reply(answer)


async def unload_model(daemon: Daemon, exchange: Exchange) -> None:
    instance_id = check(exchange.body(), UNLOAD)["instance_id"]
    instance = daemon.memory.instances.get(instance_id)
    if instance is None:
        message = f'No loaded instance "{instance_id}".'
        raise ApiError(404, "model_not_found", message, "model_not_found", "instance_id")
    daemon.memory.unload(instance, "it was unloaded")
    exchange.reply({"instance_id": instance_id})


async def download_model(daemon: Daemon, exchange: Exchange) -> None:
    body = check(exchange.body(), DOWNLOAD)
    exchange.reply(daemon.downloads.start(body["model"], body.get("quantization")))


async def download_status(daemon: Daemon, exchange: Exchange, job_id: str) -> None:
    exchange.reply(daemon.downloads.status(job_id))


def _model(daemon: Daemon, model: Model) -> dict:
    script = model.script
    instances = [{"id": one.id, "config": one.config()} for one in daemon.memory.ready(model)]
    common = {
        "type": script.kind,
        "publisher": script.publisher,
        "key": script.key,
        "display_name": script.display_name,
        "quantization": {"name": script.quantization, "bits_per_weight": script.bits_per_weight},
        "size_bytes": script.size_bytes,
        "params_string": script.params,
        "loaded_instances": instances,
        "max_context_length": script.max_context_length,
        "format": "gguf",
    }
    if not model.is_llm:
        return common
    return (
        common
        | _variants(script)
        | {
            "architecture": script.architecture,
            "capabilities": _capabilities(model),
            "description": script.description,
        }
    )


def _variants(script: ScriptedModel) -> dict:
    """Nothing for a model that has only one (contract §2.1)."""
    keys = script.variant_keys()
    return {"variants": keys, "selected_variant": keys[0]} if keys else {}


def _capabilities(model: Model) -> dict:
    known = {"vision": model.script.vision, "trained_for_tool_use": model.script.calls_tools}
    if model.script.thinking == "native":
        known["reasoning"] = {"allowed_options": REASONING_OPTIONS, "default": "on"}
    return known
