"""`manage.py simulate`: the same as `daemonpulse simulate`."""

import sys

from django.core.management.base import BaseCommand

from fleet.simulator.cli import main


class Command(BaseCommand):
    help = "Runs the simulated daemon. See `daemonpulse simulate --help`."

    def run_from_argv(self, argv):
        sys.exit(main(argv[2:]))
