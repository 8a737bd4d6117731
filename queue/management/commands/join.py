"""What must be true before a client's processes start, and its pairing. `client` runs it first."""

import contextlib
import json

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from daemonpulse.models import KeyCheck, SignInLink, User
from daemonpulse.supervisor import ALREADY_SAID

from ...client.pairing import CannotPair, pair
from ...models import Remote


class Command(BaseCommand):
    help = "Pairs this client with a server; brings its database up to date. Also while the client runs."

    def add_arguments(self, parser):
        parser.add_argument("--server", help="the server's address, such as https://box.local:8643")
        parser.add_argument(
            "--pair", metavar="CODE", help="the code that the server shows: Settings → Your devices → Pair a device"
        )
        parser.add_argument("--name", default="", help="what this computer is called there")
        parser.add_argument("--ca", default="", metavar="FILE", help="the CA certificate to trust, and no other")
        parser.add_argument("--fingerprint", default="", metavar="HEX", help="fetch the CA that has this SHA-256")

    def handle(self, *args, **options):
        if not settings.IS_CLIENT:
            raise CommandError(
                f"{settings.DATA_DIR} is a server's data folder. Choose a client's with --data-dir.",
                returncode=ALREADY_SAID,
            )
        with contextlib.suppress(DatabaseError):  # a new database has no such table yet
            KeyCheck.verify()  # before anything is changed
        call_command("migrate", verbosity=0, interactive=False)
        KeyCheck.verify()
        user = User.objects.filter(is_superuser=True).order_by("pk").first() or User.objects.create_superuser("admin")
        self.join(user, options)
        remote = Remote.current()
        link = SignInLink.issue(user) if user.last_login is None else None
        server = {"name": str(remote), "url": remote.url, "is_sealed_only": remote.is_sealed_only} if remote else None
        told = {"link": link, "server": server}
        self.stdout.write(in_words(server) if self.stdout.isatty() else json.dumps(told))

    def join(self, user: User, options: dict) -> None:
        if not options["pair"]:
            return
        if not options["server"]:
            raise CommandError(
                "Say which server the code is of: --server https://box.local:8643.", returncode=ALREADY_SAID
            )
        try:
            pair(user, options["server"], options["pair"], name=options["name"], ca_file=options["ca"],
                 fingerprint=options["fingerprint"])  # fmt: skip
        except CannotPair as problem:
            raise CommandError(f"Not paired: {problem}", returncode=ALREADY_SAID) from problem


def in_words(server: dict | None) -> str:
    """For a person; `client` reads JSON."""
    if server is None:
        return "This client has no server yet. Name one, and its code: --server https://… --pair CODE"
    return f"Its server is {server['name']} at {server['url']}."
