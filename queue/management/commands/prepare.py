"""What must be true before the processes start. `up` runs it first; its last line of output is JSON."""

import contextlib
import json

from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import DatabaseError

from daemonpulse.models import KeyCheck, SignInLink, User
from fleet.discovery import find_here
from fleet.models import Kind, Node

from ...models import Runner

SIMULATED_NAME = "Simulated daemon"
LOCAL_NAME = "LM Studio here"


class Command(BaseCommand):
    help = "Brings the database up to date; makes the key check, the first account and the first node."
    requires_system_checks = ["queue"]

    def add_arguments(self, parser):
        parser.add_argument("--simulator-port", type=int, required=True)
        parser.add_argument("--no-simulator", action="store_true")

    def handle(self, *args, **options):
        with contextlib.suppress(DatabaseError):  # a new database has no such table yet
            KeyCheck.verify()  # before anything is changed
        call_command("migrate", verbosity=0, interactive=False)
        KeyCheck.verify()
        Runner.row()
        user = User.objects.filter(is_superuser=True).order_by("pk").first() or User.objects.create_superuser("admin")
        found = find_here()
        if found and not Node.objects.filter(base_url=found).exists():
            Node.objects.create(name=free_name(LOCAL_NAME), base_url=found, kind=Kind.LMSTUDIO)
        simulate = self.simulated_node(options["simulator_port"], options["no_simulator"])
        link = SignInLink.issue(user) if user.last_login is None else None
        self.stdout.write(json.dumps({"simulate": simulate, "found": found, "link": link}))

    def simulated_node(self, port: int, is_unwanted: bool) -> bool:
        """The simulated daemon stands in while there is no real node; its node stays for its history."""
        has_real = Node.objects.filter(is_simulated=False).exists()
        is_wanted = not has_real and not is_unwanted
        node = Node.objects.filter(is_simulated=True).first()
        if not is_wanted:
            if node is not None:
                node.disable()
            return False
        url = f"http://127.0.0.1:{port}"
        if node is None:
            Node.objects.create(name=free_name(SIMULATED_NAME), base_url=url, is_simulated=True)
        else:
            Node.objects.filter(pk=node.pk).update(base_url=url)
            node.enable()
        return True


def free_name(name: str) -> str:
    taken = set(Node.objects.values_list("name", flat=True))
    return next(option for option in (name, *(f"{name} {n}" for n in range(2, 100))) if option not in taken)
