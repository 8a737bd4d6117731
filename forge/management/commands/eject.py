"""Unload loaded copies, never one at work."""

from django.core.management.base import BaseCommand, CommandError

from fleet.models import Node
from fleet.texts import clean
from forge import terminal
from forge.api_forms import EjectionForm, Refused, eject, shortened
from forge.models import Model
from forge.places import Copy, copies_of


class Command(BaseCommand):
    help = "Unloads a loaded copy of a model, or all that are idle. What is at work stays, and is named."

    def add_arguments(self, parser):
        parser.add_argument("instance", nargs="?", help="as `daemonpulse models` shows it; or its model's key")
        parser.add_argument("--node", help="its name; may be left out where only one has the copy")
        parser.add_argument(
            "--all", action="store_true", help="every idle copy, on --node or everywhere; pinned ones too"
        )

    def handle(self, *args, **options):
        if bool(options["instance"]) == options["all"]:
            raise CommandError(
                f"Name one copy, or use --all. Loaded: {shortened(map(named, copies(options['node'])))}."
            )
        terminal.look(nodes(options["node"]))
        if options["instance"]:
            self.eject_one({name: options[name] for name in ("instance", "node") if options[name]})
        else:
            self.eject_all(copies(options["node"]))

    def eject_one(self, data: dict) -> None:
        form = terminal.check(EjectionForm(data))
        try:
            terminal.follow(form.save(), self.stdout)
        except Refused as error:
            raise CommandError(error.message) from error

    def eject_all(self, found: list[Copy]) -> None:
        """Each of them, also after one that stayed. Raises CommandError where any did."""
        stayed = [copy for copy in found if not self.is_gone(copy)]
        if stayed:
            raise CommandError(f"{len(stayed)} of {len(found)} stayed loaded: {shortened(map(named, stayed))}.")
        self.stdout.write(f"{len(found)} unloaded." if found else "Nothing is loaded.")

    def is_gone(self, copy: Copy) -> bool:
        try:
            terminal.follow(eject(copy), self.stdout)
        except (Refused, CommandError) as error:
            self.stderr.write(clean(f"{named(copy)}: {error}", terminal.MOST))
            return False
        return True


def nodes(name: str | None):
    """Those that may have something loaded."""
    if name is None:
        return Node.objects.enabled()
    found = Node.objects.filter(name=name)
    if not found:
        known = shortened(Node.objects.values_list("name", flat=True))
        raise CommandError(f"There is no node “{name}”. Known: {known}.")
    return found


def copies(node_name: str | None) -> list[Copy]:
    """What is loaded there, as last told."""
    models = Model.objects.present().filter(node__in=nodes(node_name), instances__isnull=False)
    found = copies_of(list(models.distinct().select_related("node")))
    return sorted((copy for of_model in found.values() for copy in of_model), key=named)


def named(copy: Copy) -> str:
    return f"{copy.instance} on {copy.instance.model.node}"
