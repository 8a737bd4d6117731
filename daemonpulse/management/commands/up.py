"""`manage.py up`: the same as `daemonpulse up`."""

import sys

from django.core.management.base import BaseCommand

from daemonpulse.supervisor import main


class Command(BaseCommand):
    help = "Starts everything: web and worker. See `daemonpulse up --help`."

    def run_from_argv(self, argv):
        sys.exit(main(argv[2:]))
