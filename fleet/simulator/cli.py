"""The command line of the simulated daemon."""

import argparse
import os
import signal
import sys
import threading
import time

from fleet.simulator.catalogue import MODELS
from fleet.simulator.scenario import ScenarioError, read_scenario
from fleet.simulator.settings import Settings

TOKEN_FROM = "DAEMONPULSE_SIMULATOR_TOKEN"  # noqa: S105 (a variable's name)
PARENT_CHECK_SECONDS = 0.5


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT, which end the process at once with 0; returns 1 when it cannot start."""
    arguments = parse(argv)
    try:
        models = read_scenario(arguments.scenario) if arguments.scenario else MODELS
    except ScenarioError as error:
        print(f"simulated daemon: {error}", file=sys.stderr)
        return 1
    settings = Settings(
        token=arguments.token or os.environ.get(TOKEN_FROM) or None,
        vram_bytes=int(arguments.vram_gb * 2**30),
        gpus=arguments.gpus,
        overhead_bytes=int(arguments.overhead_mb * 2**20),
        ram_bytes=int(arguments.ram_gb * 2**30),
        slots=arguments.slots,
        jit=not arguments.no_jit,
        auto_evict=not arguments.no_auto_evict,
        ttl_seconds=arguments.ttl,
        speed=arguments.speed,
        models=models,
    )
    if arguments.die_with_parent:
        threading.Thread(target=_die_with_parent, args=(os.getppid(),), daemon=True).start()
    return serve(settings, arguments.host, arguments.port)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fleet.simulator", description="A daemon with scripted models.")
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=_port, default=41834, help="0 takes any free port (default: %(default)s)")
    add("--token", help=f"require this Bearer token; also from the environment as {TOKEN_FROM}")
    add(
        "--vram-gb",
        type=_positive,
        default=24,
        metavar="GB",
        help="memory of the simulated card, or of all of them together (default: 24)",
    )
    add(
        "--gpus",
        type=int,
        choices=range(1, 17),
        default=1,
        metavar="N",
        help="simulated cards, which share that memory in equal parts (default: 1)",
    )
    add(
        "--overhead-mb",
        type=_not_negative,
        default=0,
        metavar="MB",
        help="what every load takes beyond its estimate (default: 0)",
    )
    add(
        "--ram-gb",
        type=_positive,
        default=64,
        metavar="GB",
        help="memory of the simulated machine (default: 64)",
    )
    add(
        "--slots",
        type=int,
        choices=range(1, 1024),
        default=4,
        metavar="N",
        help="parallel slots (default: 4)",
    )
    add("--no-jit", action="store_true", help="serve only models that were loaded by hand")
    add("--no-auto-evict", action="store_true", help="keep earlier just-in-time loads")
    add(
        "--ttl",
        type=_positive,
        default=3600,
        metavar="SECONDS",
        help="idle life of such loads (default: 3600)",
    )
    add(
        "--speed",
        type=_positive,
        default=1.0,
        metavar="FACTOR",
        help="divide every simulated duration by this",
    )
    add("--scenario", metavar="FILE.json", help="models to change, add or serve instead of the scripted ones")
    add("--die-with-parent", action="store_true", help="end when the process that started this one is gone")
    return parser.parse_args(argv)


def serve(settings: Settings, host: str, port: int) -> int:
    # Imported here: the reactor is not needed to say that an argument is wrong.
    from twisted.internet import reactor
    from twisted.internet.error import CannotListenError

    from fleet.simulator.daemon import Daemon
    from fleet.simulator.server import SimulatorFactory

    try:
        listener = reactor.listenTCP(port, SimulatorFactory(Daemon(settings)), interface=host, backlog=512)
    except CannotListenError as error:
        print(f"simulated daemon: cannot listen on {host}:{port}: {error.socketError}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        # There is nothing to save, and a reactor that is busy must not keep anybody waiting.
        signal.signal(number, lambda *_: os._exit(0))
    print(f"simulated daemon listening on http://{host}:{listener.getHost().port}", flush=True)
    reactor.run(installSignalHandlers=False)
    return 0


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError("must be 0 to 65535")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def _die_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(0)
