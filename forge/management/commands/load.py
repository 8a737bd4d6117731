"""Load a model, from a terminal or a script: the same row and history as from its page, run in this process."""

from django.core.management.base import BaseCommand, CommandError

from fleet.texts import clean
from forge import terminal
from forge.api_forms import Refused, WishForm


class Command(BaseCommand):
    help = (
        "Loads a model. Room is made for it as docs/forge.md says; what does not fit is not tried, unless --anyway. "
        "Ctrl-C calls it off."
    )

    def add_arguments(self, parser):
        terminal.add_options(parser)
        parser.add_argument("--ttl", dest="ttl_seconds", metavar="SECONDS", help="how long it may be idle; 0: it stays")
        parser.add_argument("--identifier", metavar="ID", help="the name of the copy")
        parser.add_argument("--anyway", action="store_true", help="also where it does not seem to fit")
        parser.add_argument("--again", action="store_true", help="another copy, where one is loaded")

    def handle(self, *args, **options):
        data = terminal.wished(options) | {"anyway": options["anyway"], "again": options["again"]}
        terminal.look_first(options["node"])
        node = terminal.check(WishForm(data)).target.node
        terminal.check_answers(node)
        try:
            command = terminal.check(WishForm(data | {"node": node.name})).save()
        except Refused as error:
            raise CommandError(f"{error.message} With --again another copy is loaded.") from error
        self.stdout.write(f"Loading {command.parameters['model']} on {node}.")
        terminal.follow(command, self.stdout)
        self.stdout.write(f"{node}: done, as {clean(str(command.result.get('instance')), terminal.MOST)}.")
