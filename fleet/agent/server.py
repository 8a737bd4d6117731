"""What the agent answers: five routes, and nothing else."""

import hmac
import json
import sys
import traceback

from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread
from twisted.protocols.policies import WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from daemonpulse import __version__
from fleet.agent.commands import LOGS, Commands
from fleet.agent.failures import Failure, failure_of
from fleet.agent.log_streams import LogStreams
from fleet.agent.outlet import Outlet
from fleet.agent.shared_read import SharedRead
from fleet.agent.throttle import Throttle

MAX_BODY_BYTES = 64 * 1024
MAX_CONNECTIONS, MAX_CONNECTIONS_OF_ONE = 100, 60
BEAT_SECONDS = 5.0
FRESH_SECONDS = 1.0
IDLE_SECONDS = 60  # a connection on which nobody asks for anything
WRONG_TOKENS, REFUSALS = 10, 60  # a minute and peer
GREETING = {"agent": "daemonpulse"}


class AgentRequest(Request):
    """A request whose body is kept in memory, and only up to the limit."""

    is_too_long = False

    def __init__(self, channel, *args, **options):
        super().__init__(channel, *args, parsePOSTFormSubmission=False, **options)

    def gotLength(self, length: int | None) -> None:
        self.is_too_long = length is not None and length > MAX_BODY_BYTES
        super().gotLength(0 if length is None or self.is_too_long else length)

    def handleContentChunk(self, data: bytes) -> None:
        if self.content.tell() + len(data) > MAX_BODY_BYTES:
            self.is_too_long = True
        if not self.is_too_long:
            super().handleContentChunk(data)

    @property
    def peer(self) -> str:
        return getattr(self.getClientAddress(), "host", "unknown")

    def reply(self, body: object, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.setResponseCode(status)
        self.setHeader(b"content-type", b"application/json")
        self.setHeader(b"content-length", b"%d" % len(data))
        self.write(data)
        self.finish()

    def refuse(self, failure: Failure) -> None:
        self.reply({"error": failure.as_json()}, failure.status)


class AgentSite(Site):
    """HTTP/1.1, without an access log: telemetry is asked for all the time, and commands have a log of their own."""

    requestFactory = AgentRequest

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]  # a WebSocket takes over a whole connection, which HTTP/2 cannot give

    def log(self, request) -> None:
        pass


class Limited(WrappingFactory):
    """A site for at most MAX_CONNECTIONS at a time, WebSockets included; no address may take them all."""

    def buildProtocol(self, addr):
        peers = [protocol.getPeer().host for protocol in self.protocols]
        is_full = len(peers) >= MAX_CONNECTIONS or peers.count(addr.host) >= MAX_CONNECTIONS_OF_ONE
        return None if is_full else super().buildProtocol(addr)


def listener(doors: "Doors", tls_options=None) -> Limited:
    """What to listen with; `tls_options` are Twisted's CertificateOptions. The limit stands outside of TLS, so that
    an unfinished handshake counts too."""
    site = AgentSite(doors, timeout=IDLE_SECONDS)
    return Limited(TLSMemoryBIOFactory(tls_options, False, site) if tls_options else site)


class Doors(Resource):
    """1. Is it a route? 2. May the caller come in? 3. Then its handler."""

    isLeaf = True

    def __init__(self, reactor, commands: Commands, read_machine, read_status):
        super().__init__()
        self.reactor = reactor
        self.commands = commands
        self.token = commands.verifier.key.token.encode()
        self.machine = SharedRead(reactor, read_machine, FRESH_SECONDS)
        self.status = SharedRead(reactor, read_status, FRESH_SECONDS)
        self.logs = LogStreams(reactor, self)
        self.wrong_tokens = Throttle(WRONG_TOKENS)
        self.refusals = Throttle(REFUSALS)
        self.routes = {
            (b"GET", b"/v1/hello"): self.hello,
            (b"GET", b"/v1/telemetry"): self.telemetry,
            (b"GET", b"/v1/status"): self.tell_status,
            (b"POST", b"/v1/commands"): self.run_command,
            (b"GET", b"/v1/logs"): self.stream_logs,
        }

    def warm_up(self) -> None:
        """Read once before anybody asks: some figures are rates, and need an earlier look."""
        ensureDeferred(self.machine.get())

    def render(self, request: AgentRequest):
        answering = ensureDeferred(self.answer(request))
        request.notifyFinish().addErrback(lambda _: answering.cancel())  # the caller went away
        return NOT_DONE_YET

    async def answer(self, request: AgentRequest) -> None:
        """Answer one request; nothing escapes."""
        try:
            handler = self.routes.get((request.method, request.path))  # 1
            if handler is None:
                raise Failure("not_found", "The agent has nothing there.", "Is the address right?", 404)
            if handler != self.hello or request.getHeader(b"authorization") is not None:
                self.let_in(request)  # 2
            await handler(request)  # 3
        except CancelledError:
            pass
        except Failure as failure:
            request.refuse(failure)
        except Exception as error:
            if request.startedWriting:
                traceback.print_exc(file=sys.stderr)
                request.loseConnection()
            else:
                request.refuse(failure_of(error))

    def let_in(self, request: AgentRequest) -> None:
        """Raises Failure 401, or 429 for a peer that was wrong too often.

        The right token is always let in: 256 bits are not guessed, and a stranger behind the same address must not
        be able to lock the control plane out.
        """
        scheme, _, given = (request.getHeader(b"authorization") or b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.token):
            return
        if self.wrong_tokens.is_over(request.peer):
            raise Failure("too_many", "Too many wrong tokens.", "Wait a minute.", 429)
        self.wrong_tokens.count(request.peer)
        self.commands.tell(None, None, request.peer, "wrong token")
        raise Failure(
            "unauthorized", "The token is missing or wrong.", "`daemonpulse agent key` on this machine prints it.", 401
        )

    async def hello(self, request: AgentRequest) -> None:
        """Who is here; to strangers no more than that."""
        is_known = request.getHeader(b"authorization") is not None
        request.reply(GREETING | {"version": __version__, "tls": bool(request.isSecure())} if is_known else GREETING)

    async def telemetry(self, request: AgentRequest) -> None:
        request.reply(await self.machine.get())

    async def tell_status(self, request: AgentRequest) -> None:
        request.reply(await self.status.get())

    async def stream_logs(self, request: AgentRequest) -> None:
        self.logs.take(request)

    async def run_command(self, request: AgentRequest) -> None:
        """Opens the envelope, then streams what the command says. A caller who leaves does not stop it."""
        envelope = self.read(request)
        command = self.open(envelope, request.peer)
        if command.action == LOGS:
            raise Failure("unknown_action", "Logs come over a WebSocket.", "Open one at /v1/logs.")
        running = self.commands.admit(command, envelope, request.peer)
        answer = CommandAnswer(self.reactor, request)
        outcome = deferToThread(self.commands.run, running, answer.outlet.put)
        outcome.addBoth(self.forget_status).addBoth(answer.end)

    def forget_status(self, outcome: object) -> object:
        self.status.forget()
        return outcome

    def read(self, request: AgentRequest) -> object:
        if request.is_too_long:
            raise Failure("too_long", f"The body is longer than {MAX_BODY_BYTES // 1024} KB.", "", 413)
        try:
            return json.loads(request.content.read())
        except (ValueError, RecursionError) as error:
            raise Failure("not_json", "The body is not JSON.", "Send one signed envelope.") from error

    def open(self, envelope: object, peer: str):
        """The command in an envelope. Raises Failure 403, or 429 for a peer that was refused too often."""
        if self.refusals.is_over(peer):
            raise Failure("too_many", "Too many refused commands.", "Wait a minute, and compare the clocks.", 429)
        try:
            return self.commands.open(envelope, peer)
        except Failure:
            self.refusals.count(peer)
            raise


class CommandAnswer:
    """The streamed answer to one command: lines of JSON, a beat while it is silent, the outcome at the end."""

    def __init__(self, reactor, request: AgentRequest):
        self.request = request
        self.is_open = True
        request.setHeader(b"content-type", b"application/x-ndjson")
        request.notifyFinish().addErrback(self._left)
        self.outlet = Outlet(reactor, lambda line: self._write({"line": line}), lambda n: self._write({"left_out": n}))
        request.registerProducer(self.outlet, True)
        self._beats = LoopingCall(self._beat)
        self._beats.clock = reactor
        self._beats.start(BEAT_SECONDS)

    def end(self, outcome: object) -> None:
        """`outcome` is the result, or Twisted's wrapping of what went wrong."""
        if not self.is_open:
            return
        self.outlet.drain()
        self._stop()
        error = getattr(outcome, "value", None) if not isinstance(outcome, dict) else None
        self._write({"result": outcome} if error is None else {"error": failure_of(error).as_json()})
        self.request.unregisterProducer()
        self.request.finish()

    def _beat(self) -> None:
        if self.outlet.is_ready:
            self._write({"beat": True})

    def _write(self, part: dict) -> None:
        self.request.write(json.dumps(part, default=str).encode() + b"\n")

    def _left(self, _) -> None:
        self._stop()
        self.outlet.stopProducing()
        self.is_open = False

    def _stop(self) -> None:
        if self._beats.running:
            self._beats.stop()
