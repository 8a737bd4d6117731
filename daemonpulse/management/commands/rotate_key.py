"""A new key for everything that is encrypted."""

import os

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from daemonpulse import keys, program, rotation
from daemonpulse.models import KeyCheck
from daemonpulse.supervisor import CannotStart, lock_data_dir


class Command(BaseCommand):
    help = "Re-encrypts the database with a new key. Stop DaemonPulse first. Everybody has to sign in again."

    def add_arguments(self, parser):
        parser.add_argument("--finish", action="store_true", help="finish a rotation that was interrupted")

    def handle(self, *args, **options):
        try:
            lock = lock_data_dir(settings.DATA_DIR)
        except CannotStart as problem:
            raise CommandError(str(problem)) from problem
        with lock:
            if options["finish"]:
                self.finish()
            else:
                self.rotate()

    def rotate(self) -> None:
        if rotation.next_path(settings.DATA_DIR).exists():
            raise CommandError(f"A rotation was interrupted. Run `{program.line('rotate-key', '--finish')}` first.")
        KeyCheck.verify()
        new_key = keys.generate()
        count = rotation.rotate(new_key)
        self.stdout.write(f"{count} values are encrypted with a new key, which is in {keys.path(settings.DATA_DIR)}.")
        if keys.ENVIRONMENT_VARIABLE in os.environ:
            self.stdout.write(
                f"{keys.ENVIRONMENT_VARIABLE} still holds the old key: set it to the new one, or unset it."
            )

    def finish(self) -> None:
        if not rotation.next_path(settings.DATA_DIR).exists():
            raise CommandError("No rotation was interrupted here.")
        if rotation.finish_interrupted():
            self.stdout.write("The new key is in place.")
        else:
            self.stdout.write("Nothing had been written with the new key; the old one stays.")
