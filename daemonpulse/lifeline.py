"""A process ends when its parent is gone: `kill -9` of the supervisor leaves nothing behind."""

import os
import threading
import time

CHECK_SECONDS = 0.5
PARENT_VARIABLE = "DAEMONPULSE_PARENT"  # the supervisor's process id, for what it starts
EXIT_ORPHANED = 75


def end_with_supervisor() -> None:
    """Tie this process to the supervisor that started it; does nothing without one."""
    if parent := os.environ.pop(PARENT_VARIABLE, None):
        end_with_parent(int(parent))


def end_with_parent(parent: int | None = None) -> None:
    """Watch the parent from a thread and exit at once when it is another one (the old one died).

    A poll rather than a signal from the kernel, because it works the same on Linux and macOS and for
    processes that were forked without exec.
    """
    if not hasattr(os, "getppid"):
        return
    expected = parent or os.getppid()

    def watch():
        while os.getppid() == expected:
            time.sleep(CHECK_SECONDS)
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def end_children_with_this_process() -> None:
    """The same for everything this process forks from now on (django-q2's pool)."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=end_with_parent)
