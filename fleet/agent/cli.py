"""The command line: `daemonpulse agent`, `agent install`, `agent key` and `agent log`."""

import argparse
import getpass
import json
import os
import shlex
import sys
from pathlib import Path

from daemonpulse.addresses import is_address, is_loopback
from fleet.agent import journal, keys, serving, tls, units

DEFAULT_PORT = 8643
COMMANDS = ("serve", "install", "key", "log")


class CannotStart(Exception):
    """What is wrong and what to do about it, in one message."""


def main(argv: list[str]) -> int:
    """Run one command; 0 when it went well, 2 when something was wrong with how it was asked for."""
    command, arguments = (argv[0], argv[1:]) if argv and argv[0] in COMMANDS else ("serve", argv)
    options = parse(command, arguments)
    folder = (options.data_dir or default_folder()).expanduser().resolve()
    try:
        return {"serve": serve, "install": install, "key": show_key, "log": show_log}[command](options, folder)
    except (CannotStart, ValueError) as problem:
        print(f"daemonpulse agent: {problem}", file=sys.stderr)
    except BrokenPipeError:  # `agent log | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as problem:
        print(f"daemonpulse agent: {folder}: {problem.strerror}. Choose another one with --data-dir.", file=sys.stderr)
    return 2


def default_folder() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "daemonpulse-agent"


def parse(command: str, argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        f"daemonpulse agent {command}", description=DESCRIPTIONS[command], epilog=EPILOG if command == "serve" else None
    )
    add = parser.add_argument
    add("--data-dir", type=Path, help=f"where its key and logs are kept (default: {default_folder()})")
    if command in ("serve", "install"):
        add("--host", default="127.0.0.1", help="address to serve (default: this machine only)")
        add("--port", type=int, default=DEFAULT_PORT, help="0 takes any free port (default: %(default)s)")
        add("--cert", type=Path, help="a certificate, as a PEM file with its chain; needs --key")
        add("--key", type=Path, help="its key, as a PEM file")
        add("--insecure-lan", action="store_true", help="serve others without TLS; anybody there can read along")
        add("--lmstudio-port", type=int, help="the port of LM Studio's server (default: as it was last used)")
        add("--lmstudio-bind", metavar="ADDRESS", help="the address it is started on (default: as it was last used)")
    if command != "log":
        add("--tls", action="store_true", help="serve TLS with a certificate of its own, made on the first start")
    if command == "serve":
        add("--die-with-parent", action="store_true", help=argparse.SUPPRESS)
    if command == "install":
        add("--user", default=getpass.getuser(), help="who runs both (default: %(default)s)")
        add("--home", type=Path, default=Path.home(), help="that user's home (default: %(default)s)")
        add("--model", metavar="KEY", help="a model to load at boot")
    if command == "log":
        add("--full", action="store_true", help="the encrypted log, opened: everything that was asked and answered")
    return parser.parse_args(argv)


DESCRIPTIONS = {
    "serve": "Lets a DaemonPulse elsewhere see this machine and manage its LM Studio.",
    "install": "Prints two systemd units; writes nothing.",
    "key": "Prints the key that DaemonPulse needs to use this agent. Keep it secret.",
    "log": "Prints the log of commands, oldest first.",
}
EPILOG = "More: `daemonpulse agent install --help`, `daemonpulse agent key --help`, `daemonpulse agent log --help`."


def serve(options: argparse.Namespace, folder: Path) -> int:
    check(options)
    if options.die_with_parent:
        from daemonpulse.lifeline import end_with_parent

        end_with_parent()
    key = keys.read_or_make(folder)
    certificate = chosen_certificate(options, folder)
    key = key.with_fingerprint(certificate.fingerprint if certificate else "")
    keys.write(folder, key)  # with the fingerprint of the certificate it serves now
    address = serving.Address(options.host, options.port, certificate)
    return serving.serve(address, key, folder, serving.LMStudioPlace(options.lmstudio_port, options.lmstudio_bind))


def check(options: argparse.Namespace) -> None:
    """Raises CannotStart."""
    if bool(options.cert) != bool(options.key) or (options.tls and options.cert):
        raise CannotStart("A certificate needs both --cert and --key; --tls makes one of its own instead.")
    if not 0 <= options.port < 2**16:
        raise CannotStart(f"{options.port} is no port: 0 to 65535.")
    if options.lmstudio_bind is not None and not is_address(options.lmstudio_bind):
        raise CannotStart(f"--lmstudio-bind {options.lmstudio_bind} is no address. Give one such as 0.0.0.0.")
    has_tls = options.tls or options.cert
    if not (has_tls or options.insecure_lan or is_loopback(options.host)):
        raise CannotStart(
            f"{options.host} can be reached by others, and without TLS they can read along. Add --tls, or "
            "--insecure-lan if you trust everybody on that network."
        )


def chosen_certificate(options: argparse.Namespace, folder: Path) -> tls.Certificate | None:
    if options.cert:
        certificate = tls.Certificate(options.cert, options.key)
        for file in (options.cert, options.key):
            if not os.access(file, os.R_OK):
                raise CannotStart(f"{file} cannot be read.")
        tls.options(certificate)
        return certificate
    return tls.own(folder, options.host) if options.tls else None


def show_key(options: argparse.Namespace, folder: Path) -> int:
    key = keys.read_or_make(folder)
    if options.tls:
        key = key.with_fingerprint(tls.own(folder).fingerprint)
    print(key.to_text())
    return 0


def install(options: argparse.Namespace, folder: Path) -> int:
    """Prints; whoever reads it decides."""
    check(options)
    home = options.home.expanduser()
    agent = units.agent_unit(user=options.user, home=str(home), command=_command(options))
    llmster = _llmster_unit(options, home)
    print(f"# 1. Save this as {units.AGENT_FILE}\n\n{agent}")
    print(f"# 2. Save this as {units.LLMSTER_FILE}, unless LM Studio starts by itself already\n\n{llmster}")
    print("# 3. Then start both, now and at each boot:")
    print("#    sudo systemctl daemon-reload && sudo systemctl enable --now lmstudio daemonpulse-agent")
    whose = f" --data-dir {shlex.quote(str(folder))}" if options.data_dir else ""
    print(f"# 4. As {options.user}, `daemonpulse agent key{whose}` prints the key for DaemonPulse's Fleet page.")
    return 0


def _llmster_unit(options: argparse.Namespace, home: Path) -> str:
    """Where LM Studio is, and where its server was last, is known of this user's own alone."""
    from fleet.lms.home import DEFAULT_INTERFACE, DEFAULT_PORT, Folder

    lms, port, bind = home / ".lmstudio" / "bin" / "lms", DEFAULT_PORT, DEFAULT_INTERFACE
    if home == Path.home():
        own = Folder.find()
        lms, port, bind = own.own_lms, own.port, own.interface
    return units.llmster_unit(
        user=options.user, home=str(home), lms=str(lms), port=options.lmstudio_port or port,
        bind=options.lmstudio_bind or bind, model=options.model,
    )  # fmt: skip


def _command(options: argparse.Namespace) -> list[str]:
    """What the unit runs: this Python, and the options that were given."""
    command = [sys.executable, "-m", "fleet.agent", "serve", "--host", options.host, "--port", str(options.port)]
    for name in ("data_dir", "cert", "key"):
        if path := getattr(options, name):
            command += [f"--{name.replace('_', '-')}", str(path.expanduser().resolve())]
    for name in ("lmstudio_port", "lmstudio_bind"):
        if given := getattr(options, name):
            command += [f"--{name.replace('_', '-')}", str(given)]
    return command + [f"--{name.replace('_', '-')}" for name in ("tls", "insecure_lan") if getattr(options, name)]


def show_log(options: argparse.Namespace, folder: Path) -> int:
    if not options.full:
        for line in journal.read_summary(folder):
            print(line)
        return 0
    if not (folder / keys.FILE).exists():
        raise CannotStart(f"{folder} holds no agent's key; it opens the full log.")
    for record in journal.read_payloads(folder, keys.read_or_make(folder)):
        print(json.dumps(record, ensure_ascii=False))
    return 0
