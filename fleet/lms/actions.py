"""What can be asked of the LM Studio on a machine, from a page, a command, an agent or a browser: one closed set."""

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleet.lms.manager import LMStudioManager

MAX_TEXT = 500


class Action(StrEnum):
    """Something to do on a machine. The value travels in envelopes and stands in the command history."""

    SERVER_START = "server_start"
    SERVER_STOP = "server_stop"
    SERVER_RESTART = "server_restart"
    DAEMON_UP = "daemon_up"
    DAEMON_DOWN = "daemon_down"
    DAEMON_UPDATE = "daemon_update"
    HEADLESS_ON = "headless_on"
    STATUS = "status"  # what get_status() says
    QUERY = "query"  # parameters {"what": "ls" | "ps" | "survey" | "link"}: that command's JSON
    ESTIMATE = "estimate"  # {"model", "context_length"?, "gpu_ratio"?}: what a load would need
    METADATA = "metadata"  # {"model", "size_bytes"?}: what the model's file says of the memory it takes
    LOAD = "load"  # {"model", "context_length"?, "gpu_ratio"?, "parallel"?, "ttl_seconds"?, "identifier"?}: `lms load`

    @property
    def label(self) -> str:
        """What to write on a button."""
        return LABELS[self]


LABELS = {
    Action.SERVER_START: "Start the server",
    Action.SERVER_STOP: "Stop the server",
    Action.SERVER_RESTART: "Restart the server",
    Action.DAEMON_UP: "Start the daemon",
    Action.DAEMON_DOWN: "Stop the daemon",
    Action.DAEMON_UPDATE: "Update the daemon",
    Action.HEADLESS_ON: "Start it with the machine",
    Action.STATUS: "Look at the status",
    Action.QUERY: "Ask LM Studio",
    Action.ESTIMATE: "Estimate the memory",
    Action.METADATA: "Read a model's file",
    Action.LOAD: "Load a model",
}

# Those that change something there; the others only look.
CHANGING = frozenset(Action) - {Action.STATUS, Action.QUERY, Action.ESTIMATE, Action.METADATA}

# The parameters: name → type. "model" and "what" must be there, the others may.
REQUIRED = {"model", "what"}
ESTIMATE_PARAMETERS: dict[str, type] = {"model": str, "context_length": int, "gpu_ratio": float}
PARAMETERS: dict[Action, dict[str, type]] = {
    Action.QUERY: {"what": str},
    Action.ESTIMATE: ESTIMATE_PARAMETERS,
    Action.METADATA: {"model": str, "size_bytes": int},
    Action.LOAD: ESTIMATE_PARAMETERS | {"parallel": int, "ttl_seconds": int, "identifier": str},
}
WORDS = {str: f"text of 1 to {MAX_TEXT} characters", int: "a whole number", float: "a number"}


def execute(manager: "LMStudioManager", action: Action, parameters: dict) -> dict:
    """Do it and return what came of it, ready for JSON.

    A server or daemon action and "status": Status.as_json(); "query": {"what", "answer"}; "headless_on", "estimate",
    "metadata" and "load": what the manager's method returns. Lines go through manager.on_line. Raises ValueError with
    a sentence for a wrong parameter, LmsError for what fails.
    """
    action = Action(action)
    return RUN[action](manager, **checked(action, parameters))


def checked(action: Action, parameters: object) -> dict:
    """The parameters, when they are this action's; None counts as left out. Raises ValueError with a sentence."""
    if not isinstance(parameters, dict):
        raise ValueError("The parameters must be an object.")
    types = PARAMETERS.get(action, {})
    given = {name: value for name, value in parameters.items() if value is not None}
    if unknown := [str(name)[:50] for name in parameters if name not in types]:
        allowed = ", ".join(types) or "none"
        raise ValueError(f'"{action}" does not take "{unknown[0]}"; its parameters are: {allowed}.')
    if missing := [name for name in types if name in REQUIRED and name not in given]:
        raise ValueError(f'"{action}" needs the parameter "{missing[0]}".')
    for name, value in given.items():
        if not _fits(value, types[name]):
            raise ValueError(f'"{name}" must be {WORDS[types[name]]}.')
    return given


def _fits(value: object, wanted: type) -> bool:
    if wanted is str:
        return isinstance(value, str) and 0 < len(value) <= MAX_TEXT
    return isinstance(value, int | float if wanted is float else int) and not isinstance(value, bool)


RUN: dict[Action, Callable[..., dict]] = {
    Action.SERVER_START: lambda manager: manager.ensure_server_running().as_json(),
    Action.SERVER_STOP: lambda manager: manager.stop_server().as_json(),
    Action.SERVER_RESTART: lambda manager: manager.restart_server().as_json(),
    Action.DAEMON_UP: lambda manager: manager.daemon_up().as_json(),
    Action.DAEMON_DOWN: lambda manager: manager.daemon_down().as_json(),
    Action.DAEMON_UPDATE: lambda manager: manager.daemon_update().as_json(),
    Action.HEADLESS_ON: lambda manager: manager.set_headless(True),
    Action.STATUS: lambda manager: manager.get_status().as_json(),
    Action.QUERY: lambda manager, what: {"what": what, "answer": manager.query(what)},
    Action.ESTIMATE: lambda manager, **load: manager.estimate(**load),
    Action.METADATA: lambda manager, **asked: manager.metadata(**asked),
    Action.LOAD: lambda manager, **load: manager.load(**load),
}
