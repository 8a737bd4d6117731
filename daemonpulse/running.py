"""Where the installation of a data folder is reached: `up` and `client` note it, whoever prints an address reads it.

Imports no Django.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from daemonpulse import paths, program

FILE_NAME = "running.json"
SERVER_PORT, SERVER_TLS_PORT, CLIENT_PORT = 8642, 8643, 8653  # where none is chosen


@dataclass(frozen=True)
class Running:
    """Addresses, without a slash at the end. `url`: for this machine; `others`: for other machines, the likeliest
    first, empty where none gets here."""

    url: str
    others: tuple[str, ...] = ()
    has_tls: bool = False
    is_running: bool = True

    @property
    def for_devices(self) -> str:
        return self.others[0] if self.others else self.url

    @property
    def doubt(self) -> str:
        """One sentence for a person who would otherwise take the address for one that answers; "" where it does."""
        if self.is_running:
            return ""
        start = program.line("client" if paths.is_client(paths.data_dir()) else "up")
        return f"Nothing runs on {paths.data_dir()} now. This is its address once `{start}` runs without --port."


def here() -> Running:
    """What runs on this data folder; where nothing does, what would, with the ports of its role."""
    folder = paths.data_dir()
    port = CLIENT_PORT if paths.is_client(folder) else SERVER_PORT
    return find(folder) or Running(f"http://127.0.0.1:{port}", is_running=False)


def find(folder: Path) -> Running | None:
    """What runs on this folder; None when nothing does, or none that notes it."""
    try:
        with (folder / FILE_NAME).open() as file:
            told = json.load(file)
            if not _is_held(file, told["pid"]):
                return None
        return Running(told["url"], tuple(told["others"]), told["has_tls"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def noted(running: Running, folder: Path) -> Iterator[None]:
    """Keep a note of it in the folder. Its lock ends with this process, however that ends, and so does belief in it."""
    note, new = folder / FILE_NAME, folder / f"{FILE_NAME}.{os.getpid()}"
    new.write_text(json.dumps(asdict(running) | {"pid": os.getpid()}))
    new.replace(note)
    try:
        with note.open() as held:
            _hold(held)
            yield
    finally:
        note.unlink(missing_ok=True)


def _hold(file) -> None:
    with contextlib.suppress(ImportError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def _is_held(file, pid: int) -> bool:
    try:
        import fcntl
    except ImportError:  # no such locks on this platform
        import psutil

        return psutil.pid_exists(pid)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
