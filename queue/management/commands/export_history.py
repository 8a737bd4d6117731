"""A user's prompts as JSON lines."""

import json
import sys
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError

from daemonpulse.models import User

from ...api import described
from ...models import Prompt


class Command(BaseCommand):
    help = "Writes prompts with their answers as JSON lines, oldest first. The file holds plain text: keep it safe."

    def add_arguments(self, parser):
        parser.add_argument("--user", help="only this user's (default: everybody's)")
        parser.add_argument("--output", help="a file, readable by you alone (default: standard output)")

    def handle(self, *args, **options):
        prompts = Prompt.objects.select_related("lane", "node", "owner").order_by("enqueued_at")
        if options["user"]:
            if not User.objects.filter(username=options["user"]).exists():
                raise CommandError(f"There is no user “{options['user']}”.")
            prompts = prompts.filter(owner__username=options["user"])
        if options["output"]:
            path = Path(options["output"])
            path.touch(mode=0o600)
            path.chmod(0o600)
            with path.open("w") as file:
                count = self.write(prompts, file)
            self.stderr.write(f"{count} prompts written to {path}.")
        else:
            self.write(prompts, sys.stdout)

    @staticmethod
    def write(prompts, file) -> int:
        count = 0
        for prompt in prompts.iterator(chunk_size=200):
            file.write(json.dumps(described(prompt) | {"owner": prompt.owner.username}, ensure_ascii=False) + "\n")
            count += 1
        return count
