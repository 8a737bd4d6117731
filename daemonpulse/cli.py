"""The console script `daemonpulse`: every command, with the data folder as an option before it."""

import gc
import os
import sys
from importlib import import_module
from pathlib import Path

SERVING = ("up", "client", "web", "worker", "courier", "agent")
LIGHT = {
    "up": "daemonpulse.supervisor:main",
    "client": "daemonpulse.client:main",
    "simulate": "fleet.simulator.cli:main",
    "agent": "fleet.agent.cli:main",
    "native-host": "fleet.native.cli:native_host",
    "install-native-host": "fleet.native.cli:install",
    "uninstall-native-host": "fleet.native.cli:uninstall",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status. Those of LIGHT start without loading Django."""
    from daemonpulse import help, paths, program

    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "daemonpulse.settings")
    # An agent keeps a folder of its own, and its own option for it.
    if arguments[:1] != ["agent"] and (data_dir := _take_option(arguments, "--data-dir")):
        os.environ[paths.ENVIRONMENT_VARIABLE] = str(Path(data_dir).expanduser().resolve())
    command, arguments = _asked(arguments)
    if command == "help":
        print(help.text())
        return 0
    if command in program.FOR_CLIENTS:  # their data folder is another one, where none is named
        os.environ.setdefault(paths.ROLE_VARIABLE, paths.CLIENT)
    if command not in SERVING:  # a person reads what it says
        os.environ.setdefault("DAEMONPULSE_LOG_LEVEL", "WARNING")
    if command in {"worker", "prepare"} and paths.is_client(paths.data_dir()):
        print(
            f"daemonpulse: {paths.data_dir()} is a client's data folder, and a client executes nothing. Choose a "
            "server's with --data-dir.",
            file=sys.stderr,
        )
        return 2
    if light := LIGHT.get(command.replace("_", "-")):
        module, _, function = light.partition(":")
        return getattr(import_module(module), function)(arguments)
    return _django(["daemonpulse", command.replace("-", "_") if command[:1] != "-" else command, *arguments])


def _asked(arguments: list[str]) -> tuple[str, list[str]]:
    """The command and its arguments. "help" alone is our list; `help COMMAND` is `COMMAND --help`, and
    `help --all` Django's list of everything."""
    command, *rest = arguments or ["help"]
    if command not in {"help", "--help", "-h"}:
        return command, rest
    if rest == ["--all"]:
        return "--help", []
    return (rest[0], ["--help"]) if rest else ("help", [])


def _take_option(arguments: list[str], name: str) -> str | None:
    """Remove `name value` or `name=value` from the arguments and return the value."""
    for index, argument in enumerate(arguments):
        if argument == name and index + 1 < len(arguments):
            del arguments[index]
            return arguments.pop(index)
        if argument.startswith(f"{name}="):
            del arguments[index]
            return argument.removeprefix(f"{name}=")
    return None


# These work, or must work, whatever the key.
UNKEYED = {
    "help",
    "--help",
    "-h",
    "--version",
    "version",
    "check",
    "certs",
    "makemigrations",
    "migrate",
    "collectstatic",
    "prepare",
    "join",
    "rotate_key",  # checks by itself; finishing an interrupted rotation is for when the key does not fit
}


def _django(arguments: list[str]) -> int:
    from daemonpulse import lifeline
    from daemonpulse.keys import KeyProblem

    lifeline.end_with_supervisor()
    try:
        from django.core.management import execute_from_command_line

        if arguments[1] not in UNKEYED and not {"--help", "-h"} & set(arguments[2:]):
            _check_key()
        _spare_the_collector()
        execute_from_command_line(arguments)
    except KeyProblem as problem:
        print(f"daemonpulse: {problem}", file=sys.stderr)
        return 2
    return 0


def _spare_the_collector() -> None:
    """What is loaded by now lives as long as the process: no need to look at it again, and no need for a forked
    process to copy the pages that a collection would touch."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _check_key() -> None:
    """Refuse to work on a database whose key this is not."""
    import django
    from django.db import OperationalError, ProgrammingError

    django.setup()
    from daemonpulse.models import KeyCheck

    try:
        KeyCheck.verify()
    except (OperationalError, ProgrammingError) as error:
        # SQLite's and PostgreSQL's way to say that there is no such table.
        if "no such table" not in str(error) and not isinstance(error, ProgrammingError):
            raise
        from daemonpulse import program

        print(f"daemonpulse: the database is new; `{program.line('up')}` prepares it.", file=sys.stderr)
        raise SystemExit(2) from error
