"""The contexts of what both a page and its socket render."""

import json

from fleet import panels
from fleet.advice import advise, in_short
from fleet.allocation.profile import Profile, Strategy
from fleet.cards import cards
from fleet.layout_forms import model_keys
from fleet.models import Command, Node, Sample
from fleet.models.command import LOAD, PLAN
from fleet.models.profile import in_words
from fleet.telemetry.readings import Machine

FRAGMENTS = ("latency", "state", "now", "machine", "commands", "plan", "panels", "models", "sample")
COMMANDS_SHOWN = 20
ALWAYS = (("latency", "Answers in"),)
OF_MACHINE = (("cpu", "CPU load"), ("ram", "RAM in use"))
OF_GPUS = (
    ("vram", "VRAM in use"),
    ("utilization", "GPU load"),
    ("temperature", "GPU temperature"),
    ("power", "GPU power"),
)


def list_context(user) -> dict:
    return {"cards": cards(Node.objects.all(), user), "permissions": user.get_all_permissions(), "user": user}


def node_context(node: Node, user) -> dict:
    """Everything that the live parts of a node's page show."""
    reading = getattr(node, "reading", None)
    machine = reading.machine if reading and node.has_host else None
    status = reading.status_json if reading and node.can_be_managed else None
    advice = advise(node, status)
    commands = list(node.commands.select_related("user")[:COMMANDS_SHOWN])
    current = next((command for command in reversed(commands) if command.is_open), None)
    sample = Sample.objects.filter(node=node).order_by("-at").first()
    return {
        "node": node,
        "user": user,
        "permissions": user.get_all_permissions(),
        "reading": reading,
        "machine": machine,
        "status": status,
        "status_words": in_short(status) if status else "",
        "advice": advice,
        "current": current,
        "history": [command for command in commands if command != current],
        "graphs": graphs(node, machine),
        "planned": planned(commands),
        "panels": panels.on_page(node, user),
        "model_keys": model_keys(node),
        "point_json": json.dumps(sample.point) if sample else "",
    }


def graphs(node: Node, machine: Machine | None) -> tuple:
    """Which graphs a page has from the start: what its machine may tell yet included."""
    has_gpus = bool(machine.gpus) if machine else node.has_host
    return (OF_GPUS if has_gpus else ()) + ALWAYS + (OF_MACHINE if node.has_host else ())


def planned(commands: list[Command]) -> dict | None:
    """The last plan or load, with what the page says of it in words."""
    last = next((c for c in commands if c.action in {PLAN, LOAD} and c.state == Command.State.DONE), None)
    if last is None:
        return None
    profile = Profile(Strategy(last.result["profile"].pop("strategy")), **last.result["profile"])
    return last.result | {"profile_words": in_words(profile)}
