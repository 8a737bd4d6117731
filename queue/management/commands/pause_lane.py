"""Start no more prompts of a model."""

from django.core.management.base import BaseCommand, CommandError

from ...models import Lane


def lane_of(model: str) -> Lane:
    """The lane of a model. Raises CommandError that lists the lanes there are."""
    lane = Lane.objects.filter(model=model).first()
    if lane is None:
        known = ", ".join(Lane.objects.values_list("model", flat=True)) or "none yet"
        raise CommandError(f"There is no lane for “{model}”. Lanes: {known}.")
    return lane


class Command(BaseCommand):
    help = "Pauses a model's lane: what runs goes on, nothing new starts."

    def add_arguments(self, parser):
        parser.add_argument("model")

    def handle(self, *args, **options):
        lane_of(options["model"]).pause()
        self.stdout.write(f"{options['model']} is paused.")
