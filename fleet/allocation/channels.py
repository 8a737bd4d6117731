"""The ways to ask LM Studio for a load, and what each of them can carry of a wish (contract §2.2, §7.4, §9)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from fleet.allocation.profile import Profile, Strategy


class Channel(StrEnum):
    """Where two drop equally much, the earlier one is taken."""

    SOCKET = "socket"  # the WebSocket that the SDKs speak; carries everything
    CLI = "cli"  # `lms load`
    REST = "rest"  # POST /api/v1/models/load; no word about GPUs


@dataclass(frozen=True, slots=True)
class Carried:
    """`passed` in the channel's own names; `dropped` as people call it ("the order of the GPUs").

    REST: fields of the body. CLI: flags of `lms load` with their values. SOCKET: keys of the creation parameter, with
    the load config's fields as a plain {key: value} under "fields".
    """

    passed: dict
    dropped: tuple[str, ...]


# Options of a load, in the order in which people are told of them.
OPTIONS = {
    "context_length": "the context length",
    "parallel": "the number of parallel slots",
    "ttl_seconds": "the idle time after which it is unloaded",
    "identifier": "the name of the copy",
    "flash_attention": "flash attention",
    "offload_kv_cache_to_gpu": "where the key-value cache goes",
    "eval_batch_size": "the batch size",
    "num_experts": "the number of experts",
}
REST_FIELDS = ("context_length", "flash_attention", "offload_kv_cache_to_gpu", "eval_batch_size", "num_experts")
CLI_FLAGS = {
    "context_length": "--context-length",
    "parallel": "--parallel",
    "ttl_seconds": "--ttl",
    "identifier": "--identifier",
}
SOCKET_KEYS = {
    "context_length": "contextLength",
    "parallel": "numParallelSessions",
    "flash_attention": "llama.flashAttention",
    "offload_kv_cache_to_gpu": "offloadKVCacheToGpu",
    "eval_batch_size": "llama.evalBatchSize",
    "num_experts": "numExperts",
}
EMBEDDING_OPTIONS = ("context_length", "ttl_seconds", "identifier")
SPLIT = {
    Strategy.PRIORITY: "the order of the GPUs",
    Strategy.EVEN: "equal parts on the GPUs",
    Strategy.DEDICATED: "one GPU alone",
}
RATIO = "the part of the model on the GPUs"
STRICT = "the limit to the GPUs' own memory"
OTHERS_OFF = "keeping the other GPUs empty"


def carried(
    profile: Profile,
    options: Mapping[str, object],
    channel: Channel,
    gpu_indices: Iterable[int] = (),
    is_embedding: bool = False,
) -> Carried:
    """What of a wish `channel` takes along. Options with None or "" are no wish; the names are those of OPTIONS.

    `gpu_indices`: all GPUs of the machine, so that those the profile does not name can be switched off.
    """
    wished = {name: options[name] for name in OPTIONS if options.get(name) not in (None, "")}
    if channel is Channel.REST:
        return _by_rest(profile, wished)
    if channel is Channel.CLI:
        return _by_cli(profile, wished)
    return _by_socket(profile, wished, tuple(gpu_indices), is_embedding)


def choose(
    available: Iterable[Channel], profile: Profile, options: Mapping[str, object] | None = None, **more
) -> Channel:
    """REST if it drops nothing, because it is the documented one; else the channel that drops least.

    `more` as for carried(). Raises ValueError when nothing is available.
    """
    there = set(available)
    drops = {one: len(carried(profile, options or {}, one, **more).dropped) for one in Channel if one in there}
    if not drops:
        raise ValueError("no channel is left to load through")
    return Channel.REST if drops.get(Channel.REST) == 0 else min(drops, key=drops.__getitem__)


def _by_rest(profile: Profile, wished: dict) -> Carried:
    passed = {name: wished[name] for name in REST_FIELDS if name in wished}
    return Carried(passed, (*_gpu_wishes(profile), *_without(wished, passed)))


def _by_cli(profile: Profile, wished: dict) -> Carried:
    """`--gpu` writes an even split over all GPUs along with the ratio (contract §9): that much of EVEN it carries."""
    passed = {CLI_FLAGS[name]: str(value) for name, value in wished.items() if name in CLI_FLAGS}
    if "ttl_seconds" in wished:
        passed[CLI_FLAGS["ttl_seconds"]] = str(math.ceil(wished["ttl_seconds"]))  # whole seconds only
    dropped = _gpu_wishes(profile)
    if profile.offload_ratio is not None:
        passed["--gpu"] = f"{profile.offload_ratio:g}"
        dropped.remove(RATIO)
        if profile.strategy is Strategy.EVEN and not profile.gpu_order:
            dropped.remove(SPLIT[Strategy.EVEN])
    return Carried(passed, (*dropped, *_without(wished, CLI_FLAGS)))


def _by_socket(profile: Profile, wished: dict, gpu_indices: tuple[int, ...], is_embedding: bool) -> Carried:
    prefix = "embedding.load." if is_embedding else "llm.load."
    lost = [name for name in wished if is_embedding and name not in EMBEDDING_OPTIONS]
    fields = {prefix + SOCKET_KEYS[name]: wished[name] for name in wished if name in SOCKET_KEYS and name not in lost}
    if profile.offload_ratio is not None:
        fields[prefix + "llama.acceleration.offloadRatio"] = profile.offload_ratio
    if split := _split(profile, gpu_indices):
        fields["load.gpuSplitConfig"] = split
    if profile.strict_vram_limit:
        fields["load.gpuStrictVramCap"] = True
    passed = {"fields": fields}
    if "ttl_seconds" in wished:
        passed["ttlMs"] = round(wished["ttl_seconds"] * 1000)
    if "identifier" in wished:
        passed["identifier"] = wished["identifier"]
    dropped = [OTHERS_OFF] if split and profile.gpu_order and not gpu_indices else []
    if split is None and profile.strategy in SPLIT:
        dropped.append(SPLIT[profile.strategy])
    return Carried(passed, (*dropped, *(OPTIONS[name] for name in lost)))


def _split(profile: Profile, gpu_indices: tuple[int, ...]) -> dict | None:
    """The wire form of a split, with all four keys, as the SDKs write it (contract §9).

    None: none is wished, or its order cannot be told; an empty order would be taken for an even split.
    """
    order = list(profile.gpu_order) or sorted(gpu_indices)
    is_even = profile.strategy is Strategy.EVEN
    if profile.strategy is Strategy.AUTOMATIC or not (order or is_even):
        return None
    return {
        "strategy": "evenly" if is_even else "priorityOrder",
        "disabledGpus": sorted(set(gpu_indices) - set(order)),
        "priority": [] if is_even else order,
        "customRatio": [],
    }


def _gpu_wishes(profile: Profile) -> list[str]:
    """All that a profile wishes, in words."""
    wishes = [SPLIT[profile.strategy]] if profile.strategy in SPLIT else []
    wishes += [RATIO] if profile.offload_ratio is not None else []
    return wishes + ([STRICT] if profile.strict_vram_limit else [])


def _without(wished: dict, known: Iterable[str]) -> list[str]:
    kept = set(known)
    return [words for name, words in OPTIONS.items() if name in wished and name not in kept]
