"""How it stands with the LM Studio of a machine: five states, each with what to do about it."""

from dataclasses import asdict, dataclass
from enum import StrEnum

from fleet.lms.errors import Problem, not_installed


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
    """What one look found. None = unknown; `current_model` is None also when nothing is loaded.

    `is_daemon`: llmster (True) or the desktop application (False). `headless`: set to run without its window.
    """

    installed: bool
    bootstrapped: bool
    server_running: bool
    api_endpoint: str
    current_model: str | None
    state: State
    advice: str
    daemon_running: bool | None = None
    daemon_pid: int | None = None
    is_daemon: bool | None = None
    version: str | None = None
    headless: bool | None = None

    def as_json(self) -> dict:
        return asdict(self) | {"state": self.state.value, "explanation": self.state.explanation}
