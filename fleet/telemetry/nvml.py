"""NVIDIA's GPUs, as their driver tells of them through NVML (the package nvidia-ml-py, module pynvml)."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from fleet.telemetry.nvml_device import NvmlDevice
from fleet.telemetry.processes import ProcessNames
from fleet.telemetry.readings import MAX_GPUS, Gpu

logger = logging.getLogger(__name__)

# How often a session is begun anew in which a GPU has a problem: only a new one sees that a lost GPU was reset.
RENEWAL_SECONDS = 60.0

NOT_INSTALLED = "The Python package nvidia-ml-py is missing. Install DaemonPulse's requirements again."
NO_GPU = (
    "NVIDIA's driver runs, but finds no GPU. Check that the card is seated and powered, and what `nvidia-smi` says."
)
NO_INSTANCE = (
    "MIG is switched on, but there is no MIG instance to run on. Create one with `nvidia-smi mig -cgi … -C`, "
    "give this account access to one, or switch MIG off."
)
UNEXPECTED = "NVIDIA's driver gave an answer that was not understood. The log has the details."

# By the names of pynvml's error codes. The first is also what a container without its GPUs sees.
DRIVER_NOTES = {
    "LIBRARY_NOT_FOUND": "No NVIDIA driver was found. If this machine has an NVIDIA GPU, install its driver; "
    "in a container, start that with its GPUs (`--gpus all`).",
    "DRIVER_NOT_LOADED": "NVIDIA's driver is installed but not running. Restart the machine; "
    "if that does not help, install the driver again.",
    "NO_PERMISSION": "This account may not talk to NVIDIA's driver. "
    "Give it access to the devices /dev/nvidia*, or start DaemonPulse from an account that has it.",
    "LIB_RM_VERSION_MISMATCH": "NVIDIA's driver was updated while it ran. Restart the machine to use the new one.",
}
GPU_PROBLEMS = {
    "GPU_IS_LOST": "The driver lost this GPU: it fell off the bus or is no longer reachable. "
    "Restart the machine, and check its power and cooling if this comes back.",
    "RESET_REQUIRED": "This GPU must be reset before it can work again: "
    "stop what uses it, then run `nvidia-smi --gpu-reset` or restart the machine.",
    "NO_PERMISSION": "This account may not see this GPU. Give it access to the devices /dev/nvidia*.",
    "INSUFFICIENT_POWER": "This GPU's extra power cables are not plugged in properly. Check them.",
    "IRQ_ISSUE": "The system does not deliver this GPU's interrupts. Restart the machine.",
}


@dataclass(frozen=True, slots=True)
class NvmlAnswer:
    """The GPUs the driver told of. `note` says why there are none and what to do; "" when there are some."""

    gpus: tuple[Gpu, ...] = ()
    driver_version: str = ""
    cuda_version: str = ""  # the newest that the driver supports, "12.4"
    note: str = ""


class Nvml:
    """One session with the driver, begun by the first read() and begun anew after errors of the driver.

    For one thread at a time. `library` stands in for the module pynvml; processes whose program lies below
    `folder` (LM Studio's) count as the daemon's.
    """

    def __init__(
        self,
        library: ModuleType | None = None,
        folder: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._library = library
        self._folder = folder
        self._clock = clock
        self._began_at: float | None = None  # None = no session

    def read(self) -> NvmlAnswer:
        """What the driver tells now. Never raises: what goes wrong becomes `note`, or the GPU's `problem`."""
        try:
            library = self._loaded()
        except ImportError:
            return NvmlAnswer(note=NOT_INSTALLED)
        try:
            return self._read_twice(library)
        except library.NVMLError as error:
            return NvmlAnswer(note=_driver_note(library, error))
        except Exception:
            logger.exception("nvml.unexpected")
            self._end(library)
            return NvmlAnswer(note=UNEXPECTED)

    def _loaded(self) -> ModuleType:
        if self._library is None:
            import pynvml  # here, as it costs 40 ms and 4 MB that a machine may never need

            self._library = pynvml
        return self._library

    def _read_twice(self, library: ModuleType) -> NvmlAnswer:
        """A session that was good until now may only be stale: its error is tried against a new one, once."""
        is_new = self._began_at is None
        try:
            return self._read(library)
        except library.NVMLError:
            self._end(library)
            if is_new:
                raise
        return self._read_twice(library)

    def _read(self, library: ModuleType) -> NvmlAnswer:
        if self._began_at is None:
            library.nvmlInit()
            self._began_at = self._clock()
        names = ProcessNames(library, self._folder)
        count = min(library.nvmlDeviceGetCount(), MAX_GPUS)
        gpus = tuple(gpu for index in range(count) for gpu in _gpus_at(library, index, names))
        if any(gpu.problem for gpu in gpus) and self._clock() - self._began_at >= RENEWAL_SECONDS:
            self._end(library)
        return NvmlAnswer(gpus, _driver_version(library), _cuda_version(library), note="" if gpus else NO_GPU)

    def _end(self, library: ModuleType) -> None:
        if self._began_at is not None:
            self._began_at = None
            try:
                library.nvmlShutdown()
            except library.NVMLError:
                logger.debug("nvml.shutdown_refused")


def _gpus_at(library: ModuleType, index: int, names: ProcessNames) -> list[Gpu]:
    """The GPU with this index, or its MIG instances. One that is lost has its `problem` and little else."""
    device = None
    try:
        device = NvmlDevice(library, library.nvmlDeviceGetHandleByIndex(index), index, names)
        if not device.has_mig():
            return [device.read()]
        return device.read_instances() or [device.bare(NO_INSTANCE)]
    except library.NVMLError as error:
        if error.value in (library.NVML_ERROR_UNINITIALIZED, library.NVML_ERROR_DRIVER_NOT_LOADED):
            raise
        device = device or NvmlDevice(library, None, index, names)
        return [device.bare(_gpu_problem(library, error))]


def _driver_version(library: ModuleType) -> str:
    try:
        return library.nvmlSystemGetDriverVersion()
    except library.NVMLError:
        return ""


def _cuda_version(library: ModuleType) -> str:
    """NVML tells 12040 for 12.4 (its macros NVML_CUDA_DRIVER_VERSION_MAJOR and _MINOR)."""
    try:
        told = library.nvmlSystemGetCudaDriverVersion_v2()
    except library.NVMLError:
        return ""
    return f"{told // 1000}.{told % 1000 // 10}"


def _driver_note(library: ModuleType, error: Exception) -> str:
    known = _worded(library, DRIVER_NOTES, error)
    return known or f"NVIDIA's driver answers with an error: {error}. If `nvidia-smi` fails too, restart the machine."


def _gpu_problem(library: ModuleType, error: Exception) -> str:
    known = _worded(library, GPU_PROBLEMS, error)
    return known or f"The driver tells nothing of this GPU: {error}. If this lasts, restart the machine."


def _worded(library: ModuleType, sentences: dict[str, str], error: Exception) -> str:
    codes = {getattr(library, f"NVML_ERROR_{name}"): sentence for name, sentence in sentences.items()}
    return codes.get(error.value, "")
