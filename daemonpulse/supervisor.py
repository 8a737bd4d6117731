"""`daemonpulse up`: one command that prepares the data folder and keeps all processes running.

This process stays small (no Django): it starts the others, starts a crashed one again, and stops them all.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from daemonpulse import lifeline, paths, program, running
from daemonpulse.addresses import is_loopback
from daemonpulse.own_names import facing_address, local_name

EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - compared
STOP_SECONDS = 6.0  # what a process has to end by itself; then it is killed
POLL_SECONDS = 0.1
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 30.0
STEADY_SECONDS = 60.0  # a process that lived this long starts again without delay
START_SECONDS = 60.0
NEARBY_PORTS = 100  # that are tried to suggest one which is free
ALREADY_SAID = 2  # the status of a command that has told a person what is wrong


class CannotStart(Exception):
    """What is wrong and what to do about it, in one message; empty where another process has said it."""


@dataclass
class Child:
    """One process that is kept running. `back_off` doubles with each quick death."""

    name: str
    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen | None = None
    started_at: float = 0.0
    start_again_at: float = 0.0
    back_off: float = FIRST_BACKOFF_SECONDS

    def start(self) -> None:
        told = program.hand_on() | {lifeline.PARENT_VARIABLE: str(os.getpid())}
        environment = os.environ | self.environment | told
        self.started_at = time.monotonic()
        # A session of its own: Ctrl-C reaches this process only, and the whole group can be ended at once.
        self.process = subprocess.Popen(self.argv, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603

    def keep_running(self) -> None:
        """Start it again when it has ended and its back-off is over."""
        now = time.monotonic()
        if self.process is not None and (status := self.process.poll()) is not None:
            self.end_group()
            if now - self.started_at > STEADY_SECONDS:
                self.back_off = FIRST_BACKOFF_SECONDS
            say(f"{self.name} ended (status {status}); starting it again in {self.back_off:g} s.")
            self.process, self.start_again_at = None, now + self.back_off
            self.back_off = min(self.back_off * 2, MAX_BACKOFF_SECONDS)
        if self.process is None and now >= self.start_again_at:
            self.start()

    def ask_to_stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def end_group(self) -> None:
        """Kill what is left of it and of what it started."""
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        except AttributeError:  # no process groups on this platform
            self.process.kill()


def say(text: str) -> None:
    print(text, flush=True)


def main(argv: list[str]) -> int:
    """Run until told to stop; 0 after a clean stop, 2 when it could not start."""
    return started(Supervisor(parse(argv)))


def started(supervisor: "Supervisor") -> int:
    """Run it; 2 when it could not start, which is then said."""
    try:
        return supervisor.run()
    except CannotStart as problem:
        if str(problem):
            print(f"daemonpulse: {problem}", file=sys.stderr)
        return 2


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("daemonpulse up", description="Starts DaemonPulse: web and worker.")
    parser.add_argument("--host", help="address to serve (default: this machine only; with --tls every network)")
    parser.add_argument("--port", type=int, default=running.SERVER_PORT)
    parser.add_argument("--data-dir", help=f"data folder (default: {paths.data_dir()})")
    parser.add_argument("--no-simulator", action="store_true", help="never start the simulated daemon")
    parser.add_argument(
        "--no-worker", action="store_true",
        help="pages, API and devices without execution; `daemonpulse worker` executes, here or on another machine",
    )  # fmt: skip
    parser.add_argument(
        "--start-daemon", action="store_true", help="start the server of this machine's LM Studio when it is down"
    )
    parser.add_argument(
        "--insecure-lan", action="store_true",
        help="serve another address than this machine's own without TLS; anybody on the network can read along",
    )  # fmt: skip
    parser.add_argument(
        "--tls", action="store_true",
        help="serve other devices by TLS, with certificates as `daemonpulse certs` makes them; this machine itself is "
        "served without TLS as well, on 127.0.0.1",
    )  # fmt: skip
    parser.add_argument("--tls-port", type=int, default=running.SERVER_TLS_PORT)
    return with_hosts(parser.parse_args(argv))


def with_hosts(options: argparse.Namespace) -> argparse.Namespace:
    """`tls_host` is what is served by TLS, None without; `host` what is served without: with TLS only this machine,
    unless --insecure-lan wants both."""
    options.tls_host = (options.host or "0.0.0.0") if options.tls else None  # noqa: S104 - wanted
    if options.tls and not options.insecure_lan:
        options.host = "127.0.0.1"
    else:
        options.host = options.host or options.tls_host or "127.0.0.1"
    return options


class Supervisor:
    """1. Check what must be free and writable. 2. Prepare the database in a process of its own.
    3. Start everything and say where it is. 4. Keep it running until a signal. 5. Stop all."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.children: list[Child] = []
        self.is_told = False

    def run(self) -> int:
        check_address(self.options.host, self.options.insecure_lan)  # 1
        self.check_role()
        lock = lock_data_dir(paths.data_dir())
        others = {self.options.tls_port} if self.options.tls else set()
        check_port(self.options.host, self.options.port, others=others)
        names = allowed_hosts(self.options.host)
        if self.options.tls:
            check_port(self.options.tls_host, self.options.tls_port, "--tls-port", others={self.options.port})
            names += certified_names(self.options.tls_host)
        os.environ["DAEMONPULSE_ALLOWED_HOSTS"] = ",".join(dict.fromkeys(names))
        os.environ["DAEMONPULSE_TLS_URLS"] = ",".join(self.tls_urls)
        os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # many threads, little memory (glibc)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.told)
        prepared = self.prepare()  # 2
        self.children = self.plan(prepared)
        with running.noted(self.where, paths.data_dir()):
            for child in self.children:  # 3
                child.start()
            if self.wait_until(self.answers):
                self.welcome(prepared)
            while not self.is_told:  # 4
                for child in self.children:
                    child.keep_running()
                time.sleep(POLL_SECONDS)
            self.stop_all()  # 5
        lock.close()
        return 0

    def check_role(self) -> None:
        if paths.is_client(paths.data_dir()):
            raise CannotStart(
                f"{paths.data_dir()} is a client's data folder. Start it with `{program.line('client')}`, or choose "
                "another one with --data-dir."
            )

    def told(self, number, frame) -> None:
        self.is_told = True

    @property
    def url(self) -> str:
        return f"http://{bracketed(near(self.options.host))}:{self.options.port}"

    @property
    def tls_urls(self) -> list[str]:
        """Where other devices find it, without a slash at the end; empty without TLS."""
        if not self.options.tls:
            return []
        host = self.options.tls_host
        return [
            f"https://{bracketed(name)}:{self.options.tls_port}"
            for name in (names_for_others() if host in EVERYWHERE else [host])
        ]

    @property
    def where(self) -> running.Running:
        """What commands are told of it while it runs."""
        others = self.tls_urls
        if not others and self.options.host in EVERYWHERE:
            others = [f"http://{bracketed(name)}:{self.options.port}" for name in names_for_others()]
        elif not others and not is_loopback(self.options.host):
            others = [self.url]
        return running.Running(self.url, tuple(others), has_tls=bool(self.options.tls))

    def prepare(self) -> dict:
        simulator_port = free_port()
        return prepare(simulator_port, self.options) | {"simulator_port": simulator_port}

    def welcome(self, prepared: dict) -> None:
        welcome(self.url, self.tls_urls, prepared)
        if self.options.no_worker:
            say(f"  Nothing executes prompts here; they wait for `{program.line('worker')}`.\n")

    def plan(self, prepared: dict) -> list[Child]:
        me = [sys.executable, "-m", "daemonpulse"]
        address = ["--host", self.options.host, "--port", str(self.options.port)]
        if self.options.tls:
            address += ["--tls-host", self.options.tls_host, "--tls-port", str(self.options.tls_port)]
        children = [
            Child("web", [*me, "web", *address], {"DAEMONPULSE_PROCESS": "web"}),
            Child("worker", [*me, "worker"], {"DAEMONPULSE_PROCESS": "worker"}),
        ]
        if self.options.no_worker:
            children.pop()
        if prepared["simulate"]:
            port = str(prepared["simulator_port"])
            simulate = [sys.executable, "-m", "fleet.simulator", "--port", port, "--die-with-parent"]
            children.insert(0, Child("simulated daemon", simulate))
        return children

    def answers(self) -> bool:
        addresses = [(near(self.options.host), self.options.port)]
        if self.options.tls:
            addresses.append((near(self.options.tls_host), self.options.tls_port))
        try:
            for address in addresses:
                socket.create_connection(address, 1).close()
        except OSError:
            return False
        return True

    def wait_until(self, is_so: Callable[[], bool]) -> bool:
        until = time.monotonic() + START_SECONDS
        while not self.is_told and time.monotonic() < until:
            if is_so():
                return True
            for child in self.children:
                child.keep_running()
            time.sleep(0.03)
        return False

    def stop_all(self) -> None:
        say("Stopping…")
        for child in self.children:
            child.ask_to_stop()
        until = time.monotonic() + STOP_SECONDS
        while time.monotonic() < until and any(c.process and c.process.poll() is None for c in self.children):
            time.sleep(0.05)
        for child in self.children:
            child.end_group()
            if child.process is not None:
                child.process.wait()


def check_address(host: str, is_allowed: bool) -> None:
    if is_allowed or is_loopback(host):
        return
    raise CannotStart(
        f"{host} can be reached by others, and without TLS they can read along. Add --tls. Or add --insecure-lan if "
        "you trust everybody on that network, or put a TLS proxy in front and keep 127.0.0.1."
    )


def near(host: str) -> str:
    """The address at which this machine reaches what listens on `host`."""
    return "127.0.0.1" if host in EVERYWHERE else host


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def certified_names(host: str) -> list[str]:
    """Makes or renews the certificates where that is due, and returns what they are for, as in a Host header."""
    from daemonpulse import certs  # takes 10 MB

    try:
        return [bracketed(name) for name in certs.ensure([] if host in EVERYWHERE else [host]).names]
    except (certs.CertificateProblem, ValueError) as problem:
        raise CannotStart(str(problem)) from problem


def names_for_others() -> list[str]:
    """Most likely to work first: not every device knows .local names."""
    from daemonpulse import certs

    return list(dict.fromkeys(filter(None, [facing_address(), local_name(), *certs.remembered()])))


def lock_data_dir(folder: Path):
    """The data folder, made if missing, checked to be writable, and held by this process alone."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / "up.lock").open("w")
    except OSError as error:
        raise CannotStart(
            f"The data folder {folder} cannot be written ({error.strerror}). Give it to this user, or choose another "
            "one with --data-dir."
        ) from error
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # no such locks on this platform; a second start then fails on the port
    except OSError as error:
        raise CannotStart(
            f"DaemonPulse is running on {folder} already. Stop it first, or choose another --data-dir."
        ) from error
    return lock


def check_port(host: str, port: int, option: str = "--port", others: Collection[int] = ()) -> None:
    """`others` are ports that are spoken for."""
    if problem := _problem_of(host, port, others):
        nearby = range(port + 1, min(port + 1 + NEARBY_PORTS, 65536))
        free = next((each for each in nearby if not _problem_of(host, each, others)), None)
        instance = f", for instance {option} {free}" if free else ""
        raise CannotStart(
            f"Port {port} on {host} cannot be used ({problem}). Choose another one with {option}{instance}."
        )


def _problem_of(host: str, port: int, others: Collection[int]) -> str:
    if port in others:
        return "plain HTTP and TLS need one each"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
        except OverflowError:
            return "ports end at 65535"
    return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def allowed_hosts(host: str) -> list[str]:
    """The names under which this server may be asked for; anything else is refused (DNS rebinding)."""
    names = ["127.0.0.1", "localhost", "[::1]", bracketed(host)]
    if host in EVERYWHERE:
        own = socket.gethostname()
        names += [own, f"{own}.local"]
        with contextlib.suppress(OSError):
            names += [str(info[4][0]) for info in socket.getaddrinfo(own, None, socket.AF_INET)]
        names.append(facing_address())
    extra = os.environ.get("DAEMONPULSE_ALLOWED_HOSTS", "")
    return list(dict.fromkeys(filter(None, [*names, *extra.split(",")])))


def prepare(simulator_port: int, options: argparse.Namespace) -> dict:
    """Migrations, key, first account, nodes: `daemonpulse prepare` says in one JSON line what it did."""
    argv = [sys.executable, "-m", "daemonpulse", "prepare", "--simulator-port", str(simulator_port)]
    argv += ["--no-simulator"] if options.no_simulator else []
    argv += ["--start-daemon"] if options.start_daemon else []
    return prepared_by(argv)


def prepared_by(argv: list[str]) -> dict:
    """What a command says in the last line of its output, in JSON. Raises CannotStart."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False, start_new_session=True)  # noqa: S603
    if done.returncode == ALREADY_SAID:
        raise CannotStart
    if done.returncode:
        raise CannotStart("It could not be prepared; the message above says why.")
    return json.loads(done.stdout.splitlines()[-1])


def welcome(url: str, tls_urls: list[str], prepared: dict) -> None:
    say(f"\n  DaemonPulse is running at {url}/\n")
    if tls_urls:
        say(f"  Other devices:  {'  or  '.join(f'{each}/' for each in tls_urls)}")
        say(f"  Each has to trust the certificate once, see {tls_urls[0]}/ca/\n")
    if prepared["link"]:
        say(f"  Sign in, once and within the hour:  {url}/sign-in/{prepared['link']}/\n")
    else:
        say(f"  For a new sign-in link:  {program.line('sign-in-link')}\n")
    if prepared["simulate"]:
        if prepared["is_installed"]:
            say("  LM Studio is installed here, but its server is down. Until it runs, a simulated one stands in.")
        else:
            say("  No LM Studio was found on this machine, so a simulated one is there to try things out.")
        say(f"  To use a real one, add it: {url}/nodes/add/\n")
    elif prepared["found_is_new"]:
        say(f"  LM Studio runs on this machine. To use it, add it (one click): {url}/nodes/add/\n")
    if prepared["problem"]:
        say(f"  LM Studio was not started: {prepared['problem']}\n")
    say(f"  Data folder: {paths.data_dir()}    Ctrl-C stops everything.\n")
