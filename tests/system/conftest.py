"""Whole installations: real processes, a real database file, the simulated daemon beside them."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
import requests

from benchmarks.site import ROOT, Site
from tests.conftest import wait_for
from tests.fleet.simulator_fixture import SimulatorProcess

OTTER, HERON, OWL = "simulated/otter-8b", "simulated/heron-3b", "simulated/owl-thinker-14b"


def best_of_three(measure: Callable[[], float], bound: float) -> float:
    """What `measure` gave, taken anew where it missed a promised bound: a busy machine may hold up any one."""
    best = measure()
    for _ in range(2):
        best = best if best <= bound else min(best, measure())
    return best


@cache
def prepared() -> TemporaryDirectory:
    """Where the first data folder of this process is kept, as it was before its first use."""
    return TemporaryDirectory(prefix="daemonpulse-prepared-")


class Installation(Site):
    """A Site with the calls that tests make, all through the product's own doors."""

    cookies: tuple | list = ()  # those of a browser that has signed in

    def __init__(self, daemon):
        super().__init__(daemon, rows=0)
        self.daemon = daemon

    def _prepare(self) -> None:
        """Made once and copied from then on: making a database's tables takes seconds. PostgreSQL has its own."""
        kept = Path(prepared().name) / "data"
        if "DATABASE_URL" not in self.environment and kept.exists():
            shutil.copytree(kept, self.data_dir, dirs_exist_ok=True)
            return
        super()._prepare()
        if "DATABASE_URL" not in self.environment:
            shutil.copytree(self.data_dir, kept)

    def api(self, method: str, path: str, **kwargs) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | kwargs.pop("headers", {})
        return requests.request(method, f"{self.url}/api/v1{path}", headers=headers, timeout=20, **kwargs)

    def submit(self, model: str, text: str, **fields) -> str:
        """Queue a prompt, again and again while the web process is down; returns its id."""
        fields |= {"model": model, "text": text}
        until = time.monotonic() + 60
        while True:
            try:
                answer = self.api("POST", "/prompts", json=fields)
            except requests.ConnectionError:
                assert time.monotonic() < until, "the web process does not come back"
                time.sleep(0.1)
                continue
            assert answer.status_code in {200, 201}, answer.text
            return answer.json()["id"]

    def prompt(self, prompt_id: str) -> dict:
        return self.api("GET", f"/prompts/{prompt_id}").json()

    def wait_for_state(self, prompt_id: str, state: str, seconds: float = 60) -> dict:
        told = {}
        try:
            return wait_for(
                lambda: told.update(self.prompt(prompt_id)) or (told["state"] == state and told), seconds, step=0.1
            )
        except AssertionError as failed:
            raise AssertionError(f"after {seconds} s it is {told}") from failed

    def rows(self, query: str) -> list[tuple]:
        """Read the database file itself (states and counts; its texts are encrypted)."""
        with sqlite3.connect(f"file:{self.data_dir}/daemonpulse.sqlite3?mode=ro", uri=True, timeout=20) as database:
            return database.execute(query).fetchall()

    def states(self) -> dict[str, int]:
        return dict(self.rows("SELECT state, count(*) FROM queue_prompt GROUP BY state"))

    def history(self) -> list[dict]:
        return [json.loads(line) for line in self._manage("export_history").splitlines()]

    def processes(self, name: str) -> list[psutil.Process]:
        """The processes of one kind: "web" or "worker" (with django-q2's pool)."""
        tree = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in tree if p.is_running() and p.status() != "zombie" and name in p.cmdline()[2:5]]

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        argv = [sys.executable, "-m", "daemonpulse", *arguments]
        return subprocess.run(
            argv, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def kill(self):
        """kill -9 the supervisor, and wait until nothing of it is left."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, f"left behind: {[process.cmdline() for process in alive]}"

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            super().stop()


@pytest.fixture
def daemon():
    process = SimulatorProcess().start("--vram-gb", "60", "--speed", "5")
    yield process
    process.stop()


@pytest.fixture
def site(daemon):
    installation = Installation(daemon)
    installation.up()
    yield installation
    installation.stop()
