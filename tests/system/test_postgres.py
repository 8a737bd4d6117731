"""The same code on PostgreSQL: a real server, woken by LISTEN/NOTIFY."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks.site import free_port
from tests.conftest import find_postgres, wait_for
from tests.system.conftest import HERON, OTTER, Installation

pytestmark = pytest.mark.postgres


@pytest.fixture
def database_url():
    """A server of its own on loopback. PostgreSQL refuses to run as root, so root lends it another user."""
    programs = Path(find_postgres())
    folder = Path(tempfile.mkdtemp(prefix="daemonpulse-postgres-"))
    as_user = {}
    if os.geteuid() == 0:
        user = next(name for name in ("postgres", "nobody") if any(entry.pw_name == name for entry in pwd.getpwall()))
        shutil.chown(folder, user)
        as_user = {"user": user}
    port = free_port()

    def run(*arguments):
        subprocess.run([*map(str, arguments)], check=True, cwd=folder, stdout=subprocess.DEVNULL, **as_user)

    run(programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "daemonpulse")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    run(programs / "pg_ctl", "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start")
    yield f"postgres://daemonpulse@127.0.0.1:{port}/postgres"
    run(programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "-w", "stop")
    shutil.rmtree(folder)


def test_it_runs_prompts_and_wakes_at_once_on_postgres(daemon, database_url, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("DAEMONPULSE_KEY", "a key of the test, from the environment")
    daemon.control("models/*", {"ttft_seconds": 0.02, "tokens_per_second": 300, "load_seconds": 0.1})
    site = Installation(daemon)
    site.up()
    try:
        ids = [site.submit((OTTER, HERON)[n % 2], f"{n} [[tokens=20]]") for n in range(12)]
        for prompt_id in ids:
            assert site.wait_for_state(prompt_id, "done", 30)["answer"]
        started = time.monotonic()
        answer = site.api("POST", "/prompts", json={"model": HERON, "text": "[[tokens=3]]", "stream": True})
        assert "event: done" in answer.text
        assert time.monotonic() - started < 1.5
        running = site.submit(HERON, "[[tokens=5000]]")
        wait_for(lambda: site.prompt(running)["answer"])
        for worker in site.processes("worker"):
            worker.kill()
        daemon.control("models/*", {"tokens_per_second": 20000})
        assert site.wait_for_state(running, "done", 30)["attempts"] == 2
    finally:
        site.stop()
