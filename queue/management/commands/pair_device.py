"""A new code that pairs one device."""

import io
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from daemonpulse import program, running
from daemonpulse.models import User

from ...devices.pages import is_local
from ...devices.pairing import Offer
from ...models import PairingCode


class Command(BaseCommand):
    help = "Prints a code, a link and a QR code that pair one phone or computer, once, within five minutes."

    def add_arguments(self, parser):
        parser.add_argument("--user", help="whose device it is (default: the first administrator)")
        parser.add_argument("--url", help="where the device reaches the server (default: where it runs)")

    def handle(self, *args, **options):
        if settings.IS_CLIENT:
            raise CommandError(f"{settings.DATA_DIR} is a client's data folder; devices pair with its server.")
        where = running.here()
        offer = Offer(
            origin=origin_of(options["url"] or where.for_devices), code=PairingCode.issue(user_of(options["user"]))[1]
        )
        drawing = io.StringIO()
        offer.qr().terminal(out=drawing, compact=True)
        self.stdout.write(drawing.getvalue())
        self.stdout.write(f"Code, good for five minutes:  {offer.shown}")
        self.stdout.write(f"On a phone, open:             {offer.link}")
        self.stdout.write(f"On a computer, in DaemonPulse’s folder:\n  {offer.line}")
        if is_local(offer.origin):
            self.stdout.write(
                f"Only this computer reaches {offer.origin}. For a phone, start the server with "
                f"`{program.line('up', '--tls')}` and make a code again."
            )
        if where.doubt and not options["url"]:
            self.stderr.write(where.doubt)


def origin_of(url: str) -> str:
    """Scheme, host and port of an address. Raises CommandError for what is none."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise CommandError(f"“{url}” is no address: {error}. Write it like https://192.168.1.20:8643.") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise CommandError(f"“{url}” is no address. Write it like https://192.168.1.20:8643.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}"


def user_of(name: str | None) -> User:
    """The active user of this name, or the first administrator. Raises CommandError when there is none."""
    users = User.objects.filter(is_active=True)
    user = users.filter(username=name).first() if name else users.filter(is_superuser=True).order_by("pk").first()
    if user is None:
        known = ", ".join(users.values_list("username", flat=True)[:10]) or f"none yet; start `{program.line('up')}`"
        raise CommandError(f"There is no {f'active user “{name}”' if name else 'administrator'}. Known users: {known}.")
    return user
