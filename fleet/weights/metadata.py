"""From the keys and tensors of a GGUF file to an Architecture. Pure; llama.cpp names the keys (src/llama-arch.cpp)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fleet.weights import layers as per_layer
from fleet.weights.architecture import MAX_LAYERS, Architecture

NOT_MODELS = {"clip": "an image projector that belongs to a model", "controlvector": "a control vector"}
REQUIRED = ("block_count", "embedding_length")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One of a file's tensors: `items` numbers in `size` bytes."""

    name: str
    items: int
    size: int


def architecture_of(
    metadata: Mapping[str, object], tensors: Iterable[Tensor], tokens: int = 0, file_type: str = ""
) -> Architecture:
    """`metadata` as it stands in the file, arrays as lists; `tokens` in its tokenizer. Raises ValueError with the
    second half of a sentence, for what is no model or lies."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise ValueError("it does not tell its architecture")
    if name in NOT_MODELS or metadata.get("general.type") == "adapter":
        raise ValueError(f"it is {NOT_MODELS.get(name, 'an adapter that belongs to a model')}")
    told = {key.removeprefix(f"{name}."): value for key, value in metadata.items() if key.startswith(f"{name}.")}
    if missing := [key for key in REQUIRED if not told.get(key)]:
        raise ValueError(f"its metadata has no {missing[0]}")
    layers = per_layer.number(told, "block_count")
    if layers > MAX_LAYERS:
        raise ValueError(f"it claims to have {layers} layers")
    found = _attention(name, layers, told) | _sizes(list(tensors), tokens, told)
    return Architecture.from_json(found | {"name": name, "layers": layers, "file_type": file_type})


def _attention(name: str, layers: int, told: Mapping[str, object]) -> dict:
    embedding = per_layer.number(told, "embedding_length")
    heads = max(per_layer.per_layer(told.get("attention.head_count", 0), layers))
    length = embedding // heads if heads else 0
    key, value = (per_layer.number(told, f"attention.{of}_length") or length for of in ("key", "value"))
    return {
        "embedding_length": embedding,
        "heads": heads,
        "kv_heads": per_layer.kv_heads(name, layers, told),
        "key_length": key,
        "value_length": value,
        "key_length_swa": per_layer.number(told, "attention.key_length_swa") or key,
        "value_length_swa": per_layer.number(told, "attention.value_length_swa") or value,
        "slides": per_layer.slides(name, layers, told),
        "sliding_window": per_layer.window(name, layers, told),
        "recurs": per_layer.recurs(name, layers, told),
        "state_length": per_layer.state_length(told),
        # Files from before April 2025 have no such keys, and are run as ordinary attention (llama_hparams::is_mla()).
        "is_latent": bool(told.get("attention.key_length_mla") and told.get("attention.value_length_mla")),
        "kv_lora_rank": per_layer.number(told, "attention.kv_lora_rank"),
        "rope_length": per_layer.number(told, "rope.dimension_count"),
        "indexer_length": per_layer.number(told, "attention.indexer.key_length"),
    }


def _sizes(tensors: list[Tensor], tokens: int, told: Mapping[str, object]) -> dict:
    sizes = {tensor.name: tensor.size for tensor in tensors}
    used = per_layer.number(told, "expert_used_count")
    width = max(per_layer.per_layer(told.get("feed_forward_length", 0), per_layer.number(told, "block_count")))
    return {
        "context_length": per_layer.number(told, "context_length"),
        "vocabulary": per_layer.number(told, "vocab_size") or tokens,
        "feed_forward_length": max(width, per_layer.number(told, "expert_feed_forward_length") * used),
        "experts": per_layer.number(told, "expert_count"),
        "experts_used": used,
        "weights_bytes": sum(sizes.values()),
        "embedding_bytes": sizes.get("token_embd.weight", 0),
        "output_bytes": sizes.get("output.weight", 0),
        "expert_bytes": sum(size for name, size in sizes.items() if "_exps." in name),
        "parameters": sum(tensor.items for tensor in tensors),
    }
