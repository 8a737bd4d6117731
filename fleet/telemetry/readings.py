"""What one look at a machine found. None = unknown, everywhere; bytes, degrees Celsius, watts and percent (0..100).

A reading may come from another machine, so from_json() takes nothing on trust: what is not of its field's type is
unknown, and its texts are clean.
"""

import dataclasses
from dataclasses import dataclass

from fleet.texts import clean

MAX_TEXT = 400
MAX_GPUS, MAX_PROCESSES = 64, 200
MOST = 2**62


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory of a GPU. `is_daemon`: it belongs to LM Studio or another inference server."""

    pid: int
    name: str = ""
    memory_bytes: int | None = None
    is_daemon: bool = False


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one MIG instance of it. `source`: what told of it ("nvml" or "survey").

    `problem` says in a sentence why figures are missing, such as a lost GPU; "" when all is well.
    `ecc_errors` counts uncorrected errors. `throttle_reasons` are short phrases; empty = runs at full speed.
    """

    index: int
    name: str
    source: str = ""
    uuid: str = ""
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    utilization_percent: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    ecc_errors: int | None = None
    throttle_reasons: tuple[str, ...] | None = None
    is_integrated: bool | None = None  # shares the system's memory
    mig: str = ""  # "1g.10gb" for a MIG instance
    processes: tuple[GpuProcess, ...] | None = None  # None = not told, or not allowed to see
    problem: str = ""

    @property
    def short_name(self) -> str:
        """Without the words that every card's name has: "RTX 4090"."""
        return self.name.removeprefix("NVIDIA ").removeprefix("GeForce ")

    @property
    def memory_percent(self) -> float | None:
        if self.memory_used_bytes is None or not self.memory_total_bytes:
            return None
        return 100 * self.memory_used_bytes / self.memory_total_bytes


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine at one moment. `gpu_note` says why there are no GPUs, or where their figures come from."""

    at: float  # unix seconds, by that machine's clock
    hostname: str = ""
    system: str = ""  # "Linux 6.1"
    cpu_name: str = ""
    cpu_count: int | None = None  # logical
    cpu_percent: float | None = None
    ram_total_bytes: int | None = None
    ram_used_bytes: int | None = None
    disk_free_bytes: int | None = None  # where the models lie
    driver_version: str = ""
    cuda_version: str = ""
    gpu_note: str = ""
    gpus: tuple[Gpu, ...] = ()

    def as_json(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: object) -> "Machine":
        """What as_json() wrote, here or on a machine with another version of this program.

        Keys that are unknown here are dropped, missing ones are unknown. Raises ValueError for what is no reading.
        """
        if not isinstance(data, dict) or not _is_number(data.get("at")):
            raise ValueError("this is no reading of a machine")
        gpus = [_gpu(gpu) for gpu in _list(data.get("gpus"), MAX_GPUS) if isinstance(gpu, dict)]
        return cls(**_plain(cls, data), gpus=tuple(gpus))


def _gpu(data: dict) -> Gpu:
    told = data.get("processes")
    processes = None
    if isinstance(told, list | tuple):
        rows = [_plain(GpuProcess, row) for row in told[:MAX_PROCESSES] if isinstance(row, dict)]
        processes = tuple(GpuProcess(**row) for row in rows if "pid" in row)
    reasons = data.get("throttle_reasons")
    is_told = isinstance(reasons, list | tuple)
    reasons = tuple(clean(reason, MAX_TEXT) for reason in reasons[:20] if isinstance(reason, str)) if is_told else None
    plain = {"index": 0, "name": "unknown"} | _plain(Gpu, data)
    return Gpu(**plain, processes=processes, throttle_reasons=reasons)


def _list(value: object, most: int) -> list:
    return list(value[:most]) if isinstance(value, list | tuple) else []


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -MOST < value < MOST  # NaN is neither


def _plain(of: type, data: dict) -> dict:
    """The texts, numbers and flags among the fields of `of` that `data` has in their type."""
    kept = {}
    for field in dataclasses.fields(of):
        value = data.get(field.name)
        if field.type is str and isinstance(value, str):
            kept[field.name] = clean(value, MAX_TEXT)
        elif field.type in (bool, bool | None) and isinstance(value, bool):
            kept[field.name] = value
        elif field.type in (int, int | None) and _is_number(value):
            kept[field.name] = int(value)
        elif field.type in (float, float | None) and _is_number(value):
            kept[field.name] = float(value)
    return kept
