"""The agent's log of commands, in two tiers: a line for people, and the whole of it, encrypted, for an audit."""

import contextlib
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fleet.agent.keys import AgentKey

SUMMARY, PAYLOADS = "summary.log", "payloads.log"
MAX_BYTES = 5 * 1024 * 1024
OLD_FILES = 3
MAX_RECORD_CHARACTERS = 256 * 1024  # of one payload; an inventory of models is long, endless is not
PLAIN = re.compile(r"[A-Za-z0-9_.:%\[\]-]{1,64}")


@dataclass(frozen=True)
class Entry:
    """One command and what became of it. `id` and `action` as the sender wrote them; they may be anything."""

    id: object
    action: object
    peer: str
    outcome: str  # "done", "failed: timeout", "refused: …"
    seconds: float


class Journal:
    """Thread-safe. The files are this user's alone, and rotate by size.

    A failing disk is told once on standard error by the caller: writing raises OSError.
    """

    def __init__(self, folder: Path, key: AgentKey, max_bytes: int = MAX_BYTES):
        self.summary = RotatingFile(folder / SUMMARY, max_bytes)
        self.payloads = RotatingFile(folder / PAYLOADS, max_bytes)
        self._cipher = _cipher(key)
        self._lock = threading.Lock()

    def tell(self, entry: Entry) -> None:
        """The line for people: no parameters and nothing that a stranger could write into it."""
        shown = (_now(), _plain(entry.id), _plain(entry.action), f"{entry.seconds:.2f}s", entry.peer, entry.outcome)
        with self._lock:
            self.summary.write("  ".join(" ".join(part.split()) for part in shown))

    def keep(self, stage: str, peer: str, **payload: object) -> None:
        """The record for an audit. `stage` is "begun", "ended" or "refused"."""
        text = json.dumps({"at": _now(), "stage": stage, "peer": peer} | payload, default=str)
        if len(text) > MAX_RECORD_CHARACTERS:
            text = json.dumps(
                {"at": _now(), "stage": stage, "peer": peer, "cut_off": text[:MAX_RECORD_CHARACTERS]}, default=str
            )
        sealed = self._cipher.encrypt(text.encode("utf-8", "replace")).decode()
        with self._lock:
            self.payloads.write(sealed)


def read_summary(folder: Path) -> Iterator[str]:
    """The lines for people, oldest first."""
    for file in RotatingFile(folder / SUMMARY, MAX_BYTES).all():
        yield from _lines(file)


def read_payloads(folder: Path, key: AgentKey) -> Iterator[dict]:
    """The records for an audit, oldest first; {"unreadable": True} stands for one of another key or a damaged one."""
    from cryptography.fernet import InvalidToken

    cipher = _cipher(key)
    for file in RotatingFile(folder / PAYLOADS, MAX_BYTES).all():
        for line in _lines(file):
            try:
                yield json.loads(cipher.decrypt(line.encode()))
            except (InvalidToken, ValueError):
                yield {"unreadable": True}


class RotatingFile:
    """A file of lines, and its `OLD_FILES` predecessors: name.1 is the youngest of them."""

    def __init__(self, path: Path, max_bytes: int):
        self.path = path
        self.max_bytes = max_bytes

    def write(self, line: str) -> None:
        self._rotate_if_full(len(line))
        # Opened for each line: there are few, and whoever moves the file away meanwhile does not lose any.
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "ab") as file:
            file.write(line.encode("utf-8", "replace") + b"\n")

    def all(self) -> list[Path]:
        """Every file there is, oldest first."""
        return [file for file in [*(self._old(n) for n in range(OLD_FILES, 0, -1)), self.path] if file.exists()]

    def _rotate_if_full(self, more: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size + more <= self.max_bytes:
                return
            for number in range(OLD_FILES - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    self._old(number).replace(self._old(number + 1))
            self.path.replace(self._old(1))

    def _old(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def _cipher(key: AgentKey):
    # Imported here: what only talks to an agent reads this module without keeping a journal.
    import base64

    from cryptography.fernet import Fernet

    return Fernet(base64.urlsafe_b64encode(key.derive("payloads-v1")))


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.strip():
                yield line.rstrip("\n")


def _plain(text: object) -> str:
    return text if isinstance(text, str) and PLAIN.fullmatch(text) else "-"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
