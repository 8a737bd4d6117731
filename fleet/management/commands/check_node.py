"""Does a node answer, and what has it?"""

import time

from django.core.management.base import BaseCommand, CommandError

from fleet.daemons.errors import DaemonError
from fleet.daemons.kinds import connect, detect
from fleet.models import Node


class Command(BaseCommand):
    help = "Asks a node (by its name or any address) what it is and which models it has."

    def add_arguments(self, parser):
        parser.add_argument("node", help="the name of a node, or an address such as http://127.0.0.1:1234")
        parser.add_argument("--token", default="", help="for an address that wants one")

    def handle(self, *args, **options):
        name = options["node"]
        node = Node.objects.filter(name=name).first()
        if node is None and "://" not in name:
            known = ", ".join(Node.objects.values_list("name", flat=True)) or "none"
            raise CommandError(
                f"There is no node “{name}”. Known: {known}. An address starts with http:// or https://."
            )
        started = time.perf_counter()
        try:
            daemon = node.connect() if node else connect(detect(name, options["token"]), name, options["token"])
            daemon.probe()
            models = daemon.models()
        except DaemonError as error:
            detail = f" ({error.detail})" if error.detail else ""
            raise CommandError(f"{name}: {error.reason.explanation}{detail}") from error
        milliseconds = (time.perf_counter() - started) * 1000
        self.stdout.write(f"{daemon.base_url} answers as {daemon.kind} in {milliseconds:.0f} ms; {len(models)} models")
        for model in models:
            loaded = "unknown" if not model.knows_loaded else ", ".join(model.loaded) or "not loaded"
            self.stdout.write(f"  {model.key:<40} {model.type:<10} {loaded}")
