"""Add a node from a terminal: the same form as the page's."""

import getpass
import os
import sys

from django.core.management.base import BaseCommand, CommandError

from fleet.forms import NodeForm
from fleet.models import Kind

TOKEN_VARIABLE, KEY_VARIABLE = "DAEMONPULSE_NODE_TOKEN", "DAEMONPULSE_AGENT_KEY"


class Command(BaseCommand):
    help = (
        "Adds a node. Secrets come from the environment or a prompt, because a command line can be seen by others: "
        f"{TOKEN_VARIABLE}, {KEY_VARIABLE}."
    )

    def add_arguments(self, parser):
        parser.add_argument("name")
        parser.add_argument("address", help="such as http://192.168.1.20:1234")
        parser.add_argument("--kind", choices=Kind.values, default="", help="default: find out")
        parser.add_argument("--ask-token", action="store_true", help="ask for the daemon's token")
        parser.add_argument("--agent-url", default="", help="such as https://192.168.1.20:8643; its key is asked for")
        parser.add_argument("--tag", action="append", default=[], dest="tags")
        parser.add_argument("--notes", default="")
        parser.add_argument("--start-with-up", action="store_true", help="`up` starts its LM Studio server")

    def handle(self, *args, **options):
        form = NodeForm(
            {
                "name": options["name"],
                "base_url": options["address"],
                "kind": options["kind"],
                "token": secret(TOKEN_VARIABLE, "Token: ", options["ask_token"]),
                "agent_url": options["agent_url"],
                "agent_key": secret(KEY_VARIABLE, "Agent's key: ", bool(options["agent_url"])),
                "tags": ", ".join(options["tags"]),
                "notes": options["notes"],
                "starts_with_up": options["start_with_up"],
            }
        )
        if not form.is_valid():
            told = [f"{form[name].label if name in form.fields else ''}: {error}".lstrip(": ")
                    for name, errors in form.errors.items() for error in errors]  # fmt: skip
            raise CommandError("The node was not added.\n" + "\n".join(told))
        node = form.save()
        node.want_look()
        self.stdout.write(f"{node} is added as {node.get_kind_display()} at {node.base_url}.")


def secret(variable: str, question: str, is_wanted: bool) -> str:
    """From the environment, else asked for where somebody sits at a terminal."""
    if value := os.environ.get(variable):
        return value
    return getpass.getpass(question) if is_wanted and sys.stdin.isatty() else ""
