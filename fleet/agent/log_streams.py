"""LM Studio's logs over a WebSocket: a signed envelope in, one message a line out."""

import json
import threading
import time

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.threads import deferToThread

from fleet.agent.commands import LOGS
from fleet.agent.failures import Failure, failure_of
from fleet.agent.outlet import Outlet

MOST_STREAMS = 4
SOURCES = ("model", "server", "runtime")
FIRST_MESSAGE_SECONDS = 10.0
PING_SECONDS = 15
END_SECONDS = 2.0
MAX_MESSAGE_BYTES = 64 * 1024
# Close codes of our own (4000 to 4999 are free for that, RFC 6455 §7.4.2): the HTTP status they stand for.
CLOSE_BASE = 4000
NORMAL = 1000


class LogStreams:
    """The streams that are open. `doors` opens envelopes and holds the commands."""

    def __init__(self, reactor, doors):
        self.reactor = reactor
        self.doors = doors
        self.open_streams: set[LogProtocol] = set()
        self.factory = WebSocketServerFactory()
        self.factory.protocol = lambda: LogProtocol(self)
        self.factory.setProtocolOptions(
            maxMessagePayloadSize=MAX_MESSAGE_BYTES, maxFramePayloadSize=MAX_MESSAGE_BYTES,
            autoPingInterval=PING_SECONDS, autoPingTimeout=PING_SECONDS, serveFlashSocketPolicy=False,
        )  # fmt: skip
        self.resource = WebSocketResource(self.factory)

    def take(self, request) -> None:
        """Turn a request that was let in into a WebSocket. Raises Failure."""
        if (request.getHeader("upgrade") or "").lower() != "websocket":
            raise Failure("not_a_websocket", "The logs come over a WebSocket only.", "", 426)
        source = request.args.get(b"source", [b""])[0].decode("ascii", "replace")
        if source not in SOURCES:
            raise Failure("bad_parameters", "The source of logs is model, server or runtime.")
        if len(self.open_streams) >= MOST_STREAMS:
            raise Failure("busy", f"{MOST_STREAMS} log streams are open already.", "Close one of them.", 409)
        self.resource.render(request)

    def close_all(self) -> None:
        """The agent ends: wait a moment for every `lms log stream` to end too."""
        endings = [stream.end_stream() for stream in list(self.open_streams)]
        until = time.monotonic() + END_SECONDS
        for ending in filter(None, endings):
            ending.join(max(0.0, until - time.monotonic()))


class LogProtocol(WebSocketServerProtocol):
    """One viewer. The reading of `lms log stream` happens in a thread; lines come out through an Outlet."""

    def __init__(self, streams: LogStreams):
        super().__init__()
        self.streams = streams
        self.source = ""
        self.running = None
        self._lines = None
        self._lock = threading.Lock()
        self._is_over = False
        self._patience = None

    def onConnect(self, request) -> None:
        self.source = request.params["source"][0]
        self.streams.open_streams.add(self)

    def onOpen(self) -> None:
        reactor = self.streams.reactor
        self._patience = reactor.callLater(FIRST_MESSAGE_SECONDS, self._too_late)
        self.outlet = Outlet(reactor, self._send, self._send_left_out)
        # The HTTP connection was its own producer; from now on the lines are.
        self.transport.unregisterProducer()
        self.transport.registerProducer(self.outlet, True)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """The first message is the envelope; there is nothing to say after it."""
        if self.running is not None:
            return
        try:
            self._begin(payload)
        except Failure as failure:
            self._fail(failure)

    def _begin(self, payload: bytes) -> None:
        self._cancel_patience()
        envelope = self._json(payload)
        peer, commands = self.transport.getPeer().host, self.streams.doors.commands
        command = self.streams.doors.open(envelope, peer)
        if command.action != LOGS or command.parameters != {"source": self.source}:
            raise Failure("bad_parameters", "The envelope asks for something else than the address of this stream.")
        self.running = commands.admit(command, envelope, peer)
        deferToThread(self._read).addBoth(self._ended)

    def _json(self, payload: bytes) -> object:
        try:
            return json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise Failure("not_json", "The first message is not JSON.", "Send one signed envelope.") from error

    def _read(self) -> None:
        """In a thread: line by line, until the daemon or the viewer goes."""
        manager = self.streams.doors.commands.make_manager(None)
        with manager.stream_logs(self.source) as lines:
            with self._lock:
                self._lines = lines
                if self._is_over:
                    return
            for line in lines:
                self.outlet.put(line)

    def _ended(self, outcome) -> None:
        error = getattr(outcome, "value", None)
        failure = failure_of(error) if error is not None and not self._is_over else None
        told = f"failed: {failure.problem}" if failure else "closed" if self._is_over else "the daemon is gone"
        self.streams.doors.commands.finish(self.running, told)
        if failure:
            self._fail(failure)
        elif not self._is_over:
            self.outlet.drain()
            self.sendClose(NORMAL, "the daemon is gone")

    def _send(self, line: str) -> None:
        self.sendMessage(line.encode("utf-8", "replace"))

    def _send_left_out(self, count: int) -> None:
        """In the form of LM Studio's own lines (contract §7.10), with a type of ours."""
        told = {"timestamp": round(time.time() * 1000), "data": {"type": "agent.left_out", "count": count}}
        self._send(json.dumps(told))

    def _fail(self, failure: Failure) -> None:
        told = {"timestamp": round(time.time() * 1000), "data": {"type": "agent.error"} | failure.as_json()}
        self._send(json.dumps(told))
        self.sendClose(CLOSE_BASE + failure.status, failure.problem)

    def _too_late(self) -> None:
        self._patience = None
        self._fail(Failure("too_late", "No envelope came.", "Send it as the first message.", 408))

    def _cancel_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        self.end_stream()

    def end_stream(self) -> threading.Thread | None:
        """End the reading, and with it `lms log stream`; returns the thread in which that happens."""
        self._cancel_patience()
        self.streams.open_streams.discard(self)
        with self._lock:
            self._is_over, lines = True, self._lines
        if hasattr(self, "outlet"):
            self.outlet.stopProducing()
        if lines is None:
            return None
        # Ending a process can take a moment, and this is the reactor.
        ending = threading.Thread(target=lines.close, name="log-stream-end", daemon=True)
        ending.start()
        return ending
