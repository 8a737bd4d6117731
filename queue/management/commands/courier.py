"""The courier process of a client (queue/client/courier.py)."""

import asyncio

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from ...client.courier import Courier


class Command(BaseCommand):
    requires_system_checks = []  # `join` runs them; here they would only import every page
    help = "Delivers a client's prompts to its server. `daemonpulse client` starts it."

    def handle(self, *args, **options):
        if not settings.IS_CLIENT:
            raise CommandError(f"{settings.DATA_DIR} is a server's data folder. Choose a client's with --data-dir.")
        asyncio.run(Courier().run())
