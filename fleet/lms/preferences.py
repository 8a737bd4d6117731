"""The switch that lets LM Studio serve without its window, in its settings files (contract §8.3).

`enableLocalService` in settings.json, and in older versions `developer.enableLocalLLMService` in preferences.json.
The files are the application's own: one key is merged in, the old file kept beside it, and a file that cannot be read
stops everything.
"""

import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from fleet.lms.errors import LmsError, Problem

SWITCHES = {"settings.json": ("enableLocalService",), "preferences.json": ("developer", "enableLocalLLMService")}
RESTART_NOTE = "An LM Studio that is running may notice this only after a restart."


@dataclass(frozen=True)
class Change:
    """A file as it will be."""

    path: Path
    content: dict


def headless(folder: Path) -> bool | None:
    """Whether the switch is on in one of the files; None when none of them tells."""
    told = []
    for name, keys in SWITCHES.items():
        try:
            found: object = _read(folder / name)
        except LmsError:
            continue
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        told += [found] if isinstance(found, bool) else []
    return any(told) if told else None


def set_headless(folder: Path, is_on: bool) -> dict:
    """Set the switch in both files; returns {"headless", "changed": [path], "backups": [path], "note"}.

    Raises LmsError BAD_FILE before anything is written when one of the files cannot be merged into.
    """
    changes = [_change(folder / name, keys, is_on) for name, keys in SWITCHES.items()]
    changes = [change for change in changes if change is not None]
    backups = [_write(change) for change in changes]
    return {
        "headless": is_on,
        "changed": [str(change.path) for change in changes],
        "backups": [str(backup) for backup in backups if backup],
        "note": RESTART_NOTE if changes else "It was set already; nothing was written.",
    }


def _read(path: Path) -> dict:
    """The object in the file, {} when there is no file. Raises LmsError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        sentence = f"{path} cannot be read as JSON, so nothing was written."
        raise LmsError(Problem.BAD_FILE, sentence, str(error)) from error
    if not isinstance(content, dict):
        raise LmsError(Problem.BAD_FILE, f"{path} does not hold an object, so nothing was written.")
    return content


def _change(path: Path, keys: tuple[str, ...], is_on: bool) -> Change | None:
    """None when the switch stands right already."""
    content = _read(path)
    inner = content
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            raise LmsError(Problem.BAD_FILE, f'"{key}" in {path} is not an object, so nothing was written.')
    if inner.get(keys[-1]) is is_on:
        return None
    inner[keys[-1]] = is_on
    return Change(path, content)


def _write(change: Change) -> Path | None:
    """Replace the file in one step; returns the copy of the old one. Raises LmsError."""
    path = Path(os.path.realpath(change.path))  # a link stays a link
    try:
        backup = _back_up(path)
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        new = Path(name)
        try:
            with os.fdopen(number, "w", encoding="utf-8") as file:
                json.dump(change.content, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            if backup:
                shutil.copymode(path, new)
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    except OSError as error:
        sentence = f"{path} cannot be written: {error.strerror or error}."
        raise LmsError(
            Problem.BAD_FILE, sentence, str(error), "Look at the file's permissions and the disk."
        ) from error
    return backup


def _back_up(path: Path) -> Path | None:
    """A copy beside it, with the time in its name; an earlier copy is never overwritten."""
    if not path.exists():
        return None
    stamp, number = time.strftime("%Y%m%d-%H%M%S"), 0
    while (backup := path.with_name(f"{path.name}.{stamp}{f'-{number}' if number else ''}.bak")).exists():
        number += 1
    shutil.copy2(path, backup)
    return backup
