"""How the program is called here, for texts that tell somebody to call it. Imports no Django."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from daemonpulse import paths

NAME = "daemonpulse"
VARIABLE = "DAEMONPULSE_PROGRAM"  # what the person typed, for the processes that were started for that person
CHECKOUT = Path(__file__).resolve().parents[1]
FOR_CLIENTS = {"client", "join", "courier"}  # their data folder is another one, where none is named


def name() -> str:
    """As it was called: `daemonpulse` where the shell finds it, else with its path."""
    return os.environ.get(VARIABLE) or _called(sys.argv[0])


def line(command: str, *rest: str) -> str:
    """A command for this installation, to be typed where this process was called."""
    folder = shlex.quote(str(paths.data_dir()))
    return " ".join([name(), command, *rest, *_choice(command, folder)])


def line_on_pages(command: str, *rest: str) -> str:
    """A command for this installation, to be typed in DaemonPulse's folder.

    Strangers read pages too (signing in, /ca/), so it names no folder of this machine; who started it with --data-dir
    knows which one.
    """
    return " ".join([_in_checkout(name()), command, *rest, *_choice(command, "…")])


def hand_on() -> dict[str, str]:
    """For the environment of a process that is started for whoever called this one, and may run elsewhere."""
    called = name()
    path = Path(shlex.split(called)[0])
    return {VARIABLE: called if called == NAME or path.is_absolute() else shlex.quote(str(path.absolute()))}


def _called(argv0: str) -> str:
    path = Path(argv0)
    if path.stem != NAME:  # python -m daemonpulse, manage.py
        path = Path(sys.executable).with_name(NAME)
        if not path.exists():
            return f"{shlex.quote(sys.executable)} -m {NAME}"
    found = shutil.which(NAME)
    return NAME if found and Path(found).samefile(path) else shlex.quote(str(path))


def _in_checkout(called: str) -> str:
    path = Path(shlex.split(called)[0]).absolute()
    if called != NAME and path.is_relative_to(CHECKOUT):
        return shlex.quote(str(path.relative_to(CHECKOUT)))
    return NAME


def _choice(command: str, folder: str) -> list[str]:
    own = paths.default_dir(paths.CLIENT if command in FOR_CLIENTS else "")
    return [] if paths.data_dir() == own else ["--data-dir", folder]
