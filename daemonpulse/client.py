"""`daemonpulse client`: the same pages without nodes and execution, paired with a server elsewhere.

Like `daemonpulse up` it starts the others and keeps them running: the pages, and the courier that delivers.
"""

import argparse
import sys

from daemonpulse import paths, program, running
from daemonpulse.supervisor import CannotStart, Child, Supervisor, prepared_by, say, started

DATABASE = "daemonpulse.sqlite3"


def main(argv: list[str]) -> int:
    """Run until told to stop; 0 after a clean stop, 2 when it could not start."""
    return started(ClientSupervisor(parse(argv)))


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "daemonpulse client", description="Starts DaemonPulse as a client of a server elsewhere: pages and delivery."
    )
    parser.add_argument("--server", help="the server's address, such as https://box.local:8643")
    parser.add_argument(
        "--pair", metavar="CODE", help="the code that the server shows: Settings → Your devices; needed once"
    )
    parser.add_argument("--port", type=int, default=running.CLIENT_PORT, help="of the pages, on this machine only")
    parser.add_argument("--data-dir", help=f"data folder (default: {paths.data_dir()})")
    parser.add_argument(
        "--name", default="", help="what this computer is called there (default: as before, else its own name)"
    )
    parser.add_argument("--ca", default="", metavar="FILE", help="the CA certificate to trust, and no other")
    parser.add_argument("--fingerprint", default="", metavar="HEX", help="fetch the CA that has this SHA-256")
    options = parser.parse_args(argv)
    if bool(options.server) != bool(options.pair):
        parser.error("--server and --pair belong together; a client that is paired needs neither.")
    options.host, options.insecure_lan, options.tls = "127.0.0.1", False, False
    return options


class ClientSupervisor(Supervisor):
    def check_role(self) -> None:
        folder = paths.data_dir()
        if (folder / DATABASE).exists() and not paths.is_client(folder):
            raise CannotStart(
                f"{folder} is a server's data folder. Start that with `{program.line('up')}`, or choose another one "
                "for the client with --data-dir."
            )

    def prepare(self) -> dict:
        """Migrations, key, first account, pairing: `daemonpulse join` says in one JSON line what it did."""
        paths.make_client(paths.data_dir())
        argv = [sys.executable, "-m", "daemonpulse", "join"]
        for name in ("server", "pair", "name", "ca", "fingerprint"):
            if value := getattr(self.options, name):
                argv += [f"--{name}={value}"]
        return prepared_by(argv)

    def plan(self, prepared: dict) -> list[Child]:
        me = [sys.executable, "-m", "daemonpulse"]
        address = ["--host", self.options.host, "--port", str(self.options.port)]
        return [
            Child("web", [*me, "web", *address], {"DAEMONPULSE_PROCESS": "web"}),
            Child("courier", [*me, "courier"], {"DAEMONPULSE_PROCESS": "courier"}),
        ]

    def welcome(self, prepared: dict) -> None:
        say(f"\n  DaemonPulse's client is running at {self.url}/\n")
        if prepared["link"]:
            say(f"  Sign in, once and within the hour:  {self.url}/sign-in/{prepared['link']}/\n")
        else:
            say(f"  For a new sign-in link:  {program.line('sign-in-link')}\n")
        if server := prepared["server"]:
            say(f"  Its server: {server['name']} at {server['url']}")
            if server["is_sealed_only"]:
                say("  Without TLS: what you write is sealed all the same; that you talk to it can be seen.")
        else:
            pairing = program.line("join", "--server", "https://…", "--pair", "CODE")
            say(f"  It has no server yet. Pair it, on its page or in another terminal:  {pairing}")
        say(f"  Data folder: {paths.data_dir()}    Ctrl-C stops everything.\n")
