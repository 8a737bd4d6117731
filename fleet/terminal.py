"""What the fleet's commands in a terminal share."""

import sys
from collections.abc import Callable

from django.core.management.base import BaseCommand, CommandError

from fleet import operations
from fleet.lms.actions import Action
from fleet.models import Command as NodeCommand
from fleet.models import Node


class LightCommand(BaseCommand):
    """A command that `daemonpulse` runs without Django (see daemonpulse/cli.py), listed by `help` all the same."""

    run_main: Callable[[list[str]], int]

    def run_from_argv(self, argv):
        sys.exit(type(self).run_main(argv[2:]))


class NodeActionCommand(BaseCommand):
    """Base of `daemon_start` and its like: the same rows and history as from the page, run in this process."""

    action: Action

    @property
    def help(self):
        return f"{self.action.label}: of a node, here or through its agent. Its output is shown as it comes."

    def add_arguments(self, parser):
        parser.add_argument("node", nargs="?", help="its name; may be left out where only one can be managed")

    def handle(self, *args, **options):
        node = managed_node(options["node"])
        command = NodeCommand.ask(node, self.action)
        shown = 0  # characters of what another process noted
        while command.is_open:
            if not operations.is_busy(node) and operations.run(command, on_line=self.stdout.write):
                break
            operations.wait(command)  # the worker was faster, or is at another command of this node
            self.stdout.write(command.output[shown:], ending="")
            shown = len(command.output)
        if command.state != NodeCommand.State.DONE:
            raise CommandError(command.problem)
        self.stdout.write(f"{node}: done.")


def managed_node(name: str | None) -> Node:
    """The node of this name, or the only one that can be managed. Raises CommandError."""
    managed = [node for node in Node.objects.all() if node.can_be_managed]
    known = ", ".join(node.name for node in managed) or "none"
    if name is None and len(managed) == 1:
        return managed[0]
    if name is None:
        raise CommandError(f"Which node? These can be managed: {known}.")
    node = Node.objects.filter(name=name).first()
    if node is None:
        raise CommandError(f"There is no node “{name}”. These can be managed: {known}.")
    if not node.can_be_managed:
        raise CommandError(f"{node} cannot be managed from here; it needs an agent (docs/agent.md).")
    return node
