"""A fleet of real processes: two machines with agents, unplugged and plugged in again, watched and unwatched."""

import json
import time
from contextlib import closing, contextmanager

import pytest
from websockets.sync.client import connect

from tests.conftest import wait_for
from tests.fleet.agent_fixture import AgentProcess
from tests.fleet.fake_lms_fixture import FakeLMStudio
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.system.conftest import Installation
from tests.system.networks import Machine, can_make_machines


class Rig:
    """A machine with a daemon and an agent. Where namespaces are not allowed it is an address of the loopback, and
    unplugging it is killing both."""

    def __init__(self, number: int, folder, machine: Machine | None):
        self.name, self.machine = f"rig-{number}", machine
        self.address = machine.address if machine else f"127.0.0.{number + 1}"
        self.studio = FakeLMStudio(folder / self.name)
        self.daemon = SimulatorProcess()
        self.agent = AgentProcess(self.studio.home)
        with self._there():
            self.daemon.start("--host", self.address)
            self.agent.start("--host", self.address, "--tls")

    def _there(self):
        return self.machine.entered() if self.machine else closing_nothing()

    def add_to(self, site):
        site.environment["DAEMONPULSE_AGENT_KEY"] = self.agent.key.to_text()
        answer = site.run("node-add", self.name, self.daemon.url, "--agent-url", self.agent.url)
        assert answer.returncode == 0, answer.stderr

    def unplug(self):
        if self.machine:
            self.machine.unplug()
        else:
            self.daemon.kill()
            self.agent.kill()

    def plug(self):
        if self.machine:
            self.machine.plug()
        else:
            self.daemon.start(*self.daemon.args[2:], "--port", str(self.daemon.port))
            self.agent.start(*self.agent.args[2:], "--port", str(self.agent.port))

    def close(self):
        for process in (self.daemon, self.agent):
            process.stop()
        self.studio.stop()
        if self.machine:
            self.machine.close()


@contextmanager
def closing_nothing():
    yield


@pytest.fixture
def rigs(tmp_path):
    made = []
    try:
        for number in (1, 2):
            made.append(Rig(number, tmp_path, Machine(number) if can_make_machines() else None))
        yield made
    finally:
        for rig in made:
            rig.close()


@pytest.fixture
def rig(tmp_path):
    with closing(Rig(1, tmp_path, None)) as made:
        yield made


def fleet(site) -> dict[str, dict]:
    return {node["name"]: node for node in json.loads(site.run("fleet-status", "--json").stdout)["nodes"]}


def state_of(site, rig) -> str:
    return site.rows(f"SELECT state FROM fleet_node WHERE name = '{rig.name}'")[0][0]


def seconds_until(site, rig, state, limit) -> float:
    started = time.monotonic()
    wait_for(lambda: state_of(site, rig) == state, limit, step=0.05)
    return time.monotonic() - started


@contextmanager
def watching(site, path="/ws/nodes/"):
    """A page that shows the fleet is open."""
    headers = {"Cookie": site.session(), "Origin": site.url}
    with connect(site.url.replace("http", "ws") + path, additional_headers=headers, proxy=None) as socket:
        socket.recv(timeout=10)
        yield socket


def test_it_notices_that_machines_go_and_come_back(site, rigs):
    one, two = rigs
    for rig in rigs:
        rig.add_to(site)
    for rig in rigs:
        wait_for(lambda rig=rig: state_of(site, rig) == "online" and fleet(site)[rig.name]["ram_total_bytes"], 20, 0.2)
    told = fleet(site)
    assert all(told[rig.name]["lmstudio"]["state"] == "server_down" for rig in rigs)  # by its agent's lms

    time.sleep(1)
    one.unplug()
    assert seconds_until(site, one, "offline", 20) <= 15
    assert state_of(site, two) == "online"
    one.plug()
    assert seconds_until(site, one, "online", 20) <= 10

    with watching(site):
        time.sleep(2)
        two.unplug()
        assert seconds_until(site, two, "offline", 10) <= 5
        two.plug()
        assert seconds_until(site, two, "online", 10) <= 10
    assert "Its agent" not in str(fleet(site)[one.name]["advice"])


def test_it_asks_each_daemon_once_however_many_pages_are_open(daemon, site):
    wait_for(lambda: site.rows("SELECT count(*) FROM fleet_node WHERE state = 'online'") == [(1,)])
    with watching(site), watching(site), watching(site), watching(site, "/ws/nodes/1/"):
        time.sleep(1)
        before = daemon.state()["requests"]
        time.sleep(6)
        asked = daemon.state()["requests"] - before
    assert 2 <= asked <= 4  # every 2 s


def test_it_runs_commands_through_an_agent_and_both_ends_write_them_down(site, rig):
    rig.add_to(site)
    started = site.run("daemon-start", rig.name)
    assert started.returncode == 0, started.stderr
    assert "Success! Server is now running on port" in started.stdout
    assert rig.studio.state()["server"]
    assert site.run("daemon-stop", rig.name).returncode == 0
    assert not rig.studio.state()["server"]
    rows = site.rows("SELECT action, state FROM fleet_command ORDER BY asked_at")
    assert rows == [("server_start", "done"), ("server_stop", "done")]
    summary = rig.agent.summary()
    ids = [row[0] for row in site.rows("SELECT id FROM fleet_command")]
    assert "server_start" in summary and "server_stop" in summary
    assert all(command_id.replace("-", "") in summary.replace("-", "") for command_id in ids)
    script = (
        "from fleet.models import Command; c = Command.objects.last(); print(c.envelope['id'], c.envelope['nonce'])"
    )
    envelope_id = site.run("shell", "-v0", "-c", script).stdout.split()[0]
    assert envelope_id.replace("-", "") in {command_id.replace("-", "") for command_id in ids}


def test_a_worker_that_is_killed_leaves_no_command_running(site, rig):
    rig.add_to(site)
    rig.studio.configure(hang=["server start"])
    site.run("shell", "-v0", "-c", (
        "from fleet.models import *; Command.ask(Node.objects.get(name='rig-1'), 'server_start')"
    ))  # fmt: skip
    wait_for(lambda: site.rows("SELECT state FROM fleet_command") == [("running",)])
    for worker in site.processes("worker"):
        worker.kill()
    wait_for(lambda: site.rows("SELECT state FROM fleet_command") == [("interrupted",)], 40, 0.2)


def test_up_starts_the_server_of_a_node_that_wants_it(daemon, tmp_path):
    studio = FakeLMStudio(tmp_path)
    site = Installation(daemon)
    site.environment["HOME"] = str(studio.home)
    try:
        added = site.run("node-add", "here", studio.url, "--kind", "lmstudio", "--start-with-up")
        assert added.returncode == 0, added.stderr
        site.up()
        wait_for(lambda: studio.state()["server"], 15)
        wait_for(lambda: fleet(site)["here"]["state"] == "online", 15, 0.2)
        assert fleet(site)["here"]["lmstudio"]["state"] == "ready"
        stopped = site.run("daemon-stop", "here")
        assert "Stopped the server" in stopped.stdout
    finally:
        site.stop()
        studio.stop()
