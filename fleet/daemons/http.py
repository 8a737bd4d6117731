"""HTTP to a daemon: short JSON calls through requests, long streams on a connection of their own.

Streams use the standard library's http.client because a cancel must reach the socket at any moment, also while
the daemon has not answered yet; requests hides it until the headers are there.
"""

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fleet.daemons.errors import DaemonError, Reason, from_answer

if TYPE_CHECKING:
    import requests

CONNECT_SECONDS = 2.0  # time for one lost packet; what is unplugged is away soon
ANSWER_SECONDS = 10.0  # a short call
FIRST_BYTE_SECONDS = 600.0  # a stream's first byte: some daemons load the model before they answer
SILENCE_SECONDS = 180.0  # between two pieces of a stream: a long prompt is processed in silence
READ_BYTES = 65536
MAX_ANSWER_BYTES = 16 * 1024 * 1024

# In the text of requests' and urllib3's errors: somebody was there, and the connection broke.
CUT_WORDS = ("ConnectionReset", "RemoteDisconnected", "IncompleteRead", "InvalidChunkLength", "BrokenPipe")

# Calls are seconds apart: a kept connection saves nothing, and may be closed by the daemon just as it is used again.
ONE_CALL = {"Connection": "close"}


def headers(token: str) -> dict[str, str]:
    """With auth off a daemon is sent no header at all (contract §1.3)."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def dial(url: str, seconds: float = CONNECT_SECONDS) -> socket.socket:
    """A plain connection to the URL's host and port. Raises DaemonError UNREACHABLE."""
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return socket.create_connection((parts.hostname, port), seconds)
    except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
        raise DaemonError(Reason.UNREACHABLE, "no connection") from error


def call(method: str, url: str, token: str = "", body: dict | None = None, seconds: float = ANSWER_SECONDS) -> dict:
    """A JSON call and its JSON answer, judged by its body (contract, rule 1). Raises DaemonError."""
    import requests  # here, as these two are a tenth of the start of every process, and few of them call a daemon
    import urllib3

    until = time.monotonic() + seconds
    try:
        with requests.Session() as session:
            session.trust_env = False  # proxies are for the internet
            with session.request(
                method, url, json=body, headers=headers(token) | ONE_CALL,
                timeout=(min(CONNECT_SECONDS, seconds), seconds), allow_redirects=False, stream=True,
            ) as answer:  # fmt: skip
                content = _content(answer, until)
    except requests.Timeout as error:
        reason = Reason.UNREACHABLE if isinstance(error, requests.ConnectTimeout) else Reason.TIMEOUT
        raise DaemonError(reason, "no answer in time") from error
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        raise DaemonError(_connection_reason(error), "no connection") from error
    except (requests.RequestException, urllib3.exceptions.DecodeError) as error:
        raise DaemonError(Reason.NOT_UNDERSTOOD, type(error).__name__) from error
    except urllib3.exceptions.HTTPError as error:  # while the answer's body is read
        raise DaemonError(_connection_reason(error), "no whole answer") from error
    except ValueError as error:  # urllib3 says so of a host name that cannot be one
        raise DaemonError(Reason.UNREACHABLE, "no such host name") from error
    return _judged(answer.status_code, content)


def _content(answer: "requests.Response", until: float) -> bytes:
    """The whole of a short answer; what answers without end is no daemon."""
    content = bytearray()
    # read1 gives what has come; iter_content would wait for a whole block of what drips.
    while block := answer.raw.read1(READ_BYTES, decode_content=True):
        content += block
        if len(content) > MAX_ANSWER_BYTES:
            raise DaemonError(Reason.NOT_UNDERSTOOD, "the answer is too long")
        if time.monotonic() > until:
            raise DaemonError(Reason.TIMEOUT, "no whole answer in time")
    return bytes(content)


def _connection_reason(error: Exception) -> Reason:
    """Refused and unresolved are "nobody there"; a connection that was accepted and dropped is "cut"."""
    text = repr(error)
    if "ReadTimeout" in text:  # silent in the middle of the answer
        return Reason.TIMEOUT
    return Reason.CUT if any(word in text for word in CUT_WORDS) else Reason.UNREACHABLE


def _judged(status: int, content: bytes) -> dict:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        if status >= 400:
            raise from_answer(status, content[:500].decode(errors="replace")) from error
        raise DaemonError(Reason.NOT_UNDERSTOOD, "the answer is not JSON") from error
    if status >= 300 or (isinstance(body, dict) and body.get("error")):
        raise from_answer(status, body)
    if not isinstance(body, dict):
        raise DaemonError(Reason.NOT_UNDERSTOOD, "the answer is not an object")
    return body


class Stream:
    """A POST whose answer is read as it comes. `blocks()` once; `close()` from any thread, at any time.

    Raises DaemonError out of `blocks()`; a stream that was closed simply ends.
    """

    def __init__(self, url: str, token: str, body: dict):
        self.parts = urlsplit(url)
        self.headers = headers(token) | {"Content-Type": "application/json", "Accept": "text/event-stream"}
        self.body = json.dumps(body).encode()
        self.is_closed = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def blocks(self) -> Iterator[bytes]:
        """The answer's bytes, as they arrive. Raises DaemonError."""
        connection = self._connection()
        try:
            self._guarded(connection.connect, Reason.UNREACHABLE)
            self._hold(connection.sock)
            answer = self._guarded(lambda: self._request(connection), Reason.CUT)
            if answer.status >= 300 or "json" in answer.getheader("Content-Type", ""):
                content = self._guarded(lambda: answer.read(MAX_ANSWER_BYTES), Reason.CUT)
                _judged(answer.status, content)
                raise DaemonError(Reason.NOT_UNDERSTOOD, "an answer in one piece instead of a stream")
            while block := self._guarded(lambda: answer.read1(READ_BYTES), Reason.CUT):
                yield block
                self._socket.settimeout(SILENCE_SECONDS)
        except Closed:
            return
        finally:
            connection.close()

    def close(self) -> None:
        """End it now: a reader that waits wakes up, the daemon sees the connection go."""
        with self._lock:
            self.is_closed = True
            if self._socket is not None:
                with contextlib.suppress(OSError):  # the other side may have been faster
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _connection(self) -> HTTPConnection:
        host, port = self.parts.hostname, self.parts.port
        if self.parts.scheme == "https":
            context = ssl.create_default_context()
            return HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=context)
        return HTTPConnection(host, port, timeout=CONNECT_SECONDS)

    def _hold(self, connected: socket.socket) -> None:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.settimeout(FIRST_BYTE_SECONDS)
        with self._lock:
            self._socket = connected
        if self.is_closed:
            raise Closed

    def _request(self, connection: HTTPConnection):
        connection.request("POST", self.parts.path, body=self.body, headers=self.headers)
        return connection.getresponse()

    def _guarded(self, step: Callable, reason: Reason):
        """Run one step of I/O; its failure becomes a DaemonError, or Closed when we closed the stream ourselves."""
        try:
            result = step()
        except TimeoutError as error:
            slow = Reason.UNREACHABLE if reason is Reason.UNREACHABLE else Reason.TIMEOUT
            raise DaemonError(slow, "no answer in time") from error
        except (OSError, HTTPException) as error:
            if self.is_closed:
                raise Closed from error
            raise DaemonError(reason, type(error).__name__) from error
        if self.is_closed:
            raise Closed
        return result


class Closed(Exception):
    """The stream was closed by us."""
