"""Finding the LM Studio of this machine."""

import json
from pathlib import Path

from fleet.daemons import http
from fleet.daemons.errors import DaemonError

DEFAULT_PORT = 1234
GREETING_SECONDS = 0.5  # what LM Studio's own command line allows (contract §1.2)


def lmstudio_home(user_home: Path) -> Path:
    """LM Studio's folder: the pointer file, else the older place, else the usual one (contract §8.1)."""
    try:
        if pointed := (user_home / ".lmstudio-home-pointer").read_text().strip():
            return Path(pointed)
    except OSError:
        pass
    older = user_home / ".cache" / "lm-studio"
    return older if older.is_dir() else user_home / ".lmstudio"


def configured_url(user_home: Path) -> str:
    """The server's address as last used, from http-server-config.json (contract §1.1)."""
    try:
        config = json.loads((lmstudio_home(user_home) / ".internal" / "http-server-config.json").read_text())
        port, interface = int(config.get("port", DEFAULT_PORT)), str(config.get("networkInterface") or "")
    except (OSError, ValueError, AttributeError, TypeError):
        port, interface = DEFAULT_PORT, ""
    host = "127.0.0.1" if interface in {"", "0.0.0.0", "::"} else interface  # noqa: S104 - compared, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def find_here(user_home: Path | None = None) -> str | None:
    """The base URL of the LM Studio server that runs on this machine, or None."""
    url = configured_url(user_home or Path.home())
    try:
        greeting = http.call("GET", f"{url}/lmstudio-greeting", seconds=GREETING_SECONDS)
    except DaemonError:
        return None
    return url if greeting.get("lmstudio") is True else None
