"""LM Studio's folder on this machine: where it is, what is installed, where its server listens (contract §8)."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PORT = 1234
DEFAULT_INTERFACE = "127.0.0.1"
POINTER = ".lmstudio-home-pointer"
EVERYWHERE = {"", "0.0.0.0", "::"}  # noqa: S104 - compared, not bound


@dataclass(frozen=True)
class Folder:
    """LM Studio's folder; `Folder.find()` finds it. Reads only: nothing here is ever written."""

    path: Path
    user_home: Path
    platform: str = sys.platform
    search_path: str = ""  # where programs are looked for (PATH)
    programs: tuple[Path, ...] = ()  # where the desktop application of this platform is installed, if known

    @classmethod
    def find(
        cls, user_home: Path | None = None, platform: str = sys.platform, environment: Mapping[str, str] = os.environ
    ) -> "Folder":
        """The folder of this user, whether or not it exists. Unlike LM Studio it never writes the pointer file."""
        home = Path(os.path.realpath(user_home or Path.home()))
        programs = _programs(home, platform, environment)
        return cls(lmstudio_home(home), home, platform, environment.get("PATH", ""), programs)

    @property
    def own_lms(self) -> Path:
        """Where `lms bootstrap` expects the command (contract §8.1)."""
        return self.path / "bin" / ("lms.exe" if self.platform == "win32" else "lms")

    @property
    def lms(self) -> Path | None:
        """The command to run: the folder's own, else the one on PATH, else None."""
        if self.own_lms.is_file() and os.access(self.own_lms, os.X_OK):
            return self.own_lms
        found = shutil.which(self.own_lms.name, path=self.search_path) if self.search_path else None
        return Path(found) if found else None

    @property
    def is_bootstrapped(self) -> bool:
        return self.lms is not None

    @property
    def is_installed(self) -> bool:
        """The folder, the desktop application or the command is there."""
        return self.path.is_dir() or any(place.is_dir() for place in self.programs) or self.is_bootstrapped

    @property
    def internal(self) -> Path:
        return self.path / ".internal"

    @property
    def port(self) -> int:
        """The server's port as last used, else 1234 (contract §1.1)."""
        return self._server()[0]

    @property
    def interface(self) -> str:
        """The address the server was last bound to, else 127.0.0.1."""
        return self._server()[1]

    @property
    def base_url(self) -> str:
        return url_of(self.interface, self.port)

    def _server(self) -> tuple[int, str]:
        """Both or neither: half a file is not trusted (http-server-config.json, contract §8.2)."""
        try:
            config = json.loads((self.internal / "http-server-config.json").read_text())
            port, interface = int(config.get("port", DEFAULT_PORT)), str(config.get("networkInterface") or "")
        except (OSError, ValueError, AttributeError, TypeError):
            port, interface = DEFAULT_PORT, ""
        return port if 0 < port < 2**16 else DEFAULT_PORT, interface or DEFAULT_INTERFACE


def lmstudio_home(user_home: Path) -> Path:
    """The pointer file's content, else the older place, else the usual one (contract §8.1)."""
    try:
        if pointed := (user_home / POINTER).read_text(encoding="utf-8").strip():
            return user_home / pointed
    except (OSError, ValueError):
        pass
    older = user_home / ".cache" / "lm-studio"
    return older if older.is_dir() else user_home / ".lmstudio"


def configured_url(user_home: Path) -> str:
    """The server's address as last used."""
    return Folder.find(user_home).base_url


def url_of(interface: str, port: int) -> str:
    """The URL under which a server bound to this address is reached from this machine."""
    host = "127.0.0.1" if interface in EVERYWHERE else interface
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _programs(home: Path, platform: str, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where the desktop application is installed; on Linux it is a file anywhere, so that tells nothing."""
    if platform == "win32":
        local = environment.get("LOCALAPPDATA")
        return (Path(local) / "Programs" / "LM Studio",) if local else ()
    places = (Path("/Applications"), home / "Applications") if platform == "darwin" else ()
    return tuple(place / "LM Studio.app" for place in places)
