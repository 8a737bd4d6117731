"""What can go wrong between us and a daemon: one closed set of reasons, mapped and worded here only."""

import json
import re
from enum import StrEnum


class Reason(StrEnum):
    """Why a call to a daemon failed. Knows whether another try can help."""

    UNREACHABLE = "unreachable"  # nothing answers: connection refused, unknown host, no route
    TIMEOUT = "timeout"  # connected, but silent for too long
    TIMEOUT_TOTAL = "timeout_total"  # answered all the time, but longer than we allow
    CUT = "cut"  # the connection broke in the middle of an answer
    SERVER_ERROR = "server_error"  # 5xx
    BUSY = "busy"  # 429 or 503
    LOAD_FAILED = "load_failed"
    OUT_OF_MEMORY = "out_of_memory"
    GENERATION_FAILED = "generation_failed"  # an error event in the stream, such as an evicted model
    UNAUTHORIZED = "unauthorized"  # 401, 403
    MODEL_NOT_FOUND = "model_not_found"
    CHAT_NOT_FOUND = "chat_not_found"  # the daemon no longer has the chat that a follow-up continues
    JOB_NOT_FOUND = "job_not_found"  # the daemon no longer knows a download, as after a restart
    BAD_REQUEST = "bad_request"  # other 4xx
    NOT_UNDERSTOOD = "not_understood"  # an answer that is not this kind of daemon's

    @property
    def can_retry(self) -> bool:
        return self in RETRIABLE

    @property
    def may_mean_node_down(self) -> bool:
        """Look at the node itself before this failure is held against the prompt."""
        return self in {Reason.UNREACHABLE, Reason.TIMEOUT, Reason.CUT}

    @property
    def explanation(self) -> str:
        return EXPLANATIONS[self]


RETRIABLE = {
    Reason.UNREACHABLE,
    Reason.TIMEOUT,
    Reason.CUT,
    Reason.SERVER_ERROR,
    Reason.BUSY,
    Reason.LOAD_FAILED,
    Reason.GENERATION_FAILED,
}

EXPLANATIONS = {
    Reason.UNREACHABLE: "Nothing answers at the node's address. Is the daemon running?",
    Reason.TIMEOUT: "The node went silent for too long.",
    Reason.TIMEOUT_TOTAL: "It took longer than a prompt may.",
    Reason.CUT: "The connection broke in the middle of the answer.",
    Reason.SERVER_ERROR: "The node reported an error of its own.",
    Reason.BUSY: "The node has too much to do right now.",
    Reason.LOAD_FAILED: "The model could not be loaded.",
    Reason.OUT_OF_MEMORY: "The model does not fit into the node's memory.",
    Reason.GENERATION_FAILED: "The node stopped generating, for instance because the model was unloaded.",
    Reason.UNAUTHORIZED: "The node refused our token. Set a valid one under Change on its page in Fleet.",
    Reason.MODEL_NOT_FOUND: "The node does not know this model.",
    Reason.CHAT_NOT_FOUND: "The node no longer has the chat this continues. Repeat it as a new prompt.",
    Reason.JOB_NOT_FOUND: "The node no longer knows this download.",
    Reason.BAD_REQUEST: "The node did not accept the request.",
    Reason.NOT_UNDERSTOOD: "The answer was not one this kind of node gives. Is the address right?",
}


class DaemonError(Exception):
    """A daemon could not do what was asked: `reason` for programs, `detail` in the daemon's own words.

    `detail` can quote the request, so it is stored encrypted and never logged.
    """

    def __init__(self, reason: Reason, detail: str = ""):
        super().__init__(reason.value)
        self.reason = reason
        self.detail = detail[:MAX_DETAIL]


MAX_DETAIL = 2000


class SocketUnavailable(DaemonError):
    """LM Studio's socket, or a call of it, cannot be had. Nothing has begun: another channel may be tried."""


class LoadCancelled(DaemonError):
    """A load was called off from here."""

    def __init__(self):
        super().__init__(Reason.LOAD_FAILED, "Nothing was loaded.")


MEMORY_WORDS = ("memory", "vram", "guardrail", "insufficient", "resources")
# Not just the word: a model can also be "unloaded", or "evicted by the load of another one".
FAILED_LOAD = re.compile(
    r"\b(fail|error|unable|could not|cannot).*\bload(ed|ing)?\b|\bload(ing)?\b.*\b(fail|error|stopped)"
)
# Plain enough to need no other sign: what status a load that does not fit gets is not known (contract §2.0).
TOO_LITTLE = re.compile(r"\binsufficient\b.{0,80}\b(v?ram|memory|resources)\b|\bout of memory\b", re.DOTALL)
WORDS = ("message", "title", "cause", "suggestion", "errorData")
LOST_WORDS = ("unloaded", "evicted", "crashed")


def from_answer(status: int, body: object) -> DaemonError:
    """The error that an HTTP answer means, judged by its body first (contract §2.0, §4.1).

    `body` is the parsed JSON; `error` in it may be an object or a string.
    """
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        message = words_of(error)
        words = {str(error.get("type") or ""), str(error.get("code") or "")}
        param = str(error.get("param") or "")
    else:
        message, words, param = str(error or body or ""), set(), ""
    return DaemonError(_reason(status, words, param, message.lower()), message)


def words_of(error: dict) -> str:
    """All that an error object says in words, the engine's own line among them (contract §2.0, §10)."""
    return ". ".join(_text(error[name]) for name in WORDS if error.get(name))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _reason(status: int, words: set[str], param: str, message: str) -> Reason:
    if "unexpected endpoint" in message:
        return Reason.NOT_UNDERSTOOD
    if status in {401, 403} or "invalid_api_key" in words:
        return Reason.UNAUTHORIZED
    if param == "previous_response_id" or "previous_response_id" in message or "response_not_found" in words:
        return Reason.CHAT_NOT_FOUND
    if "job_not_found" in words:
        return Reason.JOB_NOT_FOUND
    if "model_not_found" in words or "invalid model identifier" in message or "no models loaded" in message:
        return Reason.MODEL_NOT_FOUND
    is_load_failure = bool(FAILED_LOAD.search(message))
    may_be_memory = status >= 500 or is_load_failure
    if TOO_LITTLE.search(message) or (may_be_memory and any(word in message for word in MEMORY_WORDS)):
        return Reason.OUT_OF_MEMORY
    if status in {429, 503}:
        return Reason.BUSY
    if is_load_failure:
        return Reason.LOAD_FAILED
    # A model that died under its request is a 400 with nothing but a string (contract §4.1).
    is_told_by_code = 400 <= status < 500 and any(words)
    if status < 400 or (not is_told_by_code and any(word in message for word in LOST_WORDS)):
        return Reason.GENERATION_FAILED
    return Reason.SERVER_ERROR if status >= 500 or "internal_error" in words else Reason.BAD_REQUEST
