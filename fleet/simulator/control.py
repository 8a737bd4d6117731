"""The control surface below /simulator: state, speeds, faults, reset. No real daemon has it.

POST bodies must be sent as application/json, so that no web page can throw a switch without a CORS preflight.
"""

from fleet.simulator.daemon import Daemon
from fleet.simulator.errors import ApiError, UnknownModel
from fleet.simulator.exchange import Exchange
from fleet.simulator.faults import KINDS, Fault
from fleet.simulator.models import Model
from fleet.simulator.validation import Rule, check, is_integer, is_number, is_object, is_text

FAULT = {
    "kind": Rule(is_text, required=True, choices=KINDS),
    "after_tokens": Rule(is_integer, low=0, nullable=True),
    "times": Rule(is_integer, low=1, nullable=True),
}
SPEED = {
    "ttft_seconds": Rule(is_number, low=0),
    "tokens_per_second": Rule(is_number, low=0, nullable=True),
    "output_tokens": Rule(is_integer, low=1, nullable=True),
    "load_seconds": Rule(is_number, low=0),
    "slots": Rule(is_integer, low=1),
}
SWITCH = {"fault": Rule(is_object, nullable=True)}
EVERY_MODEL = "*"


async def show(daemon: Daemon, exchange: Exchange) -> None:
    exchange.reply(daemon.as_json())


async def change_model(daemon: Daemon, exchange: Exchange, key: str) -> None:
    """Set speeds and the fault of one model, or of all with `*`; answers what they are now."""
    body = check(_json_body(exchange), SPEED | SWITCH)
    if key != EVERY_MODEL and key not in daemon.models:
        raise UnknownModel(key)
    changed = list(daemon.models.values()) if key == EVERY_MODEL else [daemon.models[key]]
    for model in changed:
        _apply(model, body)
        for instance in daemon.memory.ready(model):
            instance.admit()
    exchange.reply({"models": {model.key: model.as_json(**daemon.memory.crowd(model)) for model in changed}})


async def change_daemon(daemon: Daemon, exchange: Exchange) -> None:
    """Set or clear the fault that every route but these meets."""
    body = check(_json_body(exchange), SWITCH)
    if "fault" in body:
        daemon.faults.fault = _fault(body["fault"])
    exchange.reply({"fault": daemon.faults.as_json()})


async def reset(daemon: Daemon, exchange: Exchange) -> None:
    check(_json_body(exchange), {})
    daemon.reset()
    exchange.reply({"reset": True})


def _json_body(exchange: Exchange):
    content_type = exchange.getHeader("content-type") or ""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "invalid_request", "Send application/json.")
    return exchange.body()


def _apply(model: Model, body: dict) -> None:
    for name in SPEED:
        if name in body:
            value = body[name]
            setattr(model.speed, name, int(value) if SPEED[name].has_type is is_integer and value else value)
    if "fault" in body:
        model.faults.fault = _fault(body["fault"])


def _fault(body: dict | None) -> Fault | None:
    return Fault(**check(body, FAULT)) if body is not None else None
