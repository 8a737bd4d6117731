"""`lms daemon …`: the process behind everything, llmster or the desktop application (contract §7.8)."""

import functools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fleet.lms.cli import Lms
from fleet.lms.errors import LmsError, Problem

UPDATE_SECONDS = 1800.0  # a download of some hundred megabytes
GONE_SECONDS = 10.0
POLL_SECONDS = 0.25
KNOWN_VERSIONS = 16  # of so many daemons
VERSION = re.compile(r"\bv?(\d+\.\d+\.\d+[\w.+-]*) is running", re.IGNORECASE)


@dataclass(frozen=True)
class DaemonState:
    """None = unknown. `is_daemon`: llmster (True) or the desktop application (False)."""

    is_running: bool | None = None
    pid: int | None = None
    is_daemon: bool | None = None


def look(lms: Lms, seconds: float) -> DaemonState:
    """Whether it runs; never wakes it. Raises LmsError."""
    told = lms.json("daemon", "status", seconds=seconds)
    status = told.get("status") if isinstance(told, dict) else None
    if status == "not-running":
        return DaemonState(is_running=False)
    if status != "running":
        raise LmsError(Problem.NOT_UNDERSTOOD, "`lms daemon status` gave an unknown answer.", str(told))
    pid, is_daemon = told.get("pid"), told.get("isDaemon")
    return DaemonState(
        True,
        pid if isinstance(pid, int) and not isinstance(pid, bool) else None,
        is_daemon if isinstance(is_daemon, bool) else None,
    )


@functools.lru_cache(KNOWN_VERSIONS)
def version(executable: Path, pid: int, seconds: float) -> str | None:
    """Of the daemon with this process id, as it words it; None when it does not tell. Only the answer in words has it.

    Asked once for each daemon, whoever asks: a call of `lms` takes a good part of a second. Raises LmsError, and then
    it is asked again the next time.
    """
    answer = Lms(executable).run("daemon", "status", seconds=seconds)
    if answer.exit_code:
        raise answer.failure()
    found = VERSION.search(answer.text)
    return found[1] if found else None


def down(lms: Lms, seconds: float, on_line: Callable[[str], None] | None) -> None:
    """Stop it and see that it is gone; it is no error when it was. Raises LmsError GUI_APP for the application."""
    answer = lms.run("daemon", "down", seconds=seconds, on_line=on_line)
    until = time.monotonic() + GONE_SECONDS
    while (state := look(lms, seconds)).is_running:
        if state.is_daemon is False:
            raise LmsError(Problem.GUI_APP, f"LM Studio's window is open: {answer.complaint}", answer.text)
        if answer.exit_code or time.monotonic() > until:
            raise answer.failure()
        time.sleep(POLL_SECONDS)


def check_can_update(platform: str) -> None:
    """Raises LmsError on Windows, where it waits for ENTER in a window of its own (contract §7.8)."""
    if platform == "win32":
        sentence = "On Windows the update asks a person to press ENTER, so it cannot be run from here."
        advice = "Run on the machine itself: lms daemon down, then lms daemon update, then lms daemon up"
        raise LmsError(Problem.NOT_SCRIPTABLE, sentence, advice=advice)


def update(lms: Lms, on_line: Callable[[str], None] | None) -> None:
    """Update it; it must be down. Raises LmsError."""
    answer = lms.run("daemon", "update", seconds=UPDATE_SECONDS, on_line=on_line)
    if answer.exit_code:
        raise answer.failure()
