"""What can be called over the simulated daemon's sockets: loads, unloads, estimates, lists (contract §9, §10)."""

from collections.abc import Callable

from fleet.simulator.cards import Split
from fleet.simulator.daemon import Daemon
from fleet.simulator.errors import ApiError
from fleet.simulator.instances import Instance
from fleet.simulator.models import Model
from fleet.simulator.validation import is_flag, is_integer, is_list, is_number, is_object, is_text


class Refusal(Exception):
    """An error frame: `title`, and the `code` that programs read."""

    def __init__(self, title: str, code: str = ""):
        super().__init__(title)
        self.error = {"title": title, "rootTitle": title} | ({"displayData": {"code": code}} if code else {})


class Channel:
    """What a channel's endpoint sees of it: packets out; what to do when the client calls it off."""

    def __init__(self, send: Callable[[dict], None]):
        self.send = send
        self.call_off: Callable[[], None] = lambda: None


async def load_model(daemon: Daemon, namespace: str, parameter: object, channel: Channel) -> None:
    """Packets: resolved, progress, success. Called off, it ends without success. Raises ValueError or Refusal."""
    wish = _checked(parameter, {"modelKey": is_text, "loadConfigStack": is_object})
    fields = _fields(wish["loadConfigStack"])
    received = {"namespace": namespace, "model": wish["modelKey"], "fields": fields}
    daemon.socket_loads.append(received | {name: wish[name] for name in ("identifier", "ttlMs") if name in wish})
    model = _model(daemon, namespace, wish["modelKey"])
    channel.send({"type": "resolved", "info": _info(model)})
    try:
        instance = _begin(daemon, namespace, model, wish, fields)
        instance.progress_listeners.append(lambda part: channel.send({"type": "progress", "progress": part}))
        channel.call_off = lambda: _give_up(daemon, instance)
        await instance.loaded()
    except ApiError as error:
        if error.type == "cancelled":
            return
        raise Refusal(error.message) from error
    channel.send({"type": "success", "info": _instance_info(instance)})


def _begin(daemon: Daemon, namespace: str, model: Model, wish: dict, fields: dict) -> Instance:
    ttl, prefix = wish.get("ttlMs"), f"{namespace}.load."
    return daemon.memory.load(
        model,
        "socket",
        fields.get(f"{prefix}contextLength"),
        None if ttl is None else ttl / 1000,
        wish.get("identifier") or "",
        _split(fields, prefix),
        {name: fields[prefix + key] for key, name in OPTION_KEYS.items() if prefix + key in fields},
    )


def _give_up(daemon: Daemon, instance: Instance) -> None:
    """Let go of a load that still runs."""
    if not instance.is_ready and not instance.is_gone:
        daemon.memory.drop(instance, ApiError(499, "cancelled", "The load was called off."))


def list_loaded(daemon: Daemon, namespace: str, parameter: object) -> list:
    _nothing(parameter)
    ready = [one for one in daemon.memory.instances.values() if one.is_ready]
    return [_instance_info(one) for one in ready if one.model.script.kind == namespace]


def processing_state(daemon: Daemon, namespace: str, parameter: object) -> dict | None:
    """`queued` counts those that run as well (contract §6); None for a copy that is not there, if that is no error."""
    wish = _checked(parameter, {"specifier": is_object, "throwIfNotFound": is_flag})
    ready = [one for one in daemon.memory.instances.values() if one.is_ready and one.model.script.kind == namespace]
    found = next((one for one in ready if _is_meant(one, wish["specifier"])), None)
    if found is None and wish["throwIfNotFound"]:
        raise Refusal("No such model is loaded.", "generic.identifierNotFound")
    return found and {"status": found.status, "queued": len(found.running) + len(found.waiting)}


def _is_meant(instance: Instance, specifier: dict) -> bool:
    match specifier:
        case {"type": "instanceReference", "instanceReference": str(reference)}:
            return reference == _reference(instance)
        case {"type": "query", "query": {"identifier": str(identifier)}}:
            return identifier == instance.id
    raise ValueError("a specifier of an unknown kind")


def unload_model(daemon: Daemon, namespace: str, parameter: object) -> None:
    identifier = _checked(parameter, {"identifier": is_text})["identifier"]
    instance = daemon.memory.instances.get(identifier)
    if instance is None or instance.model.script.kind != namespace:
        raise Refusal(f'No model with the identifier "{identifier}" is loaded.', "generic.identifierNotFound")
    daemon.memory.unload(instance, "it was unloaded")


def estimate_model_usage(daemon: Daemon, namespace: str, parameter: object) -> dict:
    wish = _checked(parameter, {"modelKey": is_text, "loadConfigStack": is_object})
    fields, prefix = _fields(wish["loadConfigStack"]), f"{namespace}.load."
    model = _model(daemon, namespace, wish["modelKey"])
    weights = model.script.size_bytes
    context = model.script.cache_bytes(model.context(fields.get(f"{prefix}contextLength")))
    ratio, is_cache_on_cards = _split(fields, prefix).ratio, fields.get(f"{prefix}offloadKVCacheToGpu", True)
    vram = round(weights * ratio), round(context * ratio * is_cache_on_cards)
    memory = {
        "confidence": "high",
        "modelVramBytes": vram[0],
        "contextVramBytes": vram[1],
        "totalVramBytes": sum(vram),
        "modelBytes": weights,
        "contextBytes": context,
        "totalBytes": weights + context,
    }
    return {"memory": memory, "passesGuardrails": sum(vram) <= sum(daemon.memory.free_bytes())}


def version(daemon: Daemon, namespace: str, parameter: object) -> dict:
    _nothing(parameter)
    return {"version": "0.4.0-simulated", "build": 1}


CALLS = {("system", "version"): version} | {
    (namespace, endpoint): function
    for namespace in ("llm", "embedding")
    for endpoint, function in {
        "listLoaded": list_loaded,
        "getInstanceProcessingState": processing_state,
        "unloadModel": unload_model,
        "estimateModelUsage": estimate_model_usage,
    }.items()
}
CHANNELS = {("llm", "loadModel"): load_model, ("embedding", "loadModel"): load_model}
# Load settings that an LLM's instance tells of in the list of models (contract §2.1, §9).
OPTION_KEYS = {
    "numParallelSessions": "parallel",
    "llama.flashAttention": "flash_attention",
    "llama.evalBatchSize": "eval_batch_size",
    "offloadKVCacheToGpu": "offload_kv_cache_to_gpu",
}
NUMBERS = (".contextLength", ".numParallelSessions", ".llama.evalBatchSize")
FLAGS = (".llama.flashAttention", ".offloadKVCacheToGpu")
OPTIONAL = {"identifier": is_text, "ttlMs": is_number, "deviceIdentifier": is_text}


def _checked(parameter: object, required: dict) -> dict:
    """The parameter, if its known keys have their types. Raises ValueError."""
    if not is_object(parameter) or not all(name in parameter for name in required):
        raise ValueError(f"the parameter needs {', '.join(required)}")
    for name, has_type in (OPTIONAL | required).items():
        if parameter.get(name) is not None and not has_type(parameter[name]):
            raise ValueError(f"'{name}' has the wrong type")
    return parameter


def _nothing(parameter: object) -> None:
    if parameter is not None:  # an empty object is a type error too
        raise ValueError("the endpoint takes no parameter")


def _fields(stack: dict) -> dict:
    """All layers' settings by key; a later layer wins. Keys that no engine knows are kept, as by the real daemon."""
    fields = {}
    for layer in stack.get("layers") if is_list(stack.get("layers")) else ():
        config = layer.get("config") if is_object(layer) else None
        rows = config.get("fields") if is_object(config) else None
        for row in rows if is_list(rows) else ():
            if not is_object(row) or not is_text(row.get("key")):
                raise ValueError("a field without a key")
            fields[row["key"]] = row.get("value")
    _check_values(fields)
    return fields


def _check_values(fields: dict) -> None:
    for key, value in fields.items():
        if key.endswith(NUMBERS) and not (is_integer(value) and value >= 1):
            raise ValueError(f"'{key}' must be a whole number from 1")
        if key.endswith(FLAGS) and not is_flag(value):
            raise ValueError(f"'{key}' must be true or false")


def _split(fields: dict, prefix: str) -> Split:
    return Split.read(fields.get("load.gpuSplitConfig"), fields.get(f"{prefix}llama.acceleration.offloadRatio"))


def _model(daemon: Daemon, namespace: str, key: str) -> Model:
    model = daemon.models.get(key)
    if model is None:
        raise Refusal(f'Cannot find a model with the path "{key}".', "generic.pathNotFound")
    if model.script.kind != namespace:
        raise Refusal(f'The model "{key}" is of another kind.', "generic.domainMismatch")
    return model


def _info(model: Model) -> dict:
    script = model.script
    return {
        "type": script.kind,
        "modelKey": script.key,
        "format": "gguf",
        "displayName": script.display_name,
        "publisher": script.publisher,
        "path": script.key,
        "sizeBytes": script.size_bytes,
        "paramsString": script.params,
        "architecture": script.architecture,
        "maxContextLength": script.max_context_length,
    }


def _reference(instance: Instance) -> str:
    return f"{instance.id}@{id(instance):x}"


def _instance_info(instance: Instance) -> dict:
    return _info(instance.model) | {
        "identifier": instance.id,
        "instanceReference": _reference(instance),
        "deviceIdentifier": None,
        "ttlMs": None if instance.ttl_seconds is None else round(instance.ttl_seconds * 1000),
        "lastUsedTime": None if instance.last_used_at is None else round(instance.last_used_at * 1000),
        "contextLength": instance.context_length,
    }
