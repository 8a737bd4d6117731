"""Processors and memory of this machine, by psutil."""

import platform
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from fleet.telemetry.readings import MAX_TEXT
from fleet.texts import clean

# Between two looks closer than this the kernel's counters hardly move: the percentage before is told again.
LEAST_SECONDS = 0.25
CPU_INFO = Path("/proc/cpuinfo")


class System:
    """Looks at this machine. Keeps the processors' counters from one read() to the next; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._lock = threading.Lock()
        self._clock = clock
        self._counted_at = 0.0
        self._before: tuple[float, float] | None = None  # processor seconds: all, busy
        self._percent: float | None = None

    def read(self) -> dict[str, object]:
        """The fields of a Machine on its system, processors and memory. Never raises; None or "" = unknown.

        `cpu_percent` covers the time since the read before, so the first has none. Memory that can be freed
        at once, such as the file cache, is not counted as used.
        """
        import psutil  # here, as its import takes 30 ms

        memory = _or_none(psutil.virtual_memory)
        return {
            "hostname": clean(_or_none(socket.gethostname) or "", MAX_TEXT),
            "system": system_name(),
            "cpu_name": cpu_name(),
            "cpu_count": _or_none(psutil.cpu_count),
            "cpu_percent": self._cpu_percent(),
            "ram_total_bytes": memory.total if memory else None,
            "ram_used_bytes": memory.total - memory.available if memory else None,
        }

    def _cpu_percent(self) -> float | None:
        """psutil's own cpu_percent() keeps its counters per thread, and says 0.0 to each that asks first."""
        import psutil

        with self._lock:
            if self._before is not None and self._clock() - self._counted_at < LEAST_SECONDS:
                return self._percent
            now = _counted(_or_none(psutil.cpu_times))
            self._percent = _busy_percent(self._before, now)
            self._before, self._counted_at = now, self._clock()
            return self._percent


def disk_free_bytes(folder: Path) -> int | None:
    """Free bytes, for this account, of the disk that holds the folder, or will: it may not be there yet."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return None
    return None


def has_unified_memory() -> bool:
    """Apple silicon: processors and GPU share one memory."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


@cache
def system_name() -> str:
    """Such as "Linux 6.1", "macOS 15.1", "Windows 11"."""
    if mac := platform.mac_ver()[0]:
        return f"macOS {mac}"
    release = re.match(r"\d+(\.\d+)?", platform.release())
    return f"{platform.system()} {release[0] if release else platform.release()}".strip()


@cache
def cpu_name() -> str:
    """The processor's name as its maker wrote it, else its architecture."""
    find = {"Linux": _linux_cpu_name, "Darwin": _mac_cpu_name}.get(platform.system(), platform.processor)
    return _or_none(find) or platform.machine()


def _linux_cpu_name() -> str:
    # ARM kernels tell no name.
    found = re.search(r"^model name\s*:\s*(.+)$", CPU_INFO.read_text(errors="replace"), re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def _mac_cpu_name() -> str:
    argv = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=2, check=True).stdout.strip()  # noqa: S603


def _counted(times: tuple | None) -> tuple[float, float] | None:
    """All processor seconds and the busy ones among them. Linux counts a guest's time in `user` already."""
    if times is None:
        return None
    guests = getattr(times, "guest", 0) + getattr(times, "guest_nice", 0)
    total = sum(times) - (guests if platform.system() == "Linux" else 0)
    return total, total - times.idle - getattr(times, "iowait", 0)


def _busy_percent(before: tuple[float, float] | None, now: tuple[float, float] | None) -> float | None:
    if before is None or now is None or now[0] <= before[0]:
        return None
    return min(max(100 * (now[1] - before[1]) / (now[0] - before[0]), 0.0), 100.0)


def _or_none(look: Callable[[], object]) -> object | None:
    """What `look` finds; None where the system refuses, such as a container without /proc."""
    import psutil

    try:
        return look()
    except (psutil.Error, OSError, subprocess.SubprocessError, NotImplementedError, RuntimeError, ValueError):
        return None
