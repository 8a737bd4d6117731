"""VRAM that a daemon holds although nothing is loaded. Pure."""

import re
from collections.abc import Iterable
from datetime import timedelta

from fleet.telemetry.readings import Machine

ORPHANED_AFTER = timedelta(seconds=60)  # unloading takes a while; what stays longer is stuck
OTHERS = re.compile(r"ollama|vllm|llama-server|llama\.cpp", re.IGNORECASE)  # inference servers, but not LM Studio's
MIN_BYTES = 300 * 2**20  # a context without a model holds less (a CUDA context: 100 to 300 MB)


def find(machine: Machine, loaded: Iterable[list | None]) -> list[dict]:
    """[{"pid", "name", "memory_bytes"}] of the daemons' processes that hold VRAM for nothing.

    `loaded`: for each model of the node its instances, None where the node does not tell. Nothing is said where it
    told of no model, or not of what is loaded.
    """
    loaded = list(loaded)
    if not loaded or any(instances is None or instances for instances in loaded):
        return []
    held: dict[int, dict] = {}
    for process in (process for gpu in machine.gpus for process in gpu.processes or ()):
        if process.is_daemon and process.memory_bytes and not OTHERS.search(process.name):
            row = held.setdefault(process.pid, {"pid": process.pid, "name": process.name, "memory_bytes": 0})
            row["memory_bytes"] += process.memory_bytes
    return [row for row in held.values() if row["memory_bytes"] >= MIN_BYTES]
