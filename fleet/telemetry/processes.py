"""Who a process is that uses a GPU: its name, and whether it belongs to an inference server."""

import os
import re
from pathlib import Path, PureWindowsPath
from types import ModuleType

from fleet.telemetry.readings import GpuProcess
from fleet.texts import clean

MAX_NAME = 80
KERNELS_NAME = 15  # characters of a program's name that Linux keeps; psutil adds the rest from the command line
# Of a program's name, without its folder: LM Studio's parts, llama.cpp's server, Ollama and vLLM.
DAEMON = re.compile(
    r"(llmster|lms|lm[ ._-]?studio.*|llama[._-]?(server|cpp|box).*|ollama.*|vllm.*)(\.exe|\.appimage)?", re.IGNORECASE
)
# Servers that run as `python -m …`.
DAEMON_MODULE = re.compile(r"(vllm|llama_cpp)(\..*)?")


class ProcessNames:
    """Looks processes up on this machine. `folder`: what runs from below it is LM Studio's."""

    def __init__(self, library: ModuleType, folder: Path | None = None):
        self._library = library
        paths = () if folder is None else (folder.absolute(), folder.resolve())
        self._folders = {os.path.normcase(path) + os.sep for path in paths}

    def process(self, pid: int, memory_bytes: int | None) -> GpuProcess:
        """The process with this id. Its name is "" when it is gone or hidden from this account."""
        name, program, arguments = _looked_up(pid)
        name = clean(name or self._name_by_driver(pid), MAX_NAME)
        is_daemon = any(map(self._is_daemons, (name, program, *arguments[:1]))) or _runs_daemon_module(arguments)
        return GpuProcess(pid, name, memory_bytes, is_daemon)

    def _is_daemons(self, program: str) -> bool:
        if os.path.normcase(program).startswith(tuple(self._folders)):
            return True
        return DAEMON.fullmatch(PureWindowsPath(program).name) is not None

    def _name_by_driver(self, pid: int) -> str:
        """NVML knows processes that are hidden from us. Options are cut off: they can hold anything."""
        try:
            told = self._library.nvmlSystemGetProcessName(pid)
        except (self._library.NVMLError, UnicodeDecodeError):
            return ""
        return PureWindowsPath(told.split(" -")[0].strip()).name


def _looked_up(pid: int) -> tuple[str, str, list[str]]:
    """Name, program file and command line; "" and [] for what is not told, as of other accounts' processes."""
    import psutil  # here, as its import takes 30 ms

    try:
        process = psutil.Process(pid)
        name = process.name()
    except (psutil.Error, OSError, ValueError, OverflowError):
        return "", "", []
    try:
        program = process.exe()
    except (psutil.Error, OSError):
        program = ""
    if len(name) == KERNELS_NAME and (whole := PureWindowsPath(program).name).startswith(name):
        name = whole  # its command line says something else, or is not written yet
    try:
        return name, program, process.cmdline()
    except (psutil.Error, OSError):
        return name, program, []


def _runs_daemon_module(arguments: list[str]) -> bool:
    """`python -m vllm.entrypoints…`, or a script such as `python /usr/bin/vllm serve`."""
    if not arguments or not PureWindowsPath(arguments[0]).name.lower().startswith("python"):
        return False
    following = arguments[1:4]
    if "-m" in following[:-1]:
        return DAEMON_MODULE.fullmatch(following[following.index("-m") + 1]) is not None
    script = next((argument for argument in following if not argument.startswith("-")), "")
    return DAEMON.fullmatch(PureWindowsPath(script).name) is not None
