"""LM Studio's WebSocket: loads that say which GPUs to use, and estimates (contract §9, §10).

A socket serves one question and is closed after it, whatever comes of it. Nothing is waited for without a limit,
because an unknown endpoint is answered without the call's id, or not at all.
"""

import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from fleet.allocation.channels import Channel, carried
from fleet.daemons import http
from fleet.daemons.errors import DaemonError, LoadCancelled, Reason, SocketUnavailable, from_answer, words_of
from fleet.daemons.lmstudio_answers import MAX_KEY, text
from fleet.daemons.types import LOAD_SECONDS, LoadedModel, LoadRequest

HANDSHAKE_SECONDS = 10.0  # the daemon's own limit for it
RPC_SECONDS = 30.0  # an estimate reads the model's file
SILENCE_SECONDS = 300.0  # between two reports of progress
CANCEL_SECONDS = 10.0  # for the daemon to let go of a load that was called off
CLOSE_SECONDS = 1.0
POLL_SECONDS = 0.25  # how soon a cancel is seen

TOKEN = re.compile(r"sk-lm-([A-Za-z0-9]{8}):([A-Za-z0-9]{20})")  # contract §1.3
ID = 1  # of the only channel of a socket, or of its calls, one after the other
UNKNOWN_MODEL = {
    "generic.pathNotFound",
    "generic.identifierNotFound",
    "generic.noModelMatchingQuery",
    "generic.specificModelUnloaded",
}
# The library writes whole frames, passkeys among them, into a log that is open for debugging.
QUIET = logging.getLogger(__name__)
QUIET.setLevel(logging.WARNING)

ESTIMATE = {
    "modelVramBytes": "model_vram_bytes",
    "contextVramBytes": "context_vram_bytes",
    "totalVramBytes": "total_vram_bytes",
    "modelBytes": "model_bytes",
    "contextBytes": "context_bytes",
    "totalBytes": "total_bytes",
}


class LMStudioSocket:
    """The WebSocket of the daemon at a base URL. Every method raises DaemonError."""

    def __init__(self, base_url: str, token: str = ""):
        self.base_url, self.token = base_url, token

    def load(
        self,
        request: LoadRequest,
        on_progress: Callable[[float], None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> LoadedModel:
        """Load another copy; blocks until it is loaded. `on_progress` gets fractions, 0..1.

        Setting `cancelled` calls it off: LoadCancelled, unless the copy was loaded before that came through.
        """
        wish = carried(request.profile, request.options, Channel.SOCKET, request.gpu_indices, request.is_embedding)
        parameter = {"modelKey": request.model} | wish.passed
        parameter["loadConfigStack"] = stack(parameter.pop("fields"))
        began = time.monotonic()
        with self.opened(request.is_embedding) as line:
            instance = Loading(line, on_progress, cancelled or threading.Event()).run(parameter)
        return LoadedModel(instance, Channel.SOCKET, wish.dropped, time.monotonic() - began)

    def estimate(self, model: str, fields: dict, is_embedding: bool = False) -> dict:
        """What a load with these fields would take: the values of ESTIMATE as far as told, in bytes.

        Also `confidence` ("high" or "low") and `passes_guardrails` (bool), where they are told.
        """
        with self.opened(is_embedding) as line:
            result = line.call("estimateModelUsage", {"modelKey": model, "loadConfigStack": stack(fields)})
        if not isinstance(result, dict) or not isinstance(memory := result.get("memory"), dict):
            raise DaemonError(Reason.NOT_UNDERSTOOD, "an estimate without figures")
        told = {ours: round(memory[theirs]) for theirs, ours in ESTIMATE.items() if _is_amount(memory.get(theirs))}
        if memory.get("confidence") in ("high", "low"):
            told["confidence"] = memory["confidence"]
        if isinstance(result.get("passesGuardrails"), bool):
            told["passes_guardrails"] = result["passesGuardrails"]
        return told

    @contextmanager
    def opened(self, is_embedding: bool) -> Iterator["Line"]:
        """A line to the namespace of a kind of model, after the handshake. Raises SocketUnavailable for none."""
        url = f"{self.base_url}/{'embedding' if is_embedding else 'llm'}"
        with _connected(url, self.token) as connection:
            line = Line(connection)
            line.authenticate(self.token)
            yield line


def stack(fields: dict) -> dict:
    """Load settings in the wire form of a KV stack (contract §10)."""
    rows = [{"key": key, "value": value} for key, value in fields.items()]
    return {"layers": [{"layerName": "apiOverride", "config": {"fields": rows}}]}


class Line:
    """A connected socket: frames out and in, each wait with its limit."""

    def __init__(self, connection: ClientConnection):
        self.connection = connection

    def authenticate(self, token: str) -> None:
        """Say who we are: the two halves of a token, or a guest. Raises SocketUnavailable when that is refused."""
        halves = TOKEN.fullmatch(token)
        identifier, passkey = halves.groups() if halves else (f"guest:{secrets.token_hex(8)}", secrets.token_hex(16))
        self.send({"authVersion": 1, "clientIdentifier": identifier, "clientPasskey": passkey})
        answer = self.receive(time.monotonic() + HANDSHAKE_SECONDS)
        if answer.get("success") is not True:
            raise SocketUnavailable(Reason.UNAUTHORIZED, str(answer.get("error") or ""))

    def call(self, endpoint: str, parameter: dict | None = None) -> object:
        """A remote call's result; None for none. A call without a parameter must not even name one."""
        told = {} if parameter is None else {"parameter": parameter}
        self.send({"type": "rpcCall", "endpoint": endpoint, "callId": ID} | told)
        until = time.monotonic() + RPC_SECONDS
        while True:
            frame = self.receive(until)
            kind, is_ours = frame.get("type"), frame.get("callId") == ID
            if kind == "communicationWarning":
                raise SocketUnavailable(Reason.NOT_UNDERSTOOD, str(frame.get("warning") or ""))
            if kind == "rpcError" and is_ours:
                raise failure(frame.get("error"))
            if kind == "rpcResult" and is_ours:
                return frame.get("result")

    def send(self, frame: dict) -> None:
        try:
            self.connection.send(json.dumps(frame))
        except (ConnectionClosed, OSError) as error:
            raise DaemonError(Reason.CUT, "the socket was closed") from error

    def receive(self, until: float, wake: threading.Event | None = None) -> dict:
        """The next frame; {} as soon as `wake` is set. Raises DaemonError: TIMEOUT after `until`, or CUT."""
        while not (wake and wake.is_set()):
            left = until - time.monotonic()
            try:
                text = self.connection.recv(timeout=max(0.0, min(left, POLL_SECONDS) if wake else left))
            except TimeoutError as error:
                if time.monotonic() >= until:
                    raise DaemonError(Reason.TIMEOUT, "no answer on the socket in time") from error
                continue
            except (ConnectionClosed, OSError) as error:
                raise DaemonError(Reason.CUT, "the socket was closed") from error
            return _frame(text)
        return {}


class Loading:
    """One load on its way through a channel."""

    def __init__(self, line: Line, on_progress: Callable[[float], None] | None, cancelled: threading.Event):
        self.line, self.on_progress, self.cancelled = line, on_progress, cancelled
        self.has_begun = False
        self.until = 0.0

    def run(self, parameter: dict) -> str:
        """Returns the instance's id when it is loaded. Raises DaemonError."""
        frame = {"type": "channelCreate", "endpoint": "loadModel", "channelId": ID, "creationParameter": parameter}
        self.line.send(frame)
        self.until = time.monotonic() + LOAD_SECONDS
        while not self.cancelled.is_set():
            try:
                frame = self.line.receive(min(self.until, time.monotonic() + SILENCE_SECONDS), self.cancelled)
            except DaemonError as error:
                if error.reason is Reason.TIMEOUT:
                    self._call_off()
                raise
            if instance := self._read(frame):
                return instance
        return self._cancel()

    def _cancel(self) -> str:
        """Call it off and wait until the daemon lets go. Returns the id if it was faster."""
        until = time.monotonic() + CANCEL_SECONDS
        try:
            self._call_off()
            while True:
                if instance := self._read(self.line.receive(until)):
                    return instance
        except DaemonError as error:
            raise LoadCancelled from error

    def _call_off(self) -> None:
        with suppress(DaemonError):  # nobody is left to hear it
            self.line.send({"type": "channelSend", "channelId": ID, "message": {"type": "cancel"}})

    def _read(self, frame: dict) -> str:
        """The instance's id once it is loaded, else "". Raises DaemonError when it will not be."""
        kind = frame.get("type")
        if kind == "communicationWarning":
            error = DaemonError if self.has_begun else SocketUnavailable
            raise error(Reason.NOT_UNDERSTOOD, str(frame.get("warning") or ""))
        if frame.get("channelId") != ID:
            return ""
        if kind == "channelError":
            raise failure(frame.get("error"), "Failed to load the model: ")
        if kind == "channelClose":
            raise DaemonError(Reason.LOAD_FAILED, "the load ended without a result")
        self.has_begun = True
        return self._packet(frame.get("message"))

    def _packet(self, message: object) -> str:
        message = message if isinstance(message, dict) else {}
        progress, info = message.get("progress"), message.get("info")
        if message.get("type") == "progress" and self.on_progress and _is_amount(progress):
            self.on_progress(min(progress, 1.0))
        if message.get("type") != "success":
            return ""
        if not (instance := text(info.get("identifier") if isinstance(info, dict) else None, MAX_KEY)):
            raise DaemonError(Reason.NOT_UNDERSTOOD, "the model is loaded, but without a name")
        return instance


def failure(error: object, what: str = "") -> DaemonError:
    """What an error frame means: its code first, then its words, as those of an HTTP answer (contract §10)."""
    told = error if isinstance(error, dict) else {"title": error}
    words = words_of(told)
    display = told.get("displayData")
    code = display.get("code") if isinstance(display, dict) else None
    if isinstance(code, str) and code in UNKNOWN_MODEL:
        return DaemonError(Reason.MODEL_NOT_FOUND, words)
    return DaemonError(from_answer(500, {"error": what + words}).reason, words)


def _connected(url: str, token: str) -> ClientConnection:
    """A socket after its HTTP upgrade. No proxy, no redirect: who answers elsewhere is not our daemon."""
    parts = urlsplit(url)
    uri = parts._replace(scheme="wss" if parts.scheme == "https" else "ws").geturl()
    try:
        raw = http.dial(url)
    except DaemonError as error:
        raise SocketUnavailable(error.reason, error.detail) from error
    raw.settimeout(None)
    try:
        return connect(
            uri, sock=raw, proxy=None, compression=None, ping_interval=None, open_timeout=HANDSHAKE_SECONDS,
            close_timeout=CLOSE_SECONDS, max_size=http.MAX_ANSWER_BYTES, additional_headers=http.headers(token),
            logger=QUIET,
        )  # fmt: skip
    except BaseException as error:
        raw.close()
        if isinstance(error, TimeoutError):
            raise DaemonError(Reason.TIMEOUT, "no WebSocket handshake in time") from error
        if isinstance(error, WebSocketException | OSError | ValueError):
            raise _refusal(error) from error
        raise


def _refusal(error: Exception) -> SocketUnavailable:
    """Why there is no WebSocket at an address where something answers."""
    status = error.response.status_code if isinstance(error, InvalidStatus) else 0
    if status in {401, 403, 429} or status >= 500:
        return SocketUnavailable(from_answer(status, None).reason, f"status {status} instead of a WebSocket")
    is_cut = isinstance(error, OSError) or isinstance(error.__cause__, EOFError | OSError)
    return SocketUnavailable(Reason.CUT if is_cut else Reason.NOT_UNDERSTOOD, "no WebSocket there")


def _frame(text: str | bytes) -> dict:
    try:
        frame = json.loads(text)
    except ValueError as error:
        raise DaemonError(Reason.NOT_UNDERSTOOD, "a frame that is not JSON") from error
    if not isinstance(frame, dict):
        raise DaemonError(Reason.NOT_UNDERSTOOD, "a frame that is not an object")
    return frame


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**62
