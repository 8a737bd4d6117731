"""The lanes as a table."""

import json

from django.core.management.base import BaseCommand

from ...board import lane_statuses

HEAD = ("MODEL", "STATE", "RUNNING", "WAITING", "DONE 24H", "FAILED 24H", "WHY")


class Command(BaseCommand):
    help = "Shows what runs and what waits in each lane, and why."

    def add_arguments(self, parser):
        parser.add_argument("--json", action="store_true")

    def handle(self, *args, **options):
        rows = [self.row(status) for status in lane_statuses(user=None)]
        if options["json"]:
            self.stdout.write(json.dumps({"lanes": rows}, indent=2))
            return
        if not rows:
            self.stdout.write("No lanes yet: nothing was ever queued.")
            return
        table = [HEAD, *(tuple(str(value) for value in row.values()) for row in rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
        for line in table:
            self.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

    @staticmethod
    def row(status) -> dict:
        return {
            "model": status.lane.model,
            "state": status.state,
            "running": status.running,
            "waiting": status.waiting,
            "done": status.done,
            "failed": status.failed,
            "why": f"{status.why} {status.blocker}".strip() if status.waiting else "",
        }
