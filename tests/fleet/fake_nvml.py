"""A stand-in for the module pynvml: its own constants, structs and errors, over cards that a test describes."""

from dataclasses import dataclass, field

import pynvml

GIB = 1024**3


@dataclass
class Instance:
    """A MIG instance."""

    profile: str = "1g.10gb"
    uuid: str = "MIG-1"
    total: int = 10 * GIB
    used: int = 1 * GIB
    reserved: int = 0
    processes: list = field(default_factory=list)
    graphics: list = field(default_factory=list)
    errors: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"NVIDIA H100 80GB HBM3 MIG {self.profile}"


@dataclass
class Card:
    """A GPU. `errors` maps a function's name without "nvml" to the error it gives, "*" to that of all functions."""

    name: str = "NVIDIA H100 80GB HBM3"
    uuid: str = "GPU-1"
    total: int = 80 * GIB
    reserved: int = 1 * GIB
    used: int = 30 * GIB
    utilization: int = 55
    temperature: int = 61
    milliwatts: int = 301_500
    milliwatts_limit: int = 700_000
    uncorrected: int = 0
    reasons: int = 0
    processes: list = field(default_factory=list)  # (pid, bytes or None)
    graphics: list = field(default_factory=list)
    mig: list | None = None  # None = no MIG, else instances with gaps as None
    errors: dict = field(default_factory=dict)


class FakeNvml:
    """What Nvml(library=…) takes. A function that is not written here is none: nothing reaches a real driver."""

    def __init__(self, *cards: Card, errors: dict | None = None):
        self.cards = list(cards)
        self.errors = errors or {}  # of functions that concern no card
        self.process_names: dict[int, str] = {}
        self.is_open = False
        self.breaks_at = ""  # the function in which the session ends, once
        self.begun = self.ended = 0

    def __getattr__(self, name: str):
        value = getattr(pynvml, name)
        if name.startswith("nvml") and callable(value) and not isinstance(value, type):
            raise AttributeError(f"the stand-in has no {name}")
        return value

    def _system(self, function: str) -> None:
        if function in self.errors:
            raise pynvml.NVMLError(self.errors[function])
        if function == self.breaks_at:
            self.is_open, self.breaks_at = False, ""
        if not self.is_open:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)

    def _device(self, function: str, handle: Card | Instance) -> None:
        self._system(function)
        error = handle.errors.get(function, handle.errors.get("*"))
        if error is None and isinstance(handle, Instance) and function in NOT_FOR_INSTANCES:
            error = pynvml.NVML_ERROR_NOT_SUPPORTED
        if error is not None:
            raise pynvml.NVMLError(error)

    def nvmlInit(self):
        if "Init" in self.errors:
            raise pynvml.NVMLError(self.errors["Init"])
        self.is_open, self.begun = True, self.begun + 1

    def nvmlShutdown(self):
        self._system("Shutdown")
        self.is_open, self.ended = False, self.ended + 1

    def nvmlSystemGetDriverVersion(self):
        self._system("SystemGetDriverVersion")
        return "580.95.05"

    def nvmlSystemGetCudaDriverVersion_v2(self):
        self._system("SystemGetCudaDriverVersion_v2")
        return 13010

    def nvmlSystemGetProcessName(self, pid):
        if pid not in self.process_names:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.process_names[pid]

    def nvmlDeviceGetCount(self):
        self._system("DeviceGetCount")
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):
        self._device("DeviceGetHandleByIndex", self.cards[index])
        return self.cards[index]

    def nvmlDeviceGetName(self, handle):
        self._device("DeviceGetName", handle)
        return handle.name

    def nvmlDeviceGetUUID(self, handle):
        self._device("DeviceGetUUID", handle)
        return handle.uuid

    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        """As drivers since 510 do: version 1 counts what is reserved as used."""
        self._device("DeviceGetMemoryInfo_v2" if version else "DeviceGetMemoryInfo", handle)
        free = handle.total - handle.reserved - handle.used
        if version == pynvml.nvmlMemory_v2:
            return pynvml.c_nvmlMemory_v2_t(
                total=handle.total, reserved=handle.reserved, free=free, used=handle.used, version=version
            )
        return pynvml.c_nvmlMemory_t(total=handle.total, free=free, used=handle.used + handle.reserved)

    def nvmlDeviceGetUtilizationRates(self, handle):
        self._device("DeviceGetUtilizationRates", handle)
        return pynvml.c_nvmlUtilization_t(gpu=handle.utilization, memory=99)

    def nvmlDeviceGetTemperatureV(self, handle, sensor, version=pynvml.nvmlTemperature_v1):
        self._device("DeviceGetTemperatureV", handle)
        return handle.temperature

    def nvmlDeviceGetTemperature(self, handle, sensor):
        self._device("DeviceGetTemperature", handle)
        return handle.temperature

    def nvmlDeviceGetPowerUsage(self, handle):
        self._device("DeviceGetPowerUsage", handle)
        return handle.milliwatts

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        self._device("DeviceGetEnforcedPowerLimit", handle)
        return handle.milliwatts_limit

    def nvmlDeviceGetTotalEccErrors(self, handle, error_type, counter):
        self._device("DeviceGetTotalEccErrors", handle)
        is_asked = (error_type, counter) == (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
        return handle.uncorrected if is_asked else 4711

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        self._device("DeviceGetCurrentClocksEventReasons", handle)
        return handle.reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        self._device("DeviceGetCurrentClocksThrottleReasons", handle)
        return handle.reasons

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle):
        self._device("DeviceGetComputeRunningProcesses_v3", handle)
        return [_process(*row) for row in handle.processes]

    def nvmlDeviceGetComputeRunningProcesses_v2(self, handle):
        self._device("DeviceGetComputeRunningProcesses_v2", handle)
        return [_process(*row) for row in handle.processes]

    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle):
        self._device("DeviceGetGraphicsRunningProcesses_v3", handle)
        return [_process(*row) for row in handle.graphics]

    def nvmlDeviceGetGraphicsRunningProcesses_v2(self, handle):
        self._device("DeviceGetGraphicsRunningProcesses_v2", handle)
        return [_process(*row) for row in handle.graphics]

    def nvmlDeviceGetMigMode(self, handle):
        self._device("DeviceGetMigMode", handle)
        if handle.mig is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        self._device("DeviceGetMaxMigDeviceCount", handle)
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):
        self._device("DeviceGetMigDeviceHandleByIndex", handle)
        instance = handle.mig[index] if index < len(handle.mig) else None
        if instance is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return instance


NOT_FOR_INSTANCES = {
    "DeviceGetUtilizationRates",
    "DeviceGetTemperatureV",
    "DeviceGetTemperature",
    "DeviceGetPowerUsage",
    "DeviceGetEnforcedPowerLimit",
    "DeviceGetTotalEccErrors",
    "DeviceGetCurrentClocksEventReasons",
    "DeviceGetCurrentClocksThrottleReasons",
}


def _process(pid: int, memory: int | None) -> pynvml.nvmlFriendlyObject:
    """As pynvml gives a process; it puts None for memory that the driver does not tell."""
    return pynvml.nvmlFriendlyObject({"pid": pid, "usedGpuMemory": memory})
