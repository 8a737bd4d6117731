"""Which route answers what, and what becomes of every error (contract §1, §2.0, §4, §12)."""

import hmac
import sys
import traceback
from functools import partial

from twisted.internet.defer import CancelledError, Deferred
from twisted.web.http import HTTPFactory

from fleet.simulator import control, native, openai, v0
from fleet.simulator.daemon import Daemon
from fleet.simulator.errors import ApiError, ConnectionCut, ConnectionRefused, Unauthorized
from fleet.simulator.exchange import Exchange
from fleet.simulator.faults import REQUEST_KINDS, on_arrival
from fleet.simulator.machine import show_machine, show_metadata
from fleet.simulator.native_chat import chat
from fleet.simulator.openai_chat import chat_completions

NAMESPACES = ("/llm", "/embedding", "/system")  # of the WebSocket
CONTROL_PREFIX = "/simulator"


async def greet(daemon: Daemon, exchange: Exchange) -> None:
    """As the real one answers, and honest: who asks closely is told that this is none."""
    exchange.reply({"lmstudio": True, "simulated": True})


async def take_over(daemon: Daemon, exchange: Exchange) -> None:
    # Imported here: most simulated daemons never see a socket, and all should start soon.
    from fleet.simulator.sockets import open_socket

    open_socket(daemon, exchange)


INFERENCE = {
    ("POST", "/api/v1/chat"): chat,
    ("POST", "/v1/chat/completions"): chat_completions,
    ("POST", "/v1/completions"): openai.completions,
    ("POST", "/v1/embeddings"): openai.embeddings,
    ("POST", "/api/v0/chat/completions"): chat_completions,
    ("POST", "/api/v0/completions"): openai.completions,
    ("POST", "/api/v0/embeddings"): openai.embeddings,
}
ROUTES = INFERENCE | {
    ("GET", "/lmstudio-greeting"): greet,
    ("GET", "/api/v1/models"): native.list_models,
    ("POST", "/api/v1/models/load"): native.load_model,
    ("POST", "/api/v1/models/unload"): native.unload_model,
    ("POST", "/api/v1/models/download"): native.download_model,
    ("GET", "/v1/models"): openai.list_models,
    ("GET", "/api/v0/models"): v0.list_models,
    ("GET", "/simulator"): control.show,
    ("GET", "/simulator/machine"): show_machine,
    ("GET", "/simulator/metadata"): show_metadata,
    ("POST", "/simulator/reset"): control.reset,
    ("POST", "/simulator/daemon"): control.change_daemon,
}
# The rest of the path is the handler's argument; a model key has a slash in it.
PREFIX_ROUTES = {
    ("GET", "/api/v1/models/download/status/"): native.download_status,
    ("GET", "/api/v0/models/"): v0.show_model,
    ("POST", "/simulator/models/"): control.change_model,
}


async def unknown(daemon: Daemon, exchange: Exchange) -> None:
    """Wrong paths get 200 with an error, below /api/v1 a 404 (contract §2.0, §12 item 1)."""
    status = 404 if exchange.route.startswith("/api/v1") else 200
    exchange.reply({"error": f"Unexpected endpoint or method. ({exchange.verb} {exchange.route})"}, status)


def find_handler(verb: str, route: str):
    if handler := ROUTES.get((verb, route)):
        return handler
    for (prefix_verb, prefix), handler in PREFIX_ROUTES.items():
        if verb == prefix_verb and route.startswith(prefix):
            return partial(_with_rest, handler, route.removeprefix(prefix))
    return unknown


async def _with_rest(handler, rest: str, daemon: Daemon, exchange: Exchange) -> None:
    await handler(daemon, exchange, rest)


async def answer(daemon: Daemon, exchange: Exchange) -> None:
    """Answer one request; nothing escapes."""
    try:
        await respond(daemon, exchange)
    except CancelledError:
        pass  # the client went away
    except ConnectionRefused:
        exchange.reset()
    except ConnectionCut:
        exchange.cut()
    except ApiError as error:
        fail(exchange, error)
    except Exception:
        traceback.print_exc(file=sys.stderr)
        fail(exchange, ApiError(500, "internal_error", "The simulated daemon has a fault of its own."))


def fail(exchange: Exchange, error: ApiError) -> None:
    """Say what went wrong, or cut an answer that has begun."""
    if exchange.startedWriting:
        exchange.cut()
    else:
        exchange.refuse(error)


async def respond(daemon: Daemon, exchange: Exchange) -> None:
    verb, route = exchange.verb, exchange.route
    if route != CONTROL_PREFIX and not route.startswith(f"{CONTROL_PREFIX}/"):
        daemon.requests += 1
        await meet_daemon_fault(daemon, exchange)
        if route != "/lmstudio-greeting" and not is_upgrade(exchange):  # over a socket the token comes later
            check_token(daemon, exchange)
    handler = take_over if is_upgrade(exchange) else find_handler(verb, route)
    await handler(daemon, exchange)


def is_upgrade(exchange: Exchange) -> bool:
    """A client that asks for one of the WebSocket namespaces."""
    return exchange.route in NAMESPACES and (exchange.getHeader("upgrade") or "").lower() == "websocket"


async def meet_daemon_fault(daemon: Daemon, exchange: Exchange) -> None:
    """A fault of the whole server; one that strikes in mid-answer travels on with an inference request."""
    fault = daemon.faults.take(REQUEST_KINDS)
    await on_arrival(fault)
    if fault is None or (exchange.verb, exchange.route) in INFERENCE:
        exchange.fault = fault
    elif fault.kind == "cut":
        raise ConnectionCut
    else:
        await Deferred()  # a hang


def check_token(daemon: Daemon, exchange: Exchange) -> None:
    """Raises Unauthorized; no header is needed when no token was set (contract §1.3)."""
    if daemon.settings.token is None:
        return
    scheme, _, given = (exchange.getHeader("authorization") or "").partition(" ")
    wanted = daemon.settings.token.encode()
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), wanted):
        raise Unauthorized


class SimulatorFactory(HTTPFactory):
    def __init__(self, daemon: Daemon):
        super().__init__()
        self._make_exchange = partial(Exchange, partial(answer, daemon))

    def buildProtocol(self, addr):
        channel = super().buildProtocol(addr)
        channel.requestFactory = self._make_exchange
        return channel

    def log(self, request) -> None:
        """No access log: a prompt's path tells nothing, and a line for each request costs time."""
