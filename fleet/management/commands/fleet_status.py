"""The fleet in a terminal."""

import json

from django.core.management.base import BaseCommand

from daemonpulse import program
from daemonpulse.templatetags.durations import duration
from daemonpulse.templatetags.sizes import gib
from fleet.advice import advise
from fleet.models import Node


class Command(BaseCommand):
    help = "Says of every node whether it answers, what its machine has, and what to do about it (as last looked at)."

    def add_arguments(self, parser):
        parser.add_argument("--json", action="store_true", help="as JSON, one object with a list of nodes")

    def handle(self, *args, **options):
        nodes = [described(node) for node in Node.objects.select_related("reading")]
        if options["json"]:
            self.stdout.write(json.dumps({"nodes": nodes}, indent=2))
            return
        if not nodes:
            self.stdout.write(f"There are no nodes yet. Add one: {program.line('node-add', 'NAME', 'ADDRESS')}")
        for node in nodes:
            self.stdout.write("\n".join(self.lines(node)))

    def lines(self, node: dict) -> list[str]:
        latency = f" in {duration(node['latency_seconds'])}" if node["latency_seconds"] is not None else ""
        lines = [f"{node['name']}  {node['state']}{latency}  {node['base_url']}"]
        if node["advice"]:
            lines.append(f"  {node['advice']}")
        for gpu in node["gpus"]:
            used, total = gib(gpu["memory_used_bytes"]), gib(gpu["memory_total_bytes"])
            lines.append(f"  GPU {gpu['index']} {gpu['name']}: {gpu['problem'] or f'{used} of {total}'}")
        if node["gpu_note"]:
            lines.append(f"  {node['gpu_note']}")
        return lines


def described(node: Node) -> dict:
    """A node as JSON; None = unknown."""
    reading = getattr(node, "reading", None)
    machine = reading.machine if reading else None
    status = reading.status_json if reading else None
    advice = advise(node, status)
    return {
        "name": node.name,
        "base_url": node.base_url,
        "kind": node.kind,
        "tags": node.tags,
        "is_enabled": node.is_enabled,
        "is_simulated": node.is_simulated,
        "state": node.state if node.is_enabled else "switched off",
        "advice": advice.text if advice else "",
        "latency_seconds": node.latency_seconds,
        "last_seen_at": node.last_seen_at.isoformat() if node.last_seen_at else None,
        "lmstudio": status,
        "read_at": reading.read_at.isoformat() if reading and reading.read_at else None,
        "cpu_percent": machine.cpu_percent if machine else None,
        "ram_total_bytes": machine.ram_total_bytes if machine else None,
        "ram_used_bytes": machine.ram_used_bytes if machine else None,
        "gpu_note": machine.gpu_note if machine else "",
        "gpus": machine.as_json()["gpus"] if machine else [],
        "orphans": reading.orphans if reading else [],
    }
