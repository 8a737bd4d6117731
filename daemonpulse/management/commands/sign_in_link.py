"""A new one-time sign-in link."""

from django.core.management.base import BaseCommand, CommandError

from daemonpulse.models import SignInLink, User


class Command(BaseCommand):
    help = "Prints a link that signs a user in once, within an hour."

    def add_arguments(self, parser):
        parser.add_argument("user", nargs="?", help="user name (default: the first administrator)")
        parser.add_argument("--url", default="http://127.0.0.1:8642", help="where the server is reached")

    def handle(self, *args, **options):
        name = options["user"]
        users = User.objects.filter(is_active=True)
        user = users.filter(username=name).first() if name else users.filter(is_superuser=True).order_by("pk").first()
        if user is None:
            raise CommandError(
                f"There is no active user “{name}”."
                if name
                else "There is no administrator yet. Start `daemonpulse up`."
            )
        self.stdout.write(f"{options['url'].rstrip('/')}/sign-in/{SignInLink.issue(user)}/")
