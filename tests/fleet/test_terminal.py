"""The fleet's commands in a terminal."""

import json

import pytest
from django.core.management import CommandError, call_command

from fleet import operations
from fleet.agent.keys import AgentKey
from fleet.hosts import ThisMachine
from fleet.lms.errors import Problem
from fleet.models import Command, Node, Reading
from tests.fleet.fake_lms_fixture import FakeLMStudio
from tests.fleet.test_pages import gpu, machine

pytestmark = pytest.mark.django_db


def said(capsys, *command, **options) -> str:
    call_command(*command, **options)
    return capsys.readouterr().out


def test_it_adds_a_node_with_everything(capsys, monkeypatch):
    monkeypatch.setenv("DAEMONPULSE_NODE_TOKEN", "sk-secret")
    monkeypatch.setenv("DAEMONPULSE_AGENT_KEY", key := AgentKey.make().to_text())
    out = said(capsys, "node_add", "rig", "192.168.1.20:1234", "--kind", "lmstudio", "--agent-url",
               "http://192.168.1.20:8643", "--tag", "attic", "--tag", "fast", "--start-with-up")  # fmt: skip
    assert out == "rig is added as LM Studio at http://192.168.1.20:1234.\n"
    node = Node.objects.get()
    assert (node.token, node.agent_key, node.tags, node.starts_with_up) == ("sk-secret", key, ["attic", "fast"], True)


def test_it_says_why_a_node_was_not_added():
    Node.objects.create(name="rig", base_url="http://192.168.1.20:1234")
    with pytest.raises(CommandError) as error:
        call_command("node_add", "rig", "192.168.1.20:1234", "--kind", "openai")
    assert "Address: There is a node with this address already." in str(error.value)
    assert "Name:" in str(error.value)
    assert Node.objects.count() == 1


def test_it_says_how_the_fleet_is(capsys):
    assert "daemonpulse node-add" in said(capsys, "fleet_status")
    node = Node.objects.create(
        name="rig", base_url="http://127.0.0.1:9", state="offline", reason="unreachable", token="sk-secret"
    )
    Reading.of(node).keep(machine(gpu(), gpu(1, problem="The GPU is lost.")))
    Reading.of(node).keep_status({"state": "server_down"})
    out = said(capsys, "fleet_status")
    for part in ("rig  offline", "its server is not running", "18.0 GiB of 24.0 GiB", "The GPU is lost."):
        assert part in out, part
    text = said(capsys, "fleet_status", "--json")
    assert "sk-secret" not in text
    (told,) = json.loads(text)["nodes"]
    assert (told["state"], told["latency_seconds"], told["lmstudio"]) == ("offline", None, {"state": "server_down"})
    assert told["gpus"][0]["memory_used_bytes"] == 18 * 2**30


def test_it_reads_gpus_now(capsys, monkeypatch):
    monkeypatch.setattr(ThisMachine, "telemetry", lambda self: machine(gpu(power_watts=None), gpu_note="A note."))
    Node.objects.create(
        name="rig", base_url="http://192.0.2.1:1", agent_url="http://127.0.0.1:9", agent_key=AgentKey.make().to_text()
    )
    out = said(capsys, "gpus")
    assert "GPU 0 NVIDIA GeForce RTX 4090: 18.0 GiB of 24.0 GiB, 94 %, 71 °C, ? W" in out
    assert "A note." in out
    assert "rig\n  Its agent: Nothing answers" in out


@pytest.fixture
def studio(tmp_path, monkeypatch):
    made = FakeLMStudio(tmp_path)
    monkeypatch.setenv("HOME", str(made.home))
    yield made
    made.stop()


@pytest.mark.django_db(transaction=True)
def test_it_starts_stops_and_restarts_the_only_node_there_is(capsys, studio):
    Node.objects.create(name="here", base_url=studio.url)
    Node.objects.create(name="far", base_url="http://192.0.2.1:1")
    assert "Success! Server is now running" in said(capsys, "daemon_start")
    assert studio.state()["server"]
    first = studio.state()["server"]["pid"]
    said(capsys, "daemon_restart", "here")
    assert studio.state()["server"]["pid"] != first
    assert "here: done." in said(capsys, "daemon_stop")
    assert not studio.state()["server"]
    assert list(Command.objects.order_by("asked_at").values_list("action", "state", "user")) == [
        ("server_start", "done", None), ("server_restart", "done", None), ("server_stop", "done", None),
    ]  # fmt: skip


@pytest.mark.django_db(transaction=True)
def test_it_shows_what_the_worker_hears_that_was_faster(capsys, studio, monkeypatch):
    Node.objects.create(name="here", base_url=studio.url)
    run = operations.run

    def run_by_the_worker(command, **here):
        run(Command.objects.get(pk=command.pk))
        return False

    monkeypatch.setattr(operations, "run", run_by_the_worker)
    out = said(capsys, "daemon_start")
    assert out.count("Success! Server is now running") == 1
    assert out.endswith("\nhere: done.\n")


@pytest.mark.django_db(transaction=True)
def test_it_fails_with_what_lm_studio_said(studio):
    Node.objects.create(name="here", base_url=studio.url)
    studio.configure(passkey_mismatch=True)
    with pytest.raises(CommandError, match="do not belong together") as error:
        call_command("daemon_start")
    assert Problem.PASSKEY_MISMATCH.advice in str(error.value)
    assert Command.objects.get().state == "failed"


def test_it_asks_which_node_where_there_are_several_or_none():
    with pytest.raises(CommandError, match="These can be managed: none"):
        call_command("daemon_start")
    for n in (1, 2):
        Node.objects.create(name=f"here {n}", base_url=f"http://127.0.0.1:{n + 10}")
    with pytest.raises(CommandError, match="here 1, here 2"):
        call_command("daemon_start")
    with pytest.raises(CommandError, match="There is no node"):
        call_command("daemon_start", "attic")
    Node.objects.create(name="far", base_url="http://192.0.2.1:1")
    with pytest.raises(CommandError, match="needs an agent"):
        call_command("daemon_start", "far")
    assert not Command.objects.exists()


# `up` prepares the installation


def prepared(capsys, **options) -> dict:
    call_command("prepare", simulator_port=1, **{"no_simulator": False, "start_daemon": False} | options)
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.django_db(transaction=True)
def test_up_starts_the_lm_studio_of_this_machine_only_when_told_to(capsys, studio):
    told = prepared(capsys)
    assert (told["found"], told["simulate"]) == (None, True)  # a simulated one stands in
    assert not studio.state()["server"]
    told = prepared(capsys, start_daemon=True)
    assert (told["found"], told["found_is_new"], told["problem"]) == (studio.url, True, "")
    assert studio.state()["server"]
    assert told["simulate"] is False
    assert list(Node.objects.values_list("name", "is_enabled")) == [("Simulated daemon", False)]  # offered, not added


@pytest.mark.django_db(transaction=True)
def test_up_says_why_it_could_not_start_it(capsys, studio):
    studio.configure(fail={"server start": "Port is taken"})
    assert "Port is taken" in prepared(capsys, start_daemon=True)["problem"]
    studio.lms.unlink()
    assert "lms bootstrap" in prepared(capsys, start_daemon=True)["problem"]


@pytest.mark.django_db(transaction=True)
def test_up_has_the_servers_started_of_nodes_that_want_it_and_of_no_others(capsys, studio):
    wanting = {"starts_with_up": True}
    here = Node.objects.create(name="here", base_url=studio.url, **wanting)
    Node.objects.create(name="off", base_url="http://127.0.0.1:10", is_enabled=False, **wanting)
    Node.objects.create(name="far", base_url="http://192.0.2.1:1", **wanting)
    Node.objects.create(name="other", base_url="http://127.0.0.1:11")
    for _ in range(2):
        prepared(capsys)
    assert list(Command.objects.values_list("node", "action", "state")) == [(here.pk, "server_start", "waiting")]
