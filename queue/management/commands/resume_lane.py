"""Let a paused lane go on."""

from django.core.management.base import BaseCommand

from .pause_lane import lane_of


class Command(BaseCommand):
    help = "Resumes a model's lane."

    def add_arguments(self, parser):
        parser.add_argument("model")

    def handle(self, *args, **options):
        lane_of(options["model"]).resume()
        self.stdout.write(f"{options['model']} goes on.")
