"""What a request to the agent can end in, other than its result: for programs a word, for people a sentence."""

import sys
import traceback

from fleet.daemons.errors import DaemonError
from fleet.lms.errors import LmsError

MAX_MESSAGE = 2_000


class Failure(Exception):
    """`problem` is one word, `message` what was wrong, `advice` what to do about it; `status` the HTTP status."""

    def __init__(self, problem: str, message: str, advice: str = "", status: int = 400):
        super().__init__(message)
        self.problem = problem
        self.message = message[:MAX_MESSAGE]
        self.advice = advice[:MAX_MESSAGE]
        self.status = status

    def as_json(self) -> dict:
        return {"problem": self.problem, "message": self.message, "advice": self.advice}


def failure_of(error: Exception) -> Failure:
    """The failure that this error means; the one place where they are worded."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, LmsError):
        return Failure(str(error.problem), str(error), error.advice or "", 502)
    if isinstance(error, DaemonError):
        return Failure(str(error.reason), " ".join(filter(None, [error.reason.explanation, error.detail])), "", 502)
    if isinstance(error, ValueError):
        return Failure("bad_parameters", str(error))
    traceback.print_exception(error, file=sys.stderr)
    what = f"The agent met a fault of its own ({type(error).__name__})."
    return Failure("failed", what, "Its log on that machine says more (journalctl -u daemonpulse-agent).", 500)
