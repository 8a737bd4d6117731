"""What must be true before the processes start. `up` runs it first; its last line of output is JSON."""

import contextlib
import json

from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import DatabaseError

from daemonpulse.models import KeyCheck, SignInLink, User
from fleet.discovery import find_here
from fleet.lms.actions import Action
from fleet.lms.cli import LmsError
from fleet.lms.home import Folder
from fleet.lms.manager import LMStudioManager
from fleet.lms.manager import State as Managed
from fleet.models import Command as NodeCommand
from fleet.models import Node

from ...models import Runner

SIMULATED_NAME = "Simulated daemon"


class Command(BaseCommand):
    help = "Brings the database up to date; makes the key check, the first account and the simulated node."
    requires_system_checks = ["queue"]

    def add_arguments(self, parser):
        parser.add_argument("--simulator-port", type=int, required=True)
        parser.add_argument("--no-simulator", action="store_true")
        parser.add_argument("--start-daemon", action="store_true")

    def handle(self, *args, **options):
        with contextlib.suppress(DatabaseError):  # a new database has no such table yet
            KeyCheck.verify()  # before anything is changed
        call_command("migrate", verbosity=0, interactive=False)
        KeyCheck.verify()
        Runner.row()
        user = User.objects.filter(is_superuser=True).order_by("pk").first() or User.objects.create_superuser("admin")
        problem = start_here() if options["start_daemon"] else ""
        start_wanted()
        found = find_here()
        simulate = self.simulated_node(options["simulator_port"], options["no_simulator"] or bool(found))
        link = SignInLink.issue(user) if user.last_login is None else None
        is_new = bool(found) and not Node.objects.filter(base_url=found).exists()
        folder = Folder.find()
        told = {"simulate": simulate, "found": found, "found_is_new": is_new, "problem": problem, "link": link}
        told["is_installed"] = folder.is_installed and folder.is_bootstrapped
        self.stdout.write(json.dumps(told))

    def simulated_node(self, port: int, is_unwanted: bool) -> bool:
        """The simulated daemon stands in while there is no real one; its node stays for its history."""
        has_other = Node.objects.filter(is_demo=False).exists()
        is_wanted = not has_other and not is_unwanted
        node = Node.objects.filter(is_demo=True).first()
        if not is_wanted:
            if node is not None:
                node.disable()
            return False
        url = f"http://127.0.0.1:{port}"
        if node is None:
            Node.objects.create(name=free_name(SIMULATED_NAME), base_url=url, is_simulated=True, is_demo=True)
        else:
            Node.objects.filter(pk=node.pk).update(base_url=url)
            node.enable()
        return True


def start_here() -> str:
    """Start the server of this machine's LM Studio when it is installed but down; returns what went wrong."""
    manager = LMStudioManager()
    try:
        status = manager.get_status()
        if status.state == Managed.SERVER_DOWN:
            manager.ensure_server_running()
        return status.advice if status.state not in {Managed.READY, Managed.SERVER_DOWN} else ""
    except LmsError as error:
        return f"{error} {error.advice}".strip()


def start_wanted() -> None:
    """Have the servers started of the nodes that want it; the worker does it and their pages show how it goes."""
    for node in Node.objects.enabled().filter(starts_with_up=True):
        if node.can_be_managed:
            NodeCommand.ask_once(node, Action.SERVER_START)


def free_name(name: str) -> str:
    taken = set(Node.objects.values_list("name", flat=True))
    return next(option for option in (name, *(f"{name} {n}" for n in range(2, 100))) if option not in taken)
