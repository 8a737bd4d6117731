"""The commands: native-host, which a browser starts, and install-native-host, uninstall-native-host for a person."""

import argparse
import logging
import os
import sys
from pathlib import Path

from daemonpulse import paths
from fleet.native import installation
from fleet.native.installation import InstallError, Target
from fleet.native.manifest import HOST_NAME, Browser
from fleet.native.site import Site, write_link


def native_host(argv: list[str]) -> int:
    """Serve the browser on standard input and output until it closes the port. What a browser passes beside that
    (the extension's origin, --parent-window) is ignored."""
    from fleet.native.host import Host
    from fleet.native.port import Port

    parser = argparse.ArgumentParser(
        prog="daemonpulse native-host", allow_abbrev=False, description=native_host.__doc__
    )
    _add_data_dir(parser)
    arguments, _ = parser.parse_known_args(argv)
    if sys.stdin.isatty():
        print("A browser starts this by itself, once install-native-host has told it to.", file=sys.stderr)
        return 2
    port = Port.take_over()
    logging.basicConfig(stream=sys.stderr, level=os.environ.get("DAEMONPULSE_LOG_LEVEL", "WARNING"))
    return Host(port, _data_dir(arguments)).serve()


def install(argv: list[str]) -> int:
    """Install the host for a browser, and link it to the web server where --url and --token are given."""
    parser = _parser("install-native-host", install.__doc__)
    add = parser.add_argument
    add("--extension-id", action="append", required=True, metavar="ID", help="who may use it; may be given again")
    add("--url", help="where DaemonPulse's web server is, such as http://127.0.0.1:8642")
    add("--token", help="an API token with the scopes read and write; - reads it from standard input")
    add("--replace", action="store_true", help="take the place of another program's manifest of this name")
    return _guarded(_install, parser, argv)


def uninstall(argv: list[str]) -> int:
    """Remove what install-native-host wrote for a browser."""
    return _guarded(_uninstall, _parser("uninstall-native-host", uninstall.__doc__), argv)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"daemonpulse {name}", description=description)
    add = parser.add_argument
    add("--browser", required=True, choices=[str(browser) for browser in Browser])
    add("--name", default=HOST_NAME, help="the name the extension calls (default: %(default)s)")
    add("--user-data-dir", type=Path, metavar="DIR", help="where the browser is started with this option")
    _add_data_dir(parser)
    return parser


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="DaemonPulse's data folder")


def _data_dir(arguments: argparse.Namespace) -> Path:
    return arguments.data_dir.expanduser().resolve() if arguments.data_dir else paths.data_dir()


def _guarded(command, parser: argparse.ArgumentParser, argv: list[str]) -> int:
    """Exit code 0, or 1 after a sentence on standard error; 2 (argparse) for arguments that do not fit."""
    arguments = parser.parse_args(argv)
    browser, data_dir = Browser(arguments.browser), _data_dir(arguments)
    try:
        command(arguments, Target(browser, data_dir, arguments.name, user_data_dir=arguments.user_data_dir))
    except (ValueError, InstallError) as error:
        print(f"daemonpulse: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"daemonpulse: {error.filename}: {error.strerror}. May you write there?", file=sys.stderr)
        return 1
    return 0


def _install(arguments: argparse.Namespace, target: Target) -> None:
    if bool(arguments.url) != bool(arguments.token):
        raise ValueError("--url and --token belong together: the web server's address, and a token for it.")
    token = sys.stdin.readline() if arguments.token == "-" else arguments.token  # noqa: S105
    site = Site.of(arguments.url, token) if arguments.url else None  # before anything is written
    written = installation.install(target, arguments.extension_id, arguments.replace)
    if site:
        written.append(write_link(target.data_dir, site.url, site.token))
    for path in written:
        print(f"wrote {path}")
    if target.registry_key:
        print(f"wrote HKEY_CURRENT_USER\\{target.registry_key}")
    print(f"An extension reaches it as {target.name}; docs/native-messaging.md says how.")


def _uninstall(arguments: argparse.Namespace, target: Target) -> None:
    removed = installation.uninstall(target)
    for path in removed:
        print(f"removed {path}")
    if not removed:
        print(f"Nothing to remove: {target.manifest_path} is not there.")
