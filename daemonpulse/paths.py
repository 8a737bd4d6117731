"""Where an installation keeps its files, and where its processes meet."""

import hashlib
import os
import tempfile
from pathlib import Path

ENVIRONMENT_VARIABLE = "DAEMONPULSE_DATA_DIR"
ROLE_VARIABLE = "DAEMONPULSE_ROLE"
CLIENT = "client"
ROLE_FILE_NAME = "role"  # in the data folder, so that every command knows whose it is


def data_dir() -> Path:
    """The data folder: DAEMONPULSE_DATA_DIR, else `daemonpulse` in the user's data folder (XDG)."""
    if chosen := os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(chosen).expanduser().resolve()
    return default_dir(os.environ.get(ROLE_VARIABLE, ""))


def default_dir(role: str) -> Path:
    """The data folder where none is chosen; `role`: CLIENT or ""."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return (Path(base) / ("daemonpulse-client" if role == CLIENT else "daemonpulse")).resolve()


def is_client(folder: Path) -> bool:
    """Whether this data folder is a client's: it delivers to a server and executes nothing."""
    try:
        return (folder / ROLE_FILE_NAME).read_text().strip() == CLIENT
    except OSError:
        return False


def make_client(folder: Path) -> None:
    """Mark a data folder as a client's; it must exist."""
    (folder / ROLE_FILE_NAME).write_text(CLIENT + "\n")


def meeting_dir() -> Path:
    """A short, private folder for the sockets of this installation's processes.

    Not in the data folder, because a Unix socket's path may be no longer than about 100 bytes.
    """
    name = hashlib.sha256(str(data_dir()).encode()).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"daemonpulse-{user}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; remove it or set TMPDIR.")
    return folder
