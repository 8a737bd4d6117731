"""Every model over all nodes, in a terminal."""

import json

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from daemonpulse import program
from daemonpulse.templatetags.durations import duration
from fleet.allocation.amounts import amount
from fleet.models import Node
from fleet.texts import clean
from forge.api_forms import shortened
from forge.described import inventory
from forge.models import Origin

HEAD = ("MODEL", "SIZE", "QUANT", "CONTEXT", "NODE", "STATE")
MOST = 80  # characters of a name
BY = {origin.value: f"loaded {origin.label}" for origin in Origin}


class Command(BaseCommand):
    help = "Shows the models of all nodes and their loaded copies, as last looked at."

    def add_arguments(self, parser):
        parser.add_argument("text", nargs="?", default="", help="words that a key, name, publisher or family has")
        parser.add_argument("--node", default="", help="its name")
        parser.add_argument("--json", action="store_true", help="everything that is known")

    def handle(self, *args, **options):
        names = list(Node.objects.values_list("name", flat=True))
        if options["node"] and options["node"] not in names:
            raise CommandError(f"There is no node “{options['node']}”. Known: {shortened(names)}.")
        told = inventory({"q": options["text"], "node": options["node"]})
        if options["json"]:
            self.stdout.write(json.dumps(told, indent=2))
        else:
            self.stdout.write("\n".join([*table(told["models"]), *map(in_words, told["nodes"])] or [no_nodes()]))


def no_nodes() -> str:
    return f"There are no nodes yet. Add one: {program.line('node-add', 'NAME', 'ADDRESS')}"


def table(models: list[dict]) -> list[str]:
    """A line for each model on each node, with its loaded copies below it."""
    if not models:
        return ["No model is found."] if Node.objects.exists() else []
    places = [(model, place) for model in models for place in model["nodes"]]
    cells = [HEAD, *(of_place(model, place) for model, place in places)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEAD))]
    told = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines = told[:1]
    for line, (_, place) in zip(told[1:], places, strict=True):
        lines += [line, *(f"    {of_copy(copy)}" for copy in place["copies"] or [])]
    return lines


def of_place(model: dict, place: dict) -> tuple[str, ...]:
    context = place["max_context_length"]
    return (
        clean(model["key"], MOST),
        "?" if place["size_bytes"] is None else amount(place["size_bytes"]),
        clean(place["quantization"] or "?", MOST),
        "?" if context is None else f"{context:,}",
        clean(place["node"], MOST),
        state(place),
    )


def state(place: dict) -> str:
    copies = place["copies"]
    if place["is_loading"]:
        told = "loading" if place["progress"] is None else f"loading, {place['progress']:.0%}"
    elif copies is None:
        return "not known whether it is loaded"
    else:
        told = "on disk" if not copies else "loaded" if len(copies) == 1 else f"loaded ×{len(copies)}"
    return told if place["is_online"] else f"{told}, as last known"


def of_copy(copy: dict) -> str:
    """One loaded copy: who had it loaded, how, what it takes, what it does, how long it stays."""
    context = "context unknown" if copy["context_length"] is None else f"context {copy['context_length']:,}"
    slots = [f"{copy['parallel']} slots"] if copy["parallel"] else []
    by = f"memory {amount(copy['memory_bytes'])} ({'measured' if copy['is_measured'] else 'estimated'})" \
        if copy["memory_bytes"] is not None else "memory unknown"  # fmt: skip
    return ", ".join([f"{clean(copy['instance'], MOST)}: {BY[copy['loaded_by']]}", context, *slots, by, stay(copy)])


def stay(copy: dict) -> str:
    if copy["is_leaving"]:
        return "being unloaded"
    if running := copy["prompts_running"]:
        return f"{running} prompt{'s' if running > 1 else ''} running"
    if copy["is_busy"]:
        return "works for somebody else"
    if copy["idle_left_seconds"] is None:
        return "idle, pinned" if copy["is_pinned"] else "idle, stays"
    return f"idle, unloaded in {duration(copy['idle_left_seconds'])}"


def in_words(node: dict) -> str:
    """How old is what is told of a node."""
    if not node["looked_at"]:
        return f"{node['name']} has not been looked at yet."
    if not node["is_enabled"]:
        return f"{node['name']} is switched off; looked at {since(node['looked_at'])} ago."
    if node["is_online"]:
        return f"{node['name']}: as of {since(node['looked_at'])} ago."
    seen = f"what is told of it is {since(node['last_seen_at'])} old" if node["last_seen_at"] else "it never has"
    return f"{node['name']} does not answer; {seen}. {node['problem'] or ''}".strip()


def since(moment: str) -> str:
    return duration(timezone.now() - parse_datetime(moment))
