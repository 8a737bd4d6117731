"""Installing the host for a browser: a launcher in the data folder, and a manifest where the browser looks.

What was installed is written down in the data folder, so that all of it can be removed again.
"""

import json
import os
import shlex
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from fleet.native import registry
from fleet.native.manifest import (
    FOLDER_OF_PROFILE_ROOT,
    HOST_NAME,
    Browser,
    Place,
    checked_name,
    extension_ids_in,
    manifest,
    where,
)
from fleet.native.site import LINK_NAME

RECORD_NAME = "native-host-manifests.json"
DATA_DIR_VARIABLE = "DAEMONPULSE_DATA_DIR"


class InstallError(Exception):
    """It cannot be installed or removed; the text says why, and what to do."""


@dataclass(frozen=True)
class Target:
    """Which installation is meant: whose host, in which browser, for which system and user."""

    browser: Browser
    data_dir: Path
    name: str = HOST_NAME
    platform: str = sys.platform
    home: Path | None = None
    user_data_dir: Path | None = None  # a Chrome profile root other than the usual one

    def __post_init__(self):
        checked_name(self.name)

    @property
    def place(self) -> Place:
        if self.user_data_dir is None:
            return where(self.browser, self.platform, self.home or Path.home())
        if self.browser is Browser.FIREFOX or self.platform == "win32":
            raise InstallError("--user-data-dir is for Chrome, Chromium and Edge on Linux and macOS. Leave it out.")
        return Place(self.user_data_dir.expanduser().resolve() / FOLDER_OF_PROFILE_ROOT)

    @property
    def registry_key(self) -> str:
        return f"{self.place.registry_key}\\{self.name}" if self.place.registry_key else ""

    @property
    def manifest_path(self) -> Path:
        """On Windows the place is ours to choose: the registry names it."""
        folder = self.place.folder or self.data_dir / "native-host" / self.browser
        return folder / f"{self.name}.json"

    @property
    def launcher_path(self) -> Path:
        return self.data_dir / ("native-host.bat" if self.platform == "win32" else "native-host.sh")


def install(target: Target, extension_ids: list[str], replace: bool = False) -> list[Path]:
    """Write launcher and manifest; ids that an earlier manifest of ours let in stay let in. Returns what was
    written. Raises ValueError for an id or name that cannot be, and InstallError, also when the manifest is another
    program's (unless `replace`)."""
    known = [] if replace else _let_in_by_ours(target)
    allowed = list(dict.fromkeys([*known, *extension_ids]))
    content = manifest(target.browser, allowed, str(target.launcher_path), target.name)
    target.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(target.launcher_path, launcher(target), 0o700)
    target.manifest_path.parent.mkdir(parents=True, exist_ok=True)
    _write(target.manifest_path, json.dumps(content, indent=2).encode() + b"\n", 0o644)
    if target.registry_key:
        registry.write(target.registry_key, str(target.manifest_path))
    _record(target.data_dir, [*_recorded(target.data_dir), (str(target.manifest_path), target.registry_key)])
    return [target.launcher_path, target.manifest_path]


def uninstall(target: Target) -> list[Path]:
    """Remove the manifest, and with the last one the launcher and the link to the web server. Returns what was
    removed, which may be nothing. Raises InstallError when the manifest is another program's."""
    path, removed = target.manifest_path, []
    if path.exists():
        _let_in_by_ours(target)
        path.unlink()
        removed.append(path)
    if target.registry_key and registry.read(target.registry_key) == str(path):
        registry.remove(target.registry_key)
    left = [entry for entry in _recorded(target.data_dir) if entry[0] != str(path) and Path(entry[0]).exists()]
    _record(target.data_dir, left)
    return removed if left else removed + _remove_rest(target)


def _remove_rest(target: Target) -> list[Path]:
    rest = [target.launcher_path, target.data_dir / LINK_NAME]
    there = [path for path in rest if path.exists()]
    for path in [*there, target.data_dir / RECORD_NAME]:
        path.unlink(missing_ok=True)
    return there


def launcher(target: Target) -> bytes:
    """What the browser starts. -P: the folder it is started in must not be searched for modules."""
    if target.platform != "win32":
        data_dir, python = shlex.quote(str(target.data_dir)), shlex.quote(sys.executable)
        script = f'#!/bin/sh\nexport {DATA_DIR_VARIABLE}={data_dir}\nexec {python} -P -m fleet.native "$@"\n'
        return script.encode("utf-8", "surrogateescape")
    # A percent sign in a batch file is written twice; 65001 is UTF-8, for names that are not ASCII.
    data_dir, python = (str(text).replace("%", "%%") for text in (target.data_dir, sys.executable))
    lines = [
        "@echo off",
        "chcp 65001 >nul",
        f'set "{DATA_DIR_VARIABLE}={data_dir}"',
        f'"{python}" -P -m fleet.native %*',
    ]
    return "\r\n".join([*lines, ""]).encode()


def _let_in_by_ours(target: Target) -> list[str]:
    """The ids in the manifest that is there already, if one is. Raises InstallError when it is not ours."""
    try:
        content = json.loads(target.manifest_path.read_text(encoding="utf-8"))
        path = content["path"]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise InstallError(
            f"{target.manifest_path} is no host manifest. Remove it, or install with --replace."
        ) from error
    if path != str(target.launcher_path):
        raise InstallError(
            f"{target.manifest_path} belongs to another program or data folder ({path}). Choose another --name, or "
            "install with --replace to take its place."
        )
    return extension_ids_in(content)


def _recorded(data_dir: Path) -> list[tuple[str, str]]:
    """Manifests written from this data folder: path, and registry key on Windows."""
    try:
        return [(str(path), str(key)) for path, key in json.loads((data_dir / RECORD_NAME).read_text())]
    except (OSError, ValueError, TypeError):
        return []


def _record(data_dir: Path, entries: list[tuple[str, str]]) -> None:
    if data_dir.is_dir():
        _write(data_dir / RECORD_NAME, json.dumps(sorted(set(entries)), indent=2).encode() + b"\n", 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all: a browser may be reading it."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    draft.chmod(mode)  # whatever the umask took away
    draft.replace(path)
