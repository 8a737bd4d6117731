"""The GPUs in the answer of `lms runtime survey --json` (contract §7.11): of every maker, but capacities only."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator

from fleet.telemetry.readings import MAX_GPUS, MAX_TEXT, MOST, Gpu
from fleet.texts import clean

# Several engines tell of the same GPU, each in its own words. The most specific is believed.
PLATFORMS = ("CUDA", "ROCm", "Metal", "Vulkan", "OpenCl", "shell")
IN_BRACKETS = re.compile(r"\(.*?\)")
FAILED = {"error", "noDevicesFound", "invalidDevice"}


def gpus_from_survey(survey: object) -> tuple[Gpu, ...]:
    """The machine's GPUs, each once. Used and free memory are unknown; () for what is no survey.

    A GPU that several engines name is one, two of the same name in one engine are two. `index` is LM Studio's
    device id where these differ from each other, else the position.
    """
    found: dict[tuple[str, int], tuple[int, Gpu]] = {}
    for devices in _gpus_by_engine(survey):
        for key, device in _numbered(devices):
            rank, gpu = _rank(device), _gpu(device)
            if key not in found or rank < found[key][0]:
                found[key] = rank, gpu
    return _indexed([gpu for _, gpu in found.values()][:MAX_GPUS])


def ram_from_survey(survey: object) -> int | None:
    """The machine's memory in bytes, as the first engine that knows it tells."""
    for engine in _engines(survey):
        if capacity := _bytes(_dict(engine.get("memoryInfo")).get("ramCapacity")):
            return capacity
    return None


def _engines(survey: object) -> Iterator[dict]:
    engines = _dict(survey).get("engines")
    yield from (engine for engine in _list(engines) if isinstance(engine, dict))


def _gpus_by_engine(survey: object) -> Iterator[list[dict]]:
    for engine in _engines(survey):
        told = _dict(_dict(engine.get("hardwareSurvey")).get("gpuSurveyResult"))
        if _dict(told.get("result")).get("code") not in FAILED:
            yield [device for device in _list(told.get("gpuInfo")) if isinstance(device, dict)]


def _numbered(devices: list[dict]) -> Iterator[tuple[tuple[str, int], dict]]:
    """Each device of one engine with its name, as all engines may write it, and its number among equals."""
    seen = Counter()
    for device in devices:
        words = IN_BRACKETS.sub("", _text(device.get("name")).lower()).split()
        name = " ".join(words)
        if name:
            yield (name, seen[name]), device
            seen[name] += 1


def _rank(device: dict) -> int:
    platform = device.get("detectionPlatform")
    return PLATFORMS.index(platform) if platform in PLATFORMS else len(PLATFORMS)


def _gpu(device: dict) -> Gpu:
    kind = device.get("integrationType")
    is_integrated = kind == "integrated" if kind in ("integrated", "discrete") else None
    total, dedicated = (_bytes(device.get(f"{of}MemoryCapacityBytes")) for of in ("total", "dedicated"))
    # The total of a card can count system memory it may borrow; what is dedicated to an integrated one is a small part.
    capacity = (total or dedicated) if is_integrated else (dedicated or total)
    number = device.get("deviceId")
    return Gpu(
        index=number if type(number) is int and 0 <= number < MOST else -1,
        name=_text(device.get("name")),
        source="survey",
        memory_total_bytes=capacity,
        is_integrated=is_integrated,
    )


def _indexed(gpus: list[Gpu]) -> tuple[Gpu, ...]:
    told = {gpu.index for gpu in gpus}
    if -1 not in told and len(told) == len(gpus):
        return tuple(gpus)
    return tuple(dataclasses.replace(gpu, index=position) for position, gpu in enumerate(gpus))


def _bytes(value: object) -> int | None:
    """A capacity; None for 0 too, which the survey tells where it does not know."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 1 <= value < MOST else None


def _dict(value: object) -> dict:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return clean(value, MAX_TEXT).strip() if isinstance(value, str) else ""
