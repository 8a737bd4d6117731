"""A new one-time sign-in link."""

from django.core.management.base import BaseCommand, CommandError

from daemonpulse import program, running
from daemonpulse.models import SignInLink, User


class Command(BaseCommand):
    help = "Prints a link that signs a user in once, within an hour."

    def add_arguments(self, parser):
        parser.add_argument("user", nargs="?", help="user name (default: the first administrator)")
        parser.add_argument("--url", help="where it is reached (default: where it runs)")

    def handle(self, *args, **options):
        name = options["user"]
        users = User.objects.filter(is_active=True)
        user = users.filter(username=name).first() if name else users.filter(is_superuser=True).order_by("pk").first()
        if user is None:
            raise CommandError(
                f"There is no active user “{name}”."
                if name
                else f"There is no administrator yet. Start `{program.line('up')}`."
            )
        where = running.here()
        url = options["url"] or where.url
        self.stdout.write(f"{url.rstrip('/')}/sign-in/{SignInLink.issue(user)}/")
        if not options["url"]:
            self.tell(where)

    def tell(self, where: running.Running) -> None:
        """Beside the link, so that a script reads the link alone."""
        if where.doubt:
            self.stderr.write(where.doubt)
        elif where.others:
            self.stderr.write(f"On another device, open it with {where.for_devices} instead of {where.url}.")
