"""A PostgreSQL server of a test module's own, and Django's default connection on it, in all threads of this process."""

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import dj_database_url
from django.conf import settings
from django.core.management import call_command
from django.db import connections

from tests.conftest import find_postgres


@contextmanager
def running_server():
    """Its URL. PostgreSQL refuses to run as root, so root lends it another user."""
    programs = Path(find_postgres())
    folder = Path(tempfile.mkdtemp(prefix="daemonpulse-postgres-"))
    as_user = {}
    if os.geteuid() == 0:
        user = next(name for name in ("postgres", "nobody") if any(entry.pw_name == name for entry in pwd.getpwall()))
        shutil.chown(folder, user)
        as_user = {"user": user}

    def run(*arguments):
        subprocess.run([*map(str, arguments)], check=True, cwd=folder, stdout=subprocess.DEVNULL, **as_user)

    run(programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "daemonpulse", "--no-sync")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"  # no port that others may take
    run(programs / "pg_ctl", "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start")
    try:
        yield f"postgres://daemonpulse@{quote(str(folder), safe='')}/postgres"
    finally:
        run(programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@contextmanager
def as_default(url: str):
    """The tables are made as the models are; what migrations would fill in is not."""
    before, own = connections.settings["default"], connections["default"]
    parsed = {"default": dj_database_url.parse(url)}
    connections.settings["default"] = connections.configure_settings(parsed)["default"]
    connections["default"] = connections.create_connection("default")
    modules = settings.MIGRATION_MODULES
    settings.MIGRATION_MODULES = dict.fromkeys([app.rpartition(".")[2] for app in settings.INSTALLED_APPS])
    try:
        call_command("migrate", run_syncdb=True, verbosity=0)
        yield
    finally:
        settings.MIGRATION_MODULES = modules
        connections["default"].close()
        connections.settings["default"] = before
        connections["default"] = own
