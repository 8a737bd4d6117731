"""What computes on a node: loads take more or less memory with it. Pure."""

from fleet.telemetry.readings import Machine

BY_NAME = (
    ("nvidia", "cuda"),
    ("geforce", "cuda"),
    ("rtx", "cuda"),
    ("apple", "metal"),
    ("amd", "rocm"),
    ("radeon", "rocm"),
)
OTHER_GPU = "vulkan"


def backend_of(machine: Machine | None, is_simulated: bool = False) -> str:
    """ "cuda", "rocm", "metal", "vulkan", "cpu", "simulated"; "" where the machine is not known."""
    if is_simulated:
        return "simulated"
    if machine is None:
        return ""
    if not machine.gpus:
        return "cpu"
    gpu = machine.gpus[0]
    if gpu.source == "nvml":
        return "cuda"
    name = gpu.name.lower()
    return next((backend for word, backend in BY_NAME if word in name), OTHER_GPU)
