"""The control plane's side of a log stream: a WebSocket whose certificate is compared before anything is sent."""

import contextlib
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from fleet.agent import pinning
from fleet.agent.envelope import sign
from fleet.agent.errors import from_error
from fleet.agent.keys import AgentKey
from fleet.daemons import http
from fleet.daemons.errors import DaemonError, Reason

HANDSHAKE_SECONDS = 10.0
CLOSE_SECONDS = 1.0
PING_SECONDS = 10.0
MAX_LINE_BYTES = 4 * 1024 * 1024 + 1024  # the agent sends up to 2**20 characters
MAX_WAITING = 8  # messages read ahead; then the agent's side is the one that waits, and leaves out what is too much
ERROR_TYPE = "agent.error"


class LogStream:
    """Lines as LM Studio wrote them, JSON in text (contract §7.10). Among them {"data": {"type": "agent.left_out",
    "count": n}} where the agent left out n lines because this side was too slow.

    Iterate once; ends when the daemon is gone or close() was called. Raises DaemonError while iterating.
    """

    def __init__(self, connection: ClientConnection):
        self.connection = connection
        self.is_closed = False

    def __iter__(self) -> Iterator[str]:
        with contextlib.closing(self):
            while (line := self._next()) is not None:
                if failure := _failure_in(line):
                    raise failure
                yield line

    def _next(self) -> str | None:
        """The next line, None at the end."""
        try:
            line = self.connection.recv()
        except ConnectionClosed as closed:
            if self.is_closed or (closed.rcvd is not None and closed.rcvd.code == 1000):
                return None
            raise DaemonError(Reason.CUT, "The connection to the agent broke.") from closed
        return line if isinstance(line, str) else line.decode(errors="replace")

    def close(self) -> None:
        """End it, from any thread; `lms log stream` on that machine ends too."""
        self.is_closed = True
        self.connection.close()

    def __enter__(self) -> "LogStream":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def open_log_stream(url: str, key: AgentKey, source: str, connect_seconds: float) -> LogStream:
    """Raises DaemonError, or ActionFailed when the agent says no."""
    connected = _connected(url, key, connect_seconds)
    parts = urlsplit(url)
    try:
        connection = connect(
            f"ws://{parts.netloc}/v1/logs?source={source}",  # TLS, where there is any, is there already
            sock=connected, proxy=None, compression=None, open_timeout=HANDSHAKE_SECONDS, close_timeout=CLOSE_SECONDS,
            ping_interval=PING_SECONDS, ping_timeout=PING_SECONDS, max_size=MAX_LINE_BYTES, max_queue=MAX_WAITING,
            additional_headers={"Authorization": f"Bearer {key.token}"}, user_agent_header=None, legacy=True,
        )  # fmt: skip
    except InvalidStatus as error:
        raise _refusal(error) from error
    except (TimeoutError, InvalidMessage, EOFError, ConnectionError) as error:
        reason = Reason.TIMEOUT if isinstance(error, TimeoutError) else Reason.CUT
        raise DaemonError(reason, "The agent did not answer.") from error
    except (InvalidHandshake, WebSocketException, ValueError, OSError) as error:
        raise DaemonError(Reason.NOT_UNDERSTOOD, "What answers there is not an agent.") from error
    try:
        connection.send(json.dumps(sign(key, "logs", {"source": source})))
    except (ConnectionClosed, OSError) as error:
        raise DaemonError(Reason.CUT, "The connection to the agent broke.") from error
    return LogStream(connection)


def _connected(url: str, key: AgentKey, seconds: float) -> socket.socket:
    """A connection to the agent itself: with TLS, one whose certificate is the right one."""
    parts = urlsplit(url)
    connected = http.dial(url, seconds)
    try:
        if parts.scheme == "https":
            connected = pinning.context(key.fingerprint).wrap_socket(connected, server_hostname=parts.hostname)
            pinning.check(connected, key.fingerprint)
        connected.settimeout(None)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        connected.close()
        raise pinning.tls_problem(error) from error
    except DaemonError:
        connected.close()
        raise
    return connected


def _refusal(error: InvalidStatus) -> DaemonError:
    try:
        told = json.loads(error.response.body or b"{}")
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict) and isinstance(told.get("error"), dict):
        return from_error(told["error"])
    return DaemonError(Reason.NOT_UNDERSTOOD, "What answers there is not an agent.")


def _failure_in(line: str) -> DaemonError | None:
    """An agent's own message that the stream failed. Cheap for all the other lines."""
    if ERROR_TYPE not in line[:200]:
        return None
    try:
        data = json.loads(line).get("data")
    except (ValueError, AttributeError, RecursionError):
        return None
    return from_error(data) if isinstance(data, dict) and data.get("type") == ERROR_TYPE else None
