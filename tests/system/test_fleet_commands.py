"""Commands to a machine, each carried out by real processes at both ends."""

from contextlib import closing

import pytest

from tests.conftest import wait_for
from tests.fleet.fake_lms_fixture import FakeLMStudio
from tests.system.conftest import Installation
from tests.system.rigs import Rig, fleet


@pytest.fixture
def rig(tmp_path):
    with closing(Rig(1, tmp_path, None)) as made:
        yield made


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
    wait_for(lambda: site.rows("SELECT state FROM fleet_command") == [("interrupted",)], step=0.2)


def test_up_starts_the_server_of_a_node_that_wants_it(daemon, tmp_path):
    studio = FakeLMStudio(tmp_path)
    site = Installation(daemon)
    site.environment["HOME"] = str(studio.home)
    try:
        added = site.run("node-add", "here", studio.url, "--kind", "lmstudio", "--start-with-up")
        assert added.returncode == 0, added.stderr
        site.up()
        wait_for(lambda: studio.state()["server"])

        def is_ready() -> bool:
            told = fleet(site)["here"]
            return told["state"] == "online" and (told["lmstudio"] or {}).get("state") == "ready"

        wait_for(is_ready, step=0.2)
        stopped = site.run("daemon-stop", "here")
        assert "Stopped the server" in stopped.stdout
    finally:
        site.stop()
        studio.stop()
