"""What an agent can say no with, as the control plane sees it."""

from fleet.daemons.errors import DaemonError, Reason
from fleet.texts import clean

REASONS = {
    "busy": Reason.BUSY,
    "too_many": Reason.BUSY,
    "bad_parameters": Reason.BAD_REQUEST,
    "unknown_action": Reason.BAD_REQUEST,
    "not_json": Reason.BAD_REQUEST,
    "too_long": Reason.BAD_REQUEST,
    "refused": Reason.UNAUTHORIZED,
    "unauthorized": Reason.UNAUTHORIZED,
    "not_found": Reason.NOT_UNDERSTOOD,
    "model_not_found": Reason.MODEL_NOT_FOUND,
}


class ActionFailed(DaemonError):
    """The agent was there and the action was not done. str() is a sentence for people; `problem` one word for
    programs (those of fleet.lms.errors.Problem and of fleet.agent.failures), `advice` what to do, maybe ""."""

    def __init__(self, problem: str, message: str, advice: str = ""):
        super().__init__(REASONS.get(problem, Reason.SERVER_ERROR), message)
        self.problem = problem
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return self.message


class AgentRefused(ActionFailed):
    """The agent did not accept the envelope, so nothing was done."""


MAX_TEXT = 2_000


def from_error(told: object) -> ActionFailed:
    """The failure in an agent's {"problem", "message", "advice"}, whatever really stands there."""
    told = told if isinstance(told, dict) else {}
    problem, message, advice = (_text(told.get(name)) for name in ("problem", "message", "advice"))
    kind = AgentRefused if problem == "refused" else ActionFailed
    return kind(problem[:40] or "failed", message or "The agent did not say why.", advice)


def _text(value: object) -> str:
    return clean(value, MAX_TEXT) if isinstance(value, str) else ""
