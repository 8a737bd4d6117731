"""Ending a command that was started here, with what it started, but not the daemon that it woke."""

import contextlib
import os
import subprocess
import sys

import psutil

GRACE_SECONDS = 1.0  # to leave in good order, such as to cancel a load, before it is killed
DAEMON_NAMES = ("llmster", "lm studio")


def end(process: subprocess.Popen) -> None:
    """End it and those of its descendants that are in its process group; returns when it is gone.

    The daemon is detached (contract §8.4): it has a session of its own, and survives.
    """
    members = _members(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    for member in members:
        with contextlib.suppress(psutil.Error):
            member.kill()  # psutil makes sure that the number still means the same process
    if process.poll() is None:
        process.kill()
    process.wait()


def _members(pid: int) -> list[psutil.Process]:
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return [child for child in found if _belongs(child, pid)]


def _belongs(child: psutil.Process, pid: int) -> bool:
    """In the same process group. Windows has none: there all but the daemon belong."""
    try:
        if sys.platform == "win32":
            return not child.name().lower().startswith(DAEMON_NAMES)
        return os.getpgid(child.pid) == os.getpgid(pid)
    except (OSError, psutil.Error):
        return False
