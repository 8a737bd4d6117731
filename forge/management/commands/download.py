"""Download a model onto a node, from a terminal or a script."""

import time

from django.core.management.base import BaseCommand, CommandError

from daemonpulse import program
from daemonpulse.templatetags.durations import duration
from fleet.allocation.amounts import amount
from forge import inventory
from forge.downloads import disk
from forge.downloads.downloader import Downloader
from forge.downloads.forms import NODES, DownloadForm
from forge.models import Download

STEP_SECONDS = 0.5
LOOK_SECONDS = 10.0  # at a node that does not answer


class Command(BaseCommand):
    help = (
        "Has a node download a model: owner/name of LM Studio's catalogue, owner/name@quantization, or the address of "
        "a repository. It goes on without this command; --wait follows it and fails if it does."
    )

    def add_arguments(self, parser):
        parser.add_argument("source")
        parser.add_argument("--quantization", default="", help="such as Q4_K_M, of a repository")
        parser.add_argument("--node", help="its name; may be left out where only one can download")
        parser.add_argument("--wait", action="store_true", help="until it is there, with a line on how far it is")

    def handle(self, *args, **options):
        node = options["node"] or self.only_node()
        form = DownloadForm({"source": options["source"], "quantization": options["quantization"], "node": node})
        if not form.is_valid():
            told = [f"{form[name].label if name else ''}: {error}" for name, errors in form.errors.items()
                    for error in errors]  # fmt: skip
            raise CommandError("Nothing was asked for.\n" + "\n".join(told))
        row = form.save(user=None)
        self.stdout.write(f"{row} is asked for. {disk.in_words(row.node, row.total_bytes)}".strip())
        if not options["wait"]:
            self.stdout.write(
                f"It begins within a second where DaemonPulse runs, else once it does: {program.line('up')}"
            )
            return
        try:
            self.wait(row)
        except KeyboardInterrupt:
            raise CommandError("Not waiting any more; what has begun goes on at the node.") from None
        if row.state != Download.State.DONE:
            raise CommandError(row.problem or f"It is {row.state}.")
        self.stdout.write(f"{row.node} has {row.name}.")

    @staticmethod
    def only_node() -> str:
        names = list(NODES["queryset"].values_list("name", flat=True))
        if len(names) != 1:
            raise CommandError(f"Which node? Name one with --node. These can download: {', '.join(names) or 'none'}.")
        return names[0]

    def wait(self, row: Download) -> None:
        """Until it has ended. It is driven from here, so that no worker need run; one that does is no hindrance."""
        downloader, told, looked_at = Downloader(), "", -LOOK_SECONDS
        while row.is_open:
            if not row.node.is_online and time.monotonic() - looked_at > LOOK_SECONDS:
                looked_at = time.monotonic()
                inventory.look(row.node)
            downloader.step()
            time.sleep(STEP_SECONDS)
            row = self.fresh(row)
            if (line := in_words(row)) != told:
                told = line
                self.stdout.write(line)

    @staticmethod
    def fresh(row: Download) -> Download:
        try:
            row.refresh_from_db()
        except Download.DoesNotExist:
            raise CommandError("It was removed from the list, or its node was.") from None
        return row


def in_words(row: Download) -> str:
    """One line on how far it is."""
    if not row.is_at_the_node:
        return f"{row.state}{f': {row.problem}' if row.problem else ''}"
    got = "how far is unknown" if row.percent is None else f"{row.percent} %"
    of = "" if row.total_bytes is None else f" of {amount(row.total_bytes)}"
    speed = f", {amount(int(row.bytes_per_second))} per second" if row.bytes_per_second else ""
    left = f", {duration(row.time_left)} left" if row.time_left is not None else ""
    return f"{'stalled' if row.is_stalled else row.state}: {got}{of}{speed}{left}"
