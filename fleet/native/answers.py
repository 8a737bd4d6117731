"""What a request is answered with: the seed's {"status", "payload"}, and errors with a code, a sentence and advice."""

import logging
from dataclasses import dataclass

from fleet.daemons.errors import DaemonError, Reason
from fleet.lms.errors import LmsError
from fleet.native.framing import TooLarge

logger = logging.getLogger(__name__)
ADVICE = {
    Reason.UNREACHABLE: "Send start_lmstudio, then try again.",
    Reason.TIMEOUT: "Try again in a moment; a large model may still be loading.",
    Reason.TIMEOUT_TOTAL: "Ask for less at once.",
    Reason.CUT: "Try again.",
    Reason.SERVER_ERROR: "Look at LM Studio's log.",
    Reason.BUSY: "Try again in a moment.",
    Reason.LOAD_FAILED: "Look at LM Studio's log, or choose another model.",
    Reason.OUT_OF_MEMORY: "Choose a smaller model, or unload another one.",
    Reason.GENERATION_FAILED: "Try again.",
    Reason.UNAUTHORIZED: "LM Studio requires a token: give the host one in the environment variable LM_API_TOKEN.",
    Reason.MODEL_NOT_FOUND: "Send list_models, and name one of its keys in settings.model.",
    Reason.CHAT_NOT_FOUND: "Start a new chat.",
    Reason.BAD_REQUEST: "Change what the message names.",
    Reason.NOT_UNDERSTOOD: "Check that LM Studio is what answers at api_endpoint of check_lmstudio.",
}


@dataclass(eq=False)  # as an exception it must stay hashable
class Problem(Exception):
    """A request cannot be done. `code` for programs; `message` says what was wrong, `advice` what to do."""

    code: str
    message: str
    advice: str = ""


def success(payload: dict) -> dict:
    return {"status": "success", "payload": payload}


def chunk(payload: dict) -> dict:
    """One of several messages; the one that ends them has another status."""
    return {"status": "chunk", "payload": payload}


def failure(error: Exception) -> dict:
    """The answer that tells of this error. What is not known here is a fault of the host itself."""
    told = problem(error)
    told_as = {"code": told.code, "message": told.message, "advice": told.advice}
    return {"status": "error", "payload": {}, "error": told_as}


def problem(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case LmsError():
            return Problem(str(error.problem), str(error), error.advice)
        case DaemonError():
            return _of_daemon(error)
        case TooLarge():
            return Problem("answer_too_large", str(error), "Ask for less at once.")
        case ValueError():
            return Problem("bad_request", str(error)[:2000], "Change the request; docs/native-messaging.md has them.")
    return Problem("internal", f"The host failed: {type(error).__name__}.", "See the host's log (standard error).")


def _of_daemon(error: DaemonError) -> Problem:
    said = error.reason.explanation
    if error.reason is Reason.UNAUTHORIZED:  # the usual sentence speaks of a page
        said = "LM Studio refused the request: it wants a token."
    return Problem(str(error.reason), f"{said} ({error.detail})" if error.detail else said, ADVICE[error.reason])


def note(action: str, error: Exception) -> None:
    """Log what failed: its kind for what can happen, the traceback for what should not. Never what was said."""
    if problem(error).code == "internal":
        logger.error("native.failed action=%s", action, exc_info=error)
    else:
        logger.info("native.refused action=%s code=%s", action, problem(error).code)
