"""The web process."""

import atexit
from functools import partial
from tempfile import SpooledTemporaryFile

from daphne.cli import CommandLineInterface
from daphne.http_protocol import WebRequest
from django.conf import settings
from django.core.management.base import BaseCommand

from daemonpulse import __version__, running
from daemonpulse.addresses import is_loopback

# A viewer that went away without a word is let go after these seconds; until then its output is buffered.
PING_SECONDS, PING_TIMEOUT_SECONDS = 20, 30


def keep_body_in_memory(request, length) -> None:
    """Twisted puts a body over 100 kB into a file, where it would lie as plain text. What is larger than Django
    takes is refused anyway, and may go there rather than into memory."""
    request.content = SpooledTemporaryFile(settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1024)  # noqa: SIM115 - Twisted closes it


def announce(host: str, port: int, has_tls: bool) -> None:
    """Let others on the network find this server, unless only this machine can reach it anyway."""
    if is_loopback(host):
        return
    from daemonpulse.lan import SERVER, Announcement

    properties = {"version": __version__, "tls": "1" if has_tls else "0"}
    atexit.register(Announcement(SERVER, host, port, properties).end)


def command_line(tls_host: str | None, tls_port: int) -> CommandLineInterface:
    """Daphne's, with a server that also listens for TLS where that is wanted."""
    made = CommandLineInterface()
    if tls_host is not None:
        from daemonpulse.tls import TlsServer

        made.server_class = partial(TlsServer, tls_host=tls_host, tls_port=tls_port)
    return made


class Command(BaseCommand):
    requires_system_checks = []  # `prepare` and `make check` run them; here they would only import every page
    help = "Serves the pages, the API and the sockets (Daphne). `up` starts it."

    def add_arguments(self, parser):
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=running.SERVER_PORT)
        parser.add_argument("--tls-host", help="also serve this address by TLS")
        parser.add_argument("--tls-port", type=int, default=running.SERVER_TLS_PORT)

    def handle(self, *args, **options):
        WebRequest.gotLength = keep_body_in_memory
        if options["tls_host"]:
            announce(options["tls_host"], options["tls_port"], has_tls=True)
        else:
            announce(options["host"], options["port"], settings.IS_BEHIND_TLS)
        command_line(options["tls_host"], options["tls_port"]).run(
            ["--bind", options["host"], "--port", str(options["port"]), "--no-server-name", "--verbosity", "0",
             "--ping-interval", str(PING_SECONDS), "--ping-timeout", str(PING_TIMEOUT_SECONDS),
             "--application-close-timeout", "2", "daemonpulse.asgi:application"]
        )  # fmt: skip
