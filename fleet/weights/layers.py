"""Which layers of a model cache keys, which see a window only, which keep a state: told by the file, and by what
llama.cpp knows of each architecture (src/models/*.cpp, load_arch_hparams, and create_memory in src/llama-model.cpp).

`told` is the architecture's metadata without its name: "attention.head_count" for "llama.attention.head_count".
"""

from collections.abc import Mapping

Told = Mapping[str, object]

# Every nth layer sees everything, the others a window: (n, whether it is the first of the n, not the last).
PERIODS = {
    "afmoe": (4, False), "cohere2": (4, False), "cohere2moe": (4, True), "exaone-moe": (4, False),
    "exaone4": (4, False), "gemma2": (2, False), "gemma3": (6, False), "gemma3n": (5, False), "gpt-oss": (2, False),
    "laguna": (4, True), "llama4": (4, False), "mellum": (4, False), "olmo2": (4, False), "plamo3": (8, False),
    "smallthinker": (4, True),
}  # fmt: skip
# Windows that stand in llama.cpp, for files without one; "llama4" and "smallthinker" always have theirs.
WINDOWS = {"exaone-moe": 128, "exaone4": 4096, "gemma2": 4096, "llama4": 8192}
FIXED_WINDOWS = {"llama4": 8192, "smallthinker": 4096}
EXAONE4_WITH_WINDOW = 64  # layers: only the 32B has one

# They answer from the prompt alone, such as embeddings: llama.cpp gives them no memory at all.
WITHOUT_CACHE = {
    "bert", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada", "llada-moe",
    "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1", "wavtokenizer-dec",
}  # fmt: skip
RECURRENT = {"arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"}  # every layer, and no attention
BOTH = {"falcon-h1"}  # attention and a state in every layer
WITH_INTERVAL = {"qwen35", "qwen35moe", "qwen3next"}
INTERVAL = 4
GEMMA3N_OWN = 20  # its later layers use the cache of earlier ones


def kv_heads(name: str, layers: int, told: Told) -> tuple[int, ...]:
    """Heads in the cache of each layer; 0 = it caches nothing of its own."""
    if name in WITHOUT_CACHE | RECURRENT:
        return (0,) * layers
    heads = per_layer(told.get("attention.head_count_kv", told.get("attention.head_count", 0)), layers)
    own = layers - number(told, "nextn_predict_layers") - number(told, "attention.shared_kv_layers")
    own = min(own, GEMMA3N_OWN) if name == "gemma3n" else own
    states = _by_interval(name, layers, told) or (False,) * layers
    return tuple(0 if layer >= own or states[layer] else heads[layer] for layer in range(layers))


def recurs(name: str, layers: int, told: Told) -> tuple[bool, ...]:
    """Which layers keep a recurrent state."""
    if not state_length(told):
        return (False,) * layers
    if name in RECURRENT | BOTH:
        return (True,) * layers
    if interval := _by_interval(name, layers, told):
        return interval
    # Hybrids write 0 heads for a layer without attention; nemotron's feed-forward layers are neither.
    heads = per_layer(told.get("attention.head_count_kv", 1), layers)
    widths = per_layer(told.get("feed_forward_length", 0), layers)
    is_split = name.startswith("nemotron_h")
    return tuple(not heads[layer] and not (is_split and widths[layer]) for layer in range(layers))


def _by_interval(name: str, layers: int, told: Told) -> tuple[bool, ...] | None:
    """For architectures in which every fourth layer, or so, has attention and the others a state; else None."""
    if "attention.recurrent_layers" in told:
        return tuple(map(bool, per_layer(told["attention.recurrent_layers"], layers)))
    if name not in WITH_INTERVAL and "full_attention_interval" not in told:
        return None
    every = number(told, "full_attention_interval") or INTERVAL
    main = layers - number(told, "nextn_predict_layers")
    return tuple(layer < main and (layer + 1) % every != 0 for layer in range(layers))


def state_length(told: Told) -> int:
    """Numbers (f32) that a recurrent layer keeps of one sequence: llama_hparams::n_embd_r() + n_embd_s()."""
    embedding, heads = number(told, "embedding_length"), max(_list(told.get("attention.head_count", 0)), default=0)
    inner, state = number(told, "ssm.inner_size"), number(told, "ssm.state_size")
    kept = max(0, number(told, "ssm.conv_kernel") - 1)
    if head := number(told, "wkv.head_size"):
        return embedding * ((number(told, "token_shift_count") or 2) + head)
    if cache := number(told, "shortconv.l_cache"):
        return embedding * (cache - 1) + inner * state
    if head := number(told, "kda.head_dim"):
        return 3 * (kept or 3) * heads * head + heads * head * head
    return kept * (inner + 2 * number(told, "ssm.group_count") * state) + inner * state


def window(name: str, layers: int, told: Told) -> int:
    """Tokens that a sliding layer sees; 0 = no layer slides."""
    found = number(told, "attention.sliding_window")
    if name == "exaone4" and layers != EXAONE4_WITH_WINDOW:
        return 0
    if "attention.sliding_window" not in told:
        found = WINDOWS.get(name, 0)
    return FIXED_WINDOWS.get(name, found) if found else 0


def slides(name: str, layers: int, told: Told) -> tuple[bool, ...]:
    """Which layers see the window only. An architecture with a window but no known pattern: none, the careful side."""
    pattern = told.get("attention.sliding_window_pattern")
    if not window(name, layers, told) or (pattern is None and name not in PERIODS):
        return (False,) * layers
    if isinstance(pattern, list):
        return tuple(map(bool, per_layer(pattern, layers)))
    every, is_first = PERIODS.get(name, (0, False))
    every = number(told, "attention.sliding_window_pattern") if pattern is not None else every
    if every == 0:
        return (True,) * layers  # as llama_hparams::set_swa_pattern() takes it
    return tuple(layer % every != (0 if is_first else every - 1) for layer in range(layers))


def per_layer(value: object, layers: int) -> list[int]:
    """A number for each layer: the file has one for all of them, or an array. Raises ValueError."""
    found = _list(value)
    if not isinstance(value, list):
        return found * layers
    if len(found) < layers:
        raise ValueError(f"its metadata tells of {len(found)} layers where there are {layers}")
    return found[:layers]


def number(told: Told, key: str) -> int:
    """A whole number of the metadata, 0 when it is not there. Raises ValueError."""
    return _whole(told.get(key, 0))


def _list(value: object) -> list[int]:
    return [_whole(item) for item in (value if isinstance(value, list) else [value])]


def _whole(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("its metadata has something else where a whole number belongs")
    return value
