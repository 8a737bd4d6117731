"""The same code on PostgreSQL: a real server, woken by LISTEN/NOTIFY."""

import time

import pytest

from tests.conftest import wait_for
from tests.queue.postgres import running_server
from tests.system.conftest import HERON, OTTER, Installation, best_of_three

pytestmark = pytest.mark.postgres


@pytest.fixture
def database_url():
    with running_server() as url:
        yield url


def test_it_runs_prompts_and_wakes_at_once_on_postgres(daemon, database_url, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("DAEMONPULSE_KEY", "a key of the test, from the environment")
    daemon.control("models/*", {"ttft_seconds": 0.02, "tokens_per_second": 300, "load_seconds": 0.1})
    site = Installation(daemon)
    site.up()
    try:
        ids = [site.submit((OTTER, HERON)[n % 2], f"{n} [[tokens=20]]") for n in range(12)]
        for prompt_id in ids:
            assert site.wait_for_state(prompt_id, "done")["answer"]

        def seconds_of_a_short_one() -> float:
            started = time.monotonic()
            answer = site.api("POST", "/prompts", json={"model": HERON, "text": "[[tokens=3]]", "stream": True})
            assert "event: done" in answer.text
            return time.monotonic() - started

        assert best_of_three(seconds_of_a_short_one, 1.5) <= 1.5
        daemon.control("models/*", {"tokens_per_second": 20})
        running = site.submit(HERON, "[[tokens=5000]]")
        wait_for(lambda: site.prompt(running)["answer"])
        for worker in site.processes("worker"):
            worker.kill()
        daemon.control("models/*", {"tokens_per_second": 20000})
        assert site.wait_for_state(running, "done")["attempts"] == 2
    finally:
        site.stop()
