"""The agent's process: listen, say where, and end cleanly."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from daemonpulse import __version__, program
from daemonpulse.addresses import is_loopback
from fleet.agent import tls
from fleet.agent.keys import AgentKey

THREADS = 16  # one changing command, a few looks, the log streams, telemetry and status


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    certificate: tls.Certificate | None = None

    @property
    def is_open(self) -> bool:
        """Others than this machine can reach it."""
        return not is_loopback(self.host)

    def url(self, port: int) -> str:
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{port}"


@dataclass(frozen=True)
class LMStudioPlace:
    """Where LM Studio's server is started; None = where it was last."""

    port: int | None = None
    bind: str | None = None


def serve(address: Address, key: AgentKey, folder: Path, place: LMStudioPlace) -> int:
    """Serve until SIGTERM or SIGINT, which end the process with 0. Returns 1 when it cannot start."""
    # Imported here: a unit or a key is printed without a reactor.
    from twisted.internet import reactor
    from twisted.internet.error import CannotListenError

    from daemonpulse.lan import AGENT, Announcement
    from fleet.agent.server import listener

    doors = _doors(reactor, key, folder, place)
    reactor.suggestThreadPoolSize(THREADS)
    try:
        tls_options = tls.options(address.certificate) if address.certificate else None
        port = reactor.listenTCP(address.port, listener(doors, tls_options), interface=address.host)
    except CannotListenError as error:
        reason = os.strerror(getattr(error.socketError, "errno", None) or 0)
        print(
            f"daemonpulse agent: port {address.port} on {address.host} cannot be used ({reason}). Choose another one "
            "with --port.",
            file=sys.stderr,
        )
        return 1
    number = port.getHost().port
    properties = {"version": __version__, "tls": "1" if address.certificate else "0"}
    announcement = Announcement(AGENT, address.host, number, properties) if address.is_open else None

    def stop() -> None:
        port.stopListening()
        doors.logs.close_all()
        doors.commands.interrupt()
        if announcement is not None:
            announcement.end()
        sys.stdout.flush()
        # Not reactor.stop(): it would wait for a thread that waits for a model to load, and all is written down.
        os._exit(0)

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: reactor.callFromThread(stop))
    welcome(address.url(number), folder)
    reactor.callWhenRunning(doors.warm_up)
    reactor.run(installSignalHandlers=False)
    return 0


def _doors(reactor, key: AgentKey, folder: Path, place: LMStudioPlace):
    from fleet.agent.commands import Commands
    from fleet.agent.server import Doors
    from fleet.lms.home import Folder
    from fleet.lms.manager import LMStudioManager
    from fleet.telemetry.reader import MachineReader

    def manager(on_line=None) -> LMStudioManager:
        """A new one each time: LM Studio may have been installed or moved since."""
        return LMStudioManager(port=place.port, bind=place.bind, on_line=on_line)

    reader = MachineReader(survey=lambda: manager().survey(), folder=Folder.find().path)
    return Doors(
        reactor,
        Commands(key, folder, manager),
        read_machine=lambda: reader.read().as_json(),
        read_status=lambda: manager().get_status().as_json(),
    )


def welcome(url: str, folder: Path) -> None:
    print(f"DaemonPulse agent listening on {url}", flush=True)
    print(f"To add this machine: `{program.name()} agent key --data-dir {folder}` prints its key.", flush=True)
    print("Give address and key to DaemonPulse on its Fleet page. Ctrl-C ends the agent.", flush=True)
