"""Certificates for serving other devices by TLS."""

from django.core.management.base import BaseCommand, CommandError

from daemonpulse import certs, program, running


class Command(BaseCommand):
    requires_system_checks = []
    help = "Makes a certificate authority and the server's certificate, or renews the latter, and says where they are."

    def add_arguments(self, parser):
        parser.add_argument(
            "--name", action="append", default=[], dest="names", metavar="NAME",
            help="one more name or address of this server, such as box.example; remembered; may be repeated",
        )  # fmt: skip
        parser.add_argument("--renew", action="store_true", help="renew the server's certificate now")

    def handle(self, *args, **options):
        try:
            made = certs.ensure(options["names"], renew=options["renew"])
        except (certs.CertificateProblem, ValueError) as problem:
            raise CommandError(str(problem)) from problem
        self.tell(made)

    def tell(self, made: certs.Certificates) -> None:
        authority = "is new" if made.is_new_authority else "stays as it was"
        server = "is new" if made.is_new else "is still good"
        self.stdout.write(
            f"The certificate authority {authority}: {certs.ca_path()}\n"
            f"  SHA-256  {certs.grouped(certs.fingerprint() or '')}\n"
            f"  Its key stays on this machine: {certs.ca_key_path()}\n"
            f"The server's certificate {server}, until {made.until:%Y-%m-%d}: {certs.server_path()}\n"
            f"  For  {', '.join(made.names)}\n"
        )
        self.stdout.write(
            f"{next_step()}, compare the fingerprint with the one above, and tell the device to trust the authority."
        )


def next_step() -> str:
    """The beginning of a sentence; it depends on what runs."""
    where, start = running.here(), program.line("up", "--tls")
    if where.has_tls:
        return (
            "DaemonPulse runs with it; to names that are new it answers after a restart. On each device, open "
            f"{where.for_devices}/ca/"
        )
    if where.is_running:
        return (
            f"DaemonPulse runs without TLS. Stop it, and start it with `{start}`. Then open /ca/ there on each device"
        )
    return f"Next: `{start}`. Then open /ca/ there on each device"
