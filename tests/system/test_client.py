"""A client and its server, both as real processes: what is written while the server is away arrives once."""

import re
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from benchmarks.site import ROOT
from tests.conftest import wait_for
from tests.fleet.simulator_fixture import INSTANT, SimulatorProcess

from .client_fixture import Client
from .conftest import OTTER, Installation, best_of_three

MARKER = "Zebrastreifen im Kirschgarten"


@pytest.fixture(scope="module")
def daemon():
    process = SimulatorProcess().start("--vram-gb", "60")
    process.control("models/*", INSTANT)
    yield process
    process.stop()


@pytest.fixture(scope="module")
def site(daemon):
    installation = Installation(daemon)
    installation.up()
    yield installation
    installation.stop()


@pytest.fixture(scope="module")
def client(site):
    made = Client(site)
    made.start(made.code())
    yield made
    made.stop()


@pytest.fixture
def other(site):
    made = Client(site, "desk", is_prepared=True)
    made.start(made.code())
    yield made
    made.stop()


@pytest.fixture
def twin(site):
    made = Client(site)
    yield made
    made.stop()


def server_ids(site) -> list[str]:
    """In the order of their lane."""
    return [row[0] for row in site.rows("SELECT id FROM queue_prompt ORDER BY position")]


def test_it_delivers_once_and_in_order_what_was_written_while_the_server_was_down(site, client):
    browser = client.browser()

    def seconds_until_gone() -> float:
        if site.process.poll() is not None:
            site.up()
        wait_for(lambda: "server online" in client.header(browser), step=0.2)
        site.kill()
        killed_at = time.monotonic()
        wait_for(lambda: "server gone" in client.header(browser), step=0.2)
        return time.monotonic() - killed_at

    assert best_of_three(seconds_until_gone, 10) <= 10
    written = [client.submit(OTTER, f"{MARKER} {number}") for number in range(60)]
    assert "60 wait here" in client.header(browser)
    assert client.files_with(MARKER) == [], "written prompts can be read in the data folder"

    site.up()
    wait_for(lambda: server_ids(site), step=0.002)
    client.kill()  # in mid-push, or just after one
    client.start()
    wait_for(lambda: client.rows("SELECT count(*) FROM queue_mutation") == [(0,)], step=0.1)

    assert [pk.replace("-", "") for pk in written] == server_ids(site)
    wait_for(lambda: client.states() == {"done": 60}, step=0.2)
    assert site.states() == {"done": 60}
    assert site.rows("SELECT max(attempt_number) FROM queue_prompt") == [(1,)]
    told = {row["id"]: row["answer"] for row in client.history()}
    assert told == {row["id"]: row["answer"] for row in site.history()}
    assert all(told.values())
    wait_for(lambda: "server online" in client.header(browser), step=0.2)
    assert client.files_with(MARKER) == []


def test_two_clients_deliver_each_in_its_order_and_hear_of_each_other(site, client, other):
    before = server_ids(site)
    both = (client, other)
    with ThreadPoolExecutor() as pool:
        mine, theirs = pool.map(
            lambda one: [one.submit(OTTER, f"{one.name} {n}").replace("-", "") for n in range(8)], both
        )
    wait_for(lambda: len(server_ids(site)) == len(before) + 16, step=0.05)
    new = server_ids(site)[len(before) :]
    assert [pk for pk in new if pk in mine] == mine
    assert [pk for pk in new if pk in theirs] == theirs
    for one in both:
        wait_for(lambda one=one: one.states() == {"done": len(new) + len(before)}, step=0.1)
        wait_for(lambda one=one: one.rows("SELECT problem FROM queue_remote") == [("",)])
    assert site.states() == {"done": len(new) + len(before)}
    assert site.rows("SELECT max(attempt_number) FROM queue_prompt") == [(1,)]

    site._manage("devices", "--revoke", "desk")
    wait_for(lambda: other.rows("SELECT problem FROM queue_remote") == [("revoked",)])
    waits, runs = other.submit(OTTER, "Waits"), client.submit(OTTER, "Runs")
    wait_for(lambda: client.api("GET", f"/prompts/{runs}").json()["state"] == "done", step=0.1)
    assert waits.replace("-", "") not in server_ids(site)
    assert other.api("GET", f"/prompts/{waits}").json()["state"] == "queued"


def test_a_client_whose_data_folder_was_copied_delivers_once_from_both(site, client, twin):
    before = server_ids(site)
    site.kill()
    written = [client.submit(OTTER, f"In both {n}").replace("-", "") for n in range(5)]
    client.kill()
    twin.copy(client)
    site.up()
    for one in (client, twin):
        one.start()
    for one in (client, twin):
        wait_for(lambda one=one: one.rows("SELECT count(*) FROM queue_mutation") == [(0,)])
    written += [one.submit(OTTER, "Its own").replace("-", "") for one in (client, twin, client, twin)]
    everything = {"done": len(before) + len(written)}
    for one in (client, twin):
        wait_for(lambda one=one: one.states() == everything, step=0.1)
    assert sorted(server_ids(site)[len(before) :]) == sorted(written)
    assert site.states() == everything
    assert site.rows("SELECT max(attempt_number) FROM queue_prompt") == [(1,)]


def test_it_keeps_what_waits_when_it_is_shut_out_and_delivers_it_when_it_is_paired_again(site, client):
    browser = client.browser()
    wait_for(lambda: "synced" in client.header(browser), step=0.2)
    shut_out = site._manage("devices", "--revoke", "laptop")
    assert "laptop" in shut_out
    wait_for(lambda: "shut out" in client.header(browser), step=0.2)
    prompt_id = client.submit(OTTER, "Written while shut out")
    assert "1 waits here" in client.header(browser)

    paired = client.run("join", "--server", site.url, "--pair", client.code(), "--name", "laptop again")
    assert paired.returncode == 0, paired.stderr
    wait_for(lambda: client.api("GET", f"/prompts/{prompt_id}").json()["state"] == "done", step=0.2)
    assert site.prompt(prompt_id)["state"] == "done"
    wait_for(lambda: "server online" in client.header(browser), step=0.2)


def test_it_refuses_the_other_kind_of_data_folder_and_a_wrong_code(site, client):
    folder = str(client.data_dir)
    assert "a client's data folder" in client.run("up", "--data-dir", folder).stderr
    assert "executes nothing" in client.run("worker", "--data-dir", folder).stderr
    wrong = client.run("join", "--server", site.url, "--pair", "ZZZZ-ZZZZ")
    assert wrong.returncode != 0
    assert "Not paired: This code is wrong" in wrong.stderr
    assert site.run("client", "--port", "1").stderr.strip().endswith("with --data-dir.")


def test_it_serves_pages_without_execution_and_a_worker_alone_executes(site, started):
    site.stop()
    with sqlite3.connect(site.data_dir / "daemonpulse.sqlite3") as database:  # as if it had ended 12 s ago
        database.execute("UPDATE queue_runner SET watched_at = NULL")
    started("up", "--port", str(site.port), "--no-simulator", "--no-worker")
    wait_for(lambda: answers(site), step=0.1)
    browser = requests.Session()
    browser.get(site.run("sign-in-link", "--url", site.url).stdout.strip(), timeout=20)
    says_so = "Nothing executes prompts at the moment"
    assert says_so in browser.get(f"{site.url}/", timeout=20).text
    prompt_id = site.submit(OTTER, "Waits for a worker")
    waits = browser.get(f"{site.url}/prompts/{prompt_id}/", timeout=20).text
    assert re.search(r"when <code>[^<]*daemonpulse worker[^<]*</code> does", waits)

    started("worker")
    site.wait_for_state(prompt_id, "done")
    wait_for(lambda: says_so not in browser.get(f"{site.url}/", timeout=20).text, step=0.2)


@pytest.fixture
def started(site):
    """Start a command on the server's data folder; it ends with the test."""
    processes = []

    def start(*arguments: str) -> None:
        argv = [sys.executable, "-m", "daemonpulse", *arguments]
        processes.append(subprocess.Popen(argv, cwd=ROOT, env=site.environment, stdout=subprocess.DEVNULL))

    yield start
    for process in reversed(processes):
        process.terminate()
        process.wait(60)


def answers(site) -> bool:
    try:
        return requests.get(f"{site.url}/static/daemonpulse/icon.svg", timeout=5).ok
    except requests.RequestException:  # it does not answer yet, or not soon
        return False
