"""The control plane's side of an agent. What an agent answers is taken on trust in nothing: sizes, forms and times
are bounded, and its certificate is compared before the token is sent."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from fleet.agent import pinning
from fleet.agent.envelope import sign
from fleet.agent.errors import ActionFailed, from_error
from fleet.agent.keys import AgentKey
from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.http import CUT_WORDS
from fleet.lms.status import Status
from fleet.telemetry.readings import Machine

if TYPE_CHECKING:
    from fleet.agent.log_reading import LogStream
from fleet.texts import clean, cleaned_json

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 15.0  # a status asks LM Studio's command line, which takes its time
TELEMETRY_SECONDS = 8.0
SILENCE_SECONDS = 20.0  # of a command: its agent sends a beat every 5 s
COMMAND_SECONDS = 2 * 3600.0  # the whole of one: longer than a download of LM Studio from a slow line
READ_BYTES = 16 * 1024
MAX_ANSWER_BYTES = 2 * 1024 * 1024
MAX_LINE_BYTES = 8 * 1024 * 1024  # the longest is an inventory of models
MAX_COMMAND_BYTES = 64 * 1024 * 1024
MAX_RESULT_BYTES = 1024 * 1024
MAX_LINE = 4000  # characters of a command's output
NOT_AN_AGENT = "What answers there is not an agent."


class AgentClient:
    """One agent. Every method raises DaemonError; an action that failed on that machine raises ActionFailed, which is
    one, and an envelope that was refused AgentRefused. Thread-safe: each call has a connection of its own."""

    def __init__(self, url: str, key: AgentKey):
        """Raises ValueError with a sentence when address and key do not belong together."""
        parts = urlsplit(url.strip().rstrip("/"))
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query or parts.username:
            raise ValueError("An agent's address looks like https://machine:8643.")
        if key.fingerprint and parts.scheme != "https":
            raise ValueError("This key belongs to an agent with TLS: its address begins with https://.")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self.key = key

    def hello(self) -> dict:
        """{"agent": "daemonpulse", "version", "tls"}: who is there."""
        answer = self._get("/v1/hello", TELEMETRY_SECONDS)
        if answer.get("agent") != "daemonpulse":
            raise DaemonError(Reason.NOT_UNDERSTOOD, NOT_AN_AGENT)
        return answer

    def telemetry(self) -> Machine:
        """What the machine is doing now, at most about a second ago."""
        answer = self._get("/v1/telemetry", TELEMETRY_SECONDS)
        try:
            return Machine.from_json(answer)
        except ValueError as error:
            raise DaemonError(Reason.NOT_UNDERSTOOD, str(error)) from error

    def status(self) -> dict:
        """What LMStudioManager.get_status() says there, as JSON."""
        return Status.from_json(self._get("/v1/status", ANSWER_SECONDS)).as_json()

    def execute(
        self,
        action: str,
        parameters: dict | None = None,
        on_line: Callable[[str], None] | None = None,
        command_id: str | None = None,
        on_signed: Callable[[dict], None] | None = None,
    ) -> dict:
        """Run an action there and return its result; blocks as long as it takes. `on_line` gets its output as it comes.

        `on_signed` gets the envelope before it is sent, to be kept.

        `command_id` is the id under which both ends write it down (letters, digits, _ and -, at most 64).
        """
        until = time.monotonic() + COMMAND_SECONDS
        envelope = sign(self.key, str(action), parameters or {}, id=command_id)
        if on_signed is not None:
            on_signed(envelope)
        with self._sent("POST", "/v1/commands", SILENCE_SECONDS, json=envelope) as answer:
            if answer.status_code != 200:
                raise _error(answer.status_code, _json(_content(answer, time.monotonic() + ANSWER_SECONDS)))
            for line in _lines(answer, until):
                part = _json(line)
                if "result" in part:
                    return _result(part["result"])
                if "error" in part:
                    raise from_error(part["error"])
                if on_line is not None and (text := _line_in(part)) is not None:
                    on_line(text)
        raise DaemonError(Reason.CUT, "The agent stopped in the middle of the command; its outcome is not known.")

    def logs(self, source: str) -> "LogStream":
        """LM Studio's log lines as they come ("model", "server" or "runtime"): iterate, close() from any thread."""
        from fleet.agent.log_reading import open_log_stream  # its library takes 2 MB in every process

        return open_log_stream(self.url, self.key, source, CONNECT_SECONDS)

    def _get(self, path: str, seconds: float) -> dict:
        until = time.monotonic() + seconds
        with self._sent("GET", path, seconds) as answer:
            body = _json(_content(answer, until))
            if answer.status_code != 200:
                raise _error(answer.status_code, body)
            return body

    @contextlib.contextmanager
    def _sent(self, method: str, path: str, seconds: float, **options) -> Iterator[requests.Response]:
        """An answer whose body is still to be read; what goes wrong with the connection becomes a DaemonError."""
        try:
            with requests.Session() as session:
                session.trust_env = False  # proxies are for the internet
                session.verify = not self.key.fingerprint
                session.mount("https://", Pinned(self.key.fingerprint))
                with session.request(
                    method, self.url + path, headers=self._headers(), timeout=(CONNECT_SECONDS, seconds), stream=True,
                    allow_redirects=False, **options,
                ) as answer:  # fmt: skip
                    yield answer
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise daemon_error(error) from error

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key.token}", "Accept-Encoding": "identity", "Connection": "close"}


class Pinned(HTTPAdapter):
    """Compares the certificate's fingerprint right after the TLS handshake; without one verifies as usual."""

    def __init__(self, fingerprint: str):
        self.fingerprint = fingerprint
        super().__init__()

    def init_poolmanager(self, *args, **options):
        if self.fingerprint:
            options |= {"assert_fingerprint": self.fingerprint, "ssl_context": pinning.context(self.fingerprint)}
        super().init_poolmanager(*args, **options)


def daemon_error(error: Exception) -> DaemonError:
    text = repr(error)
    if "Fingerprints did not match" in text:
        return pinning.wrong_certificate()
    if isinstance(error, requests.exceptions.SSLError):
        return pinning.tls_problem(error)
    if isinstance(error, requests.ConnectTimeout):
        return DaemonError(Reason.UNREACHABLE, "no answer in time")
    if isinstance(error, requests.Timeout) or "ReadTimeout" in text:
        return DaemonError(Reason.TIMEOUT, "no answer in time")
    if "BadStatusLine" in text:
        return DaemonError(Reason.NOT_UNDERSTOOD, NOT_AN_AGENT)
    if isinstance(error, requests.exceptions.ChunkedEncodingError) or any(word in text for word in CUT_WORDS):
        return DaemonError(Reason.CUT, "the connection broke")
    if isinstance(error, requests.ConnectionError) or (
        isinstance(error, ValueError) and not isinstance(error, requests.RequestException)
    ):
        return DaemonError(Reason.UNREACHABLE, "no connection")
    return DaemonError(Reason.NOT_UNDERSTOOD, type(error).__name__)


def _error(status: int, body: dict) -> DaemonError:
    if isinstance(body.get("error"), dict):
        return from_error(body["error"])
    return DaemonError(Reason.NOT_UNDERSTOOD, f"{NOT_AN_AGENT} (HTTP {status})")


def _content(answer: requests.Response, until: float) -> bytes:
    """The whole of a short answer."""
    content = bytearray()
    while block := answer.raw.read1(READ_BYTES):  # what has come; see fleet/daemons/http.py
        content += block
        if len(content) > MAX_ANSWER_BYTES:
            raise DaemonError(Reason.NOT_UNDERSTOOD, "The answer is too long.")
        if time.monotonic() > until:
            raise DaemonError(Reason.TIMEOUT, "no whole answer in time")
    return bytes(content)


def _lines(answer: requests.Response, until: float) -> Iterator[bytes]:
    """The lines of a command's answer, as they come. Its beats show only that the agent lives, so they are no end."""
    begun, total = bytearray(), 0
    while block := answer.raw.read1(READ_BYTES):
        if time.monotonic() > until:
            raise DaemonError(Reason.TIMEOUT, f"The command ran longer than {COMMAND_SECONDS / 3600:g} hours.")
        total += len(block)
        *lines, rest = block.split(b"\n")
        for line in lines:
            yield bytes(begun) + line
            begun.clear()
        begun += rest
        if len(begun) > MAX_LINE_BYTES or total > MAX_COMMAND_BYTES:
            raise DaemonError(Reason.NOT_UNDERSTOOD, "The answer is too long.")


def _json(content: bytes) -> dict:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DaemonError(Reason.NOT_UNDERSTOOD, "The answer is not JSON.") from error
    if not isinstance(body, dict):
        raise DaemonError(Reason.NOT_UNDERSTOOD, "The answer is not an object.")
    return body


def _result(told: object) -> dict:
    """What came of a command: clean, and small enough to be kept."""
    try:
        result = cleaned_json(told) if isinstance(told, dict) else {}
        size = len(json.dumps(result))
    except RecursionError as error:
        raise DaemonError(Reason.NOT_UNDERSTOOD, "The result is nested too deeply.") from error
    if size > MAX_RESULT_BYTES:
        raise DaemonError(Reason.NOT_UNDERSTOOD, "The result is too long.")
    return result


def _line_in(part: dict) -> str | None:
    """The line of output in a part of the answer; None for a beat."""
    if type(count := part.get("left_out")) is int:
        return f"({count} lines were left out: the connection is too slow for them.)"
    return clean(part["line"], MAX_LINE) if isinstance(part.get("line"), str) else None


__all__ = ["ActionFailed", "AgentClient"]
