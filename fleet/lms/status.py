"""How it stands with the LM Studio of a machine: five states, each with what to do about it."""

from dataclasses import asdict, dataclass, fields
from enum import StrEnum

from fleet.lms.errors import Problem, not_installed
from fleet.texts import clean

MAX_TEXT = 500
MOST = 2**31


class State(StrEnum):
    """What a person has to do, if anything. `explanation` is a sentence."""

    READY = "ready"  # the server answers
    SERVER_DOWN = "server_down"  # it can be started from here
    NOT_BOOTSTRAPPED = "not_bootstrapped"  # without the command line it cannot
    NOT_INSTALLED = "not_installed"
    PASSKEY_MISMATCH = "passkey_mismatch"  # the command line of another installation

    @property
    def explanation(self) -> str:
        return EXPLANATIONS[self]

    def advice(self, platform: str) -> str:
        """What to do; "" when nothing is."""
        if self is State.NOT_INSTALLED:
            return not_installed(platform)
        return ADVICE[self]


EXPLANATIONS = {
    State.READY: "LM Studio's server answers.",
    State.SERVER_DOWN: "LM Studio is installed; its server is not running.",
    State.NOT_BOOTSTRAPPED: "LM Studio is installed, but its command line lms is not set up.",
    State.NOT_INSTALLED: "LM Studio was not found on this machine.",
    State.PASSKEY_MISMATCH: "The command lms and the running LM Studio come from different installations.",
}
ADVICE = {
    State.READY: "",
    State.SERVER_DOWN: "Start the server.",
    State.NOT_BOOTSTRAPPED: Problem.NOT_BOOTSTRAPPED.advice,
    State.PASSKEY_MISMATCH: Problem.PASSKEY_MISMATCH.advice,
}


@dataclass(frozen=True)
class Status:
    """What one look found. None = unknown; `current_model` is None also when nothing is loaded, `state` when another
    version of this program tells of one that is not known here.

    `is_daemon`: llmster (True) or the desktop application (False). `headless`: set to run without its window.
    """

    installed: bool | None
    bootstrapped: bool | None
    server_running: bool | None
    api_endpoint: str
    current_model: str | None
    state: State | None
    advice: str
    daemon_running: bool | None = None
    daemon_pid: int | None = None
    is_daemon: bool | None = None
    version: str | None = None
    headless: bool | None = None

    def as_json(self) -> dict:
        state, explanation = (self.state.value, self.state.explanation) if self.state else ("", "")
        return asdict(self) | {"state": state, "explanation": explanation}

    @classmethod
    def from_json(cls, data: dict) -> "Status":
        """What as_json() wrote, maybe on another machine: nothing is taken on trust. Unknown keys are dropped, what
        is not of its field's type is unknown."""
        told = {field.name: _read(field.type, data.get(field.name)) for field in fields(cls)}
        return cls(**told)


def _read(kind: object, value: object) -> object:
    """The value, if it is of the field's type, else what means unknown there."""
    if kind == State | None:
        return State(value) if isinstance(value, str) and value in list(State) else None
    if kind == bool | None:
        return value if isinstance(value, bool) else None
    if kind == int | None:
        return value if type(value) is int and 0 <= value < MOST else None
    return clean(value, MAX_TEXT) if isinstance(value, str) else "" if kind is str else None
