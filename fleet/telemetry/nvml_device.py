"""One GPU or MIG instance behind an NVML handle, read field by field."""

import dataclasses
from collections.abc import Iterable
from types import ModuleType

from fleet.telemetry.processes import ProcessNames
from fleet.telemetry.readings import MAX_PROCESSES, MAX_TEXT, Gpu, GpuProcess
from fleet.texts import clean

# After these nothing more can be asked of a GPU; any other error concerns one field only.
FATAL = ("UNINITIALIZED", "DRIVER_NOT_LOADED", "GPU_IS_LOST", "RESET_REQUIRED")

# NVML's clock event reasons (pynvml's nvmlClocksThrottleReason…); being idle is none.
REASONS = {
    "SwPowerCap": "held at its power limit",
    "HwThermalSlowdown": "slowed by heat",
    "SwThermalSlowdown": "slowed by heat",
    "HwPowerBrakeSlowdown": "slowed because its power supply asks for it",
    "ApplicationsClocksSetting": "held at a clock speed that was set for it",
    "SyncBoost": "held at the speed of the GPUs it is grouped with",
    "DisplayClockSetting": "held at the clock speed its display needs",
    "BoardLimit": "held at a limit of its board",
    "Reliability": "held at its highest safe voltage",
}
PROTECTING_ITSELF = "slowed by its hardware, to protect itself"
OTHER_REASON = "slowed for a reason that is not known here"


class NvmlDevice:
    """Reads one handle. Methods raise NVMLError only for what makes the whole GPU unreadable (FATAL)."""

    def __init__(self, library: ModuleType, handle: object, index: int, names: ProcessNames):
        self._library = library
        self._handle = handle
        self._index = index
        self._names = names
        self._fatal = {getattr(library, f"NVML_ERROR_{name}") for name in FATAL}

    def has_mig(self) -> bool:
        modes = self._ask("nvmlDeviceGetMigMode")  # [current, pending]; None where there is no MIG
        return bool(modes) and modes[0] == self._library.NVML_DEVICE_MIG_ENABLE

    def bare(self, problem: str) -> Gpu:
        """What identifies the GPU, as far as it still says, and the sentence on why there is no more."""
        return Gpu(index=self._index, source="nvml", problem=problem, **self._identity())

    def read(self) -> Gpu:
        """The whole GPU. Errors are those since the driver was loaded, as in nvidia-smi's overview."""
        return Gpu(
            index=self._index,
            source="nvml",
            name=self._name(),
            uuid=self._ask("nvmlDeviceGetUUID") or "",
            **self._memory(),
            utilization_percent=self._utilization(),
            temperature_celsius=self._temperature(),
            power_watts=self._watts("nvmlDeviceGetPowerUsage"),
            power_limit_watts=self._watts("nvmlDeviceGetEnforcedPowerLimit"),
            ecc_errors=self._ecc_errors(),
            throttle_reasons=self._throttle_reasons(),
            processes=self._processes(),
        )

    def read_instances(self) -> list[Gpu]:
        """The MIG instances of this GPU, with its index, name, temperature and throttle reasons.

        NVML tells neither utilisation nor power of an instance. The card's power is not repeated for each:
        added up it would be wrong.
        """
        card = Gpu(self._index, self._name(), "nvml", temperature_celsius=self._temperature())
        card = dataclasses.replace(card, throttle_reasons=self._throttle_reasons())
        return [instance._instance_of(card) for instance in self._instances()]

    def _instances(self) -> Iterable["NvmlDevice"]:
        for number in range(self._ask("nvmlDeviceGetMaxMigDeviceCount") or 0):
            # Numbers without an instance are NOT_FOUND: destroying one leaves a gap.
            if (handle := self._ask("nvmlDeviceGetMigDeviceHandleByIndex", number)) is not None:
                yield NvmlDevice(self._library, handle, self._index, self._names)

    def _instance_of(self, card: Gpu) -> Gpu:
        return dataclasses.replace(
            card,
            uuid=self._ask("nvmlDeviceGetUUID") or "",
            mig=self._profile(),
            **self._memory(),
            ecc_errors=self._ecc_errors(),
            processes=self._processes(),
        )

    def _profile(self) -> str:
        """The driver names an instance "NVIDIA A100-SXM4-40GB MIG 1g.5gb"; "MIG" where it does not."""
        return (self._ask("nvmlDeviceGetName") or "").rpartition(" MIG ")[2] or "MIG"

    def _ask(self, function: str, *arguments: object) -> object | None:
        """What the driver answers; None when it does not tell, such as NOT_SUPPORTED or NO_PERMISSION."""
        try:
            told = getattr(self._library, function)(self._handle, *arguments)
            return clean(told, MAX_TEXT) if isinstance(told, str) else told
        except UnicodeDecodeError:  # pynvml decodes the driver's texts as UTF-8
            return None
        except self._library.NVMLError as error:
            if error.value in self._fatal:
                raise
            return None

    def _identity(self) -> dict[str, str]:
        if self._handle is None:
            return {"name": "NVIDIA GPU"}
        try:
            return {"name": self._name(), "uuid": self._ask("nvmlDeviceGetUUID") or ""}
        except self._library.NVMLError:
            return {"name": "NVIDIA GPU"}

    def _name(self) -> str:
        return self._ask("nvmlDeviceGetName") or "NVIDIA GPU"

    def _memory(self) -> dict[str, int]:
        """Version 2 counts what the driver reserves apart from `used`, as nvidia-smi does since driver 510."""
        told = self._ask("nvmlDeviceGetMemoryInfo", self._library.nvmlMemory_v2)
        told = told or self._ask("nvmlDeviceGetMemoryInfo")
        if told is None:
            return {}
        return {"memory_total_bytes": told.total, "memory_used_bytes": told.used, "memory_free_bytes": told.free}

    def _utilization(self) -> float | None:
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        return None if rates is None else float(rates.gpu)

    def _temperature(self) -> float | None:
        # The older function goes with CUDA 14, the newer one came with driver 560 or so.
        sensor = self._library.NVML_TEMPERATURE_GPU
        told = self._ask("nvmlDeviceGetTemperatureV", sensor)
        told = self._ask("nvmlDeviceGetTemperature", sensor) if told is None else told
        return None if told is None else float(told)

    def _watts(self, function: str) -> float | None:
        milliwatts = self._ask(function)
        return None if milliwatts is None else milliwatts / 1000

    def _ecc_errors(self) -> int | None:
        library = self._library
        return self._ask(
            "nvmlDeviceGetTotalEccErrors", library.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, library.NVML_VOLATILE_ECC
        )

    def _throttle_reasons(self) -> tuple[str, ...] | None:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # before driver 535
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if bits is None else throttle_phrases(self._library, bits)

    def _processes(self) -> tuple[GpuProcess, ...] | None:
        lists = [self._listed("Compute"), self._listed("Graphics")]
        if lists == [None, None]:
            return None
        memory: dict[int, int | None] = {}
        for process in (lists[0] or []) + (lists[1] or []):
            # Both lists tell the same figure of a process that is in both: never add them.
            told = [size for size in (memory.get(process.pid), process.usedGpuMemory) if size is not None]
            memory[process.pid] = max(told, default=None)
        pids = sorted(memory, key=lambda pid: -(memory[pid] or 0))[:MAX_PROCESSES]
        return tuple(self._names.process(pid, memory[pid]) for pid in pids)

    def _listed(self, kind: str) -> list | None:
        """Version 3 came with driver 510. pynvml puts None for memory of NVML_VALUE_NOT_AVAILABLE (Windows)."""
        told = self._ask(f"nvmlDeviceGet{kind}RunningProcesses_v3")
        return self._ask(f"nvmlDeviceGet{kind}RunningProcesses_v2") if told is None else told


def throttle_phrases(library: ModuleType, bits: int) -> tuple[str, ...]:
    """NVML's clock event reasons as phrases, each once; empty = runs at full speed."""
    known = {name: getattr(library, f"nvmlClocksThrottleReason{name}") for name in REASONS}
    phrases = [REASONS[name] for name, bit in known.items() if bits & bit]
    is_protecting = bits & library.nvmlClocksThrottleReasonHwSlowdown
    # HwSlowdown comes together with its cause where the driver knows that.
    if is_protecting and not bits & (known["HwThermalSlowdown"] | known["HwPowerBrakeSlowdown"]):
        phrases.append(PROTECTING_ITSELF)
    if bits & ~library.nvmlClocksThrottleReasonAll:
        phrases.append(OTHER_REASON)
    return tuple(dict.fromkeys(phrases))
