"""The simulated daemon as a process: how it starts, ends and is told what to be."""

import json
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
import requests

from fleet.simulator.catalogue import MODELS
from fleet.simulator.scenario import ScenarioError, read_scenario
from tests.fleet.simulator_fixture import ROOT, SimulatorProcess

OTTER = "simulated/otter-8b"
COMMAND = [sys.executable, "-m", "fleet.simulator"]


@pytest.fixture
def simulator():
    simulator = SimulatorProcess()
    yield simulator
    if simulator.process.poll() is None:
        simulator.stop()


def greeting(simulator):
    return requests.get(f"{simulator.url}/lmstudio-greeting", timeout=5)


def test_it_ends_at_once_when_asked_and_comes_back_on_the_same_port(simulator):
    simulator.start()
    url = simulator.url
    assert greeting(simulator).json() == {"lmstudio": True, "simulated": True}
    requests.post(f"{url}/api/v1/models/load", json={"model": "simulated/heron-3b"}, timeout=5)
    simulator.restart()
    assert simulator.url == url
    assert simulator.state()["loads"] == 0
    simulator.kill()
    with pytest.raises(requests.exceptions.ConnectionError):
        greeting(simulator)
    simulator.start("--port", url.rpartition(":")[2])
    assert greeting(simulator).ok
    assert simulator.stop() == 0


def test_a_taken_port_is_one_clear_line(simulator):
    simulator.start()
    command = [*COMMAND, "--port", str(simulator.port)]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert second.returncode == 1
    assert second.stdout == ""
    assert second.stderr.count("\n") == 1
    assert str(simulator.port) in second.stderr


def test_a_token_is_required_everywhere_but_at_the_greeting(simulator, monkeypatch):
    monkeypatch.setenv("DAEMONPULSE_SIMULATOR_TOKEN", "sk-lm-abc")
    simulator.start()
    assert greeting(simulator).status_code == 200
    for path in ("/api/v1/models", "/v1/models", "/api/v0/models"):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "sk-lm-abc"}):
            answer = requests.get(simulator.url + path, headers=headers, timeout=5)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        headers = {"authorization": "Bearer sk-lm-abc"}
        assert requests.get(simulator.url + path, headers=headers, timeout=5).status_code == 200


def test_it_does_not_outlive_its_parent(tmp_path):
    parent = textwrap.dedent(f"""
        import subprocess
        child = subprocess.Popen({[*COMMAND, "--port", "0", "--die-with-parent"]!r}, stdout=subprocess.PIPE)
        child.stdout.readline()
        print(child.pid, flush=True)
    """)
    run = subprocess.run([sys.executable, "-c", parent], cwd=ROOT, capture_output=True, text=True, timeout=20)
    child = int(run.stdout)
    for _ in range(60):
        # A zombie is dead as well; in a container nobody may collect it.
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    raise AssertionError("it is still there")


def test_it_needs_no_django():
    check = "import sys, fleet.simulator.server; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, timeout=20).returncode == 0


def test_speed_divides_every_duration(simulator):
    simulator.start("--speed", "100")
    begun = time.monotonic()
    body = {"model": "simulated/tortoise-slow-70b", "input": "[[tokens=60]]"}
    requests.post(f"{simulator.url}/api/v1/chat", json=body, timeout=10)
    assert 0.1 < time.monotonic() - begun < 5  # 15 s at speed 1


def test_a_scenario_changes_adds_and_replaces_models(tmp_path):
    path = tmp_path / "scenario.json"
    new = {"key": "me/vole", "like": "simulated/owl-thinker-14b", "display_name": "Vole", "load_seconds": 9}
    scenario = {"models": [{"key": OTTER, "tokens_per_second": 5}, new]}
    path.write_text(json.dumps(scenario))
    models = {model.key: model for model in read_scenario(str(path))}
    assert len(models) == len(MODELS) + 1
    assert models[OTTER].tokens_per_second == 5
    assert models[OTTER].size_bytes == MODELS[0].size_bytes
    assert (models["me/vole"].thinking, models["me/vole"].load_seconds) == ("native", 9)
    path.write_text(json.dumps({"replace": True, **scenario}))
    assert {model.key for model in read_scenario(str(path))} == {OTTER, "me/vole"}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"models":[{}]}',
        '{"models":[{"key":"a","colour":1}]}',
        '{"models":[{"key":"a","like":"b"}]}',
        '{"models":[{"key":"a","load_seconds":"1"}]}',
        '{"models":[{"key":"a","flaky_kinds":["sulk"]}]}',
    ],
)
def test_a_wrong_scenario_is_named(tmp_path, text):
    path = tmp_path / "scenario.json"
    path.write_text(text)
    with pytest.raises(ScenarioError, match="cannot use the scenario"):
        read_scenario(str(path))


def test_a_scenario_is_served(tmp_path, simulator):
    path = tmp_path / "scenario.json"
    path.write_text(json.dumps({"replace": True, "models": [{"key": "me/vole"}]}))
    simulator.start("--scenario", str(path), "--slots", "2")
    [model] = requests.get(f"{simulator.url}/api/v1/models", timeout=5).json()["models"]
    assert (model["key"], model["publisher"]) == ("me/vole", "me")
    assert simulator.state()["models"]["me/vole"]["speed"]["slots"] == 2
