"""The WebSocket namespaces on the port of the HTTP routes: handshake and frames (contract §10)."""

import hmac
import json
import re
import sys
import traceback
from collections.abc import Callable
from functools import partial

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred

from fleet.simulator.daemon import Daemon
from fleet.simulator.exchange import Exchange, encode
from fleet.simulator.socket_endpoints import CALLS, CHANNELS, Channel, Refusal
from fleet.simulator.validation import is_integer, is_object, is_text, object_or_empty

HANDSHAKE_SECONDS = 10
MOST_CLIENTS = 1_000
MOST_TEXT = 256
TOKEN = re.compile(r"sk-lm-([A-Za-z0-9]{8}):([A-Za-z0-9]{20})")


def open_socket(daemon: Daemon, exchange: Exchange) -> None:
    """Take the connection over from HTTP."""
    factory = WebSocketServerFactory()
    factory.protocol = partial(Session, daemon, exchange.route.strip("/"))
    WebSocketResource(factory).render(exchange)


class Session(WebSocketServerProtocol):
    """One client's socket to one namespace. A load that it began goes on without it."""

    def __init__(self, daemon: Daemon, namespace: str):
        super().__init__()
        self.daemon, self.namespace = daemon, namespace
        self.is_known = False
        self.channels: dict[int, Channel] = {}
        self.running: set[Deferred] = set()

    def onOpen(self) -> None:
        self.handshake = reactor.callLater(HANDSHAKE_SECONDS, self.sendClose)

    def onClose(self, was_clean: bool, code: int, reason: str) -> None:
        if (handshake := getattr(self, "handshake", None)) and handshake.active():
            handshake.cancel()
        for task in list(self.running):
            task.cancel()

    def onMessage(self, payload: bytes, is_binary: bool) -> None:
        try:
            frame = json.loads(payload)
        except ValueError:
            frame = None
        if not self.is_known:
            self._greet(object_or_empty(frame))
        elif not is_object(frame):
            self._warn("a frame that is not a JSON object")
        else:
            self._take(frame)

    def send(self, frame: dict) -> None:
        if self.state == self.STATE_OPEN:
            self.sendMessage(encode(frame))

    def _warn(self, why: str) -> None:
        """All that a client hears of a call that could not be understood: no id, no result."""
        self.send({"type": "communicationWarning", "warning": f"Received invalid message: {why}."})

    def _greet(self, frame: dict) -> None:
        self.handshake.cancel()
        if refusal := _refusal(self.daemon, frame):
            self.send({"success": False, "error": refusal})
            self.sendClose()
        else:
            self.is_known = True
            self.send({"success": True})

    def _take(self, frame: dict) -> None:
        match frame.get("type"):
            case "rpcCall" if is_integer(frame.get("callId")):
                self._call(frame, frame["callId"])
            case "channelCreate" if is_integer(frame.get("channelId")):
                self._open_channel(frame, frame["channelId"])
            case "channelSend":
                channel = self.channels.get(frame.get("channelId"))
                if channel and object_or_empty(frame.get("message")).get("type") == "cancel":
                    channel.call_off()
            case "keepAlive":
                self.send({"type": "keepAliveAck"})
            case "channelAck" | "communicationWarning":
                pass
            case _:
                self._warn("an unknown type of frame")

    def _call(self, frame: dict, call_id: int) -> None:
        function = self._endpoint(CALLS, frame)
        if function is None:
            return
        try:
            result = function(self.daemon, self.namespace, frame.get("parameter"))
        except ValueError as error:
            self._warn(str(error))
        except Refusal as refusal:
            self.send({"type": "rpcError", "callId": call_id, "error": refusal.error})
        else:
            told = {} if result is None else {"result": result}
            self.send({"type": "rpcResult", "callId": call_id} | told)

    def _open_channel(self, frame: dict, channel_id: int) -> None:
        function = self._endpoint(CHANNELS, frame)
        if function is None:
            return
        channel = Channel(
            lambda message: self.send({"type": "channelSend", "channelId": channel_id, "message": message})
        )
        self.channels[channel_id] = channel
        task = ensureDeferred(self._run(function, frame.get("creationParameter"), channel, channel_id))
        self.running.add(task)
        task.addBoth(lambda result: self.running.discard(task))

    async def _run(self, function: Callable, parameter: object, channel: Channel, channel_id: int) -> None:
        try:
            await function(self.daemon, self.namespace, parameter, channel)
            self.send({"type": "channelClose", "channelId": channel_id})
        except CancelledError:
            pass  # the client went away
        except ValueError as error:
            self._warn(str(error))
        except Refusal as refusal:
            self.send({"type": "channelError", "channelId": channel_id, "error": refusal.error})
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self.sendClose()
        finally:
            del self.channels[channel_id]

    def _endpoint(self, endpoints: dict, frame: dict) -> Callable | None:
        function = endpoints.get((self.namespace, frame.get("endpoint")))
        if function is None:
            self._warn(f"no endpoint {frame.get('endpoint')!r} in {self.namespace}")
        return function


def _refusal(daemon: Daemon, frame: dict) -> str:
    """Why a client is not let in; "" if it is. Without a token anybody is, under a name that nobody else has."""
    name, passkey = frame.get("clientIdentifier"), frame.get("clientPasskey")
    if frame.get("authVersion") != 1 or not all(is_text(one) and len(one) <= MOST_TEXT for one in (name, passkey)):
        return "Invalid authentication packet."
    if daemon.settings.token is not None:
        halves = TOKEN.fullmatch(daemon.settings.token)
        is_it = halves and hmac.compare_digest(f"{name}:{passkey}".encode(), ":".join(halves.groups()).encode())
        return "" if is_it else "Authentication failed: a valid API token is required."
    if len(daemon.passkeys) >= MOST_CLIENTS:
        del daemon.passkeys[next(iter(daemon.passkeys))]
    known = daemon.passkeys.setdefault(name, passkey)
    return "" if hmac.compare_digest(known.encode(), passkey.encode()) else "Invalid passkey for this client."
