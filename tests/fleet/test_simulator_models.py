"""Models of the simulated daemon: lists, loads, memory, eviction, idle life, downloads (contract §2, §6)."""

import threading
import time
from contextlib import contextmanager

import pytest
import requests

from tests.conftest import wait_for
from tests.fleet.simulator_fixture import INSTANT, SimulatorProcess

OTTER, HERON, REED = "simulated/otter-8b", "simulated/heron-3b", "text-embedding-simulated-reed"
OWL, TORTOISE = "simulated/owl-thinker-14b", "simulated/tortoise-slow-70b"


SIMULATOR = ("--speed", "10")  # options of the module's simulated daemon


def post(simulator, path, **body):
    return requests.post(f"{simulator.url}/api/v1/{path}", json=body, timeout=60)


def models(simulator):
    answer = requests.get(f"{simulator.url}/api/v1/models", timeout=60).json()
    return {model["key"]: model for model in answer["models"]}


def loaded(simulator):
    return [one["id"] for model in models(simulator).values() for one in model["loaded_instances"]]


def chat(simulator, model, **body):
    return post(simulator, "chat", model=model, input="hello", **body)


@contextmanager
def speaking(simulator, model, ttl=None):
    """A model that gives a long answer, for as long as the block lasts."""
    simulator.control(f"models/{model}", {"tokens_per_second": 1})
    messages = [{"role": "user", "content": "[[tokens=9000]]"}]
    body = {"model": model, "messages": messages, "stream": True} | ({"ttl": ttl} if ttl else {})
    url = f"{simulator.url}/v1/chat/completions"
    with requests.post(url, json=body, stream=True, timeout=60) as answer:
        assert answer.status_code == 200
        wait_for(lambda: simulator.state()["models"][model]["active"] == 1)
        yield


def test_every_model_is_listed_with_the_fields_a_client_needs(simulator):
    listed = models(simulator)
    assert len(listed) == 8
    for model in listed.values():
        assert model["publisher"] == "simulated"
        assert model["size_bytes"] > 100_000_000
        assert model["loaded_instances"] == []
        assert {"name", "bits_per_weight"} == set(model["quantization"])
    assert "capabilities" not in listed[REED]
    assert "architecture" not in listed[REED]
    assert listed[OWL]["capabilities"]["reasoning"]["allowed_options"] == [
        "off",
        "low",
        "medium",
        "high",
        "on",
    ]
    assert "reasoning" not in listed[OTTER]["capabilities"]
    assert listed["simulated/beaver-tools-8b"]["capabilities"]["trained_for_tool_use"] is True


def test_a_load_is_echoed_and_listed_and_an_unload_takes_it_away(simulator):
    body = {"model": OTTER, "context_length": 4096, "flash_attention": False, "echo_load_config": True}
    answer = post(simulator, "models/load", **body).json()
    assert (answer["type"], answer["instance_id"], answer["status"]) == ("llm", OTTER, "loaded")
    assert answer["load_config"]["context_length"] == 4096
    assert answer["load_config"]["flash_attention"] is False
    [instance] = models(simulator)[OTTER]["loaded_instances"]
    assert instance == {"id": OTTER, "config": answer["load_config"]}
    assert instance["config"]["parallel"] == 4
    assert post(simulator, "models/unload", instance_id=OTTER).json() == {"instance_id": OTTER}
    assert loaded(simulator) == []
    assert [entry["how"] for entry in simulator.state()["load_log"]] == ["explicit"]


def test_loading_twice_makes_a_second_instance_with_a_number(simulator):
    ids = [post(simulator, "models/load", model=HERON).json()["instance_id"] for _ in range(3)]
    assert ids == [HERON, f"{HERON}:2", f"{HERON}:3"]
    post(simulator, "models/unload", instance_id=f"{HERON}:2")
    assert post(simulator, "models/load", model=HERON).json()["instance_id"] == f"{HERON}:2"
    assert chat(simulator, f"{HERON}:3").json()["model_instance_id"] == f"{HERON}:3"


def test_an_embedding_instance_has_a_context_length_only(simulator):
    answer = post(simulator, "models/load", model=REED, echo_load_config=True).json()
    assert answer["type"] == "embedding"
    assert answer["load_config"] == {"context_length": 2048}


def test_what_does_not_fit_is_not_loaded(simulator):
    assert post(simulator, "models/load", model=TORTOISE).status_code == 200
    answer = post(simulator, "models/load", model=OTTER)
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "internal_error"
    assert "memory" in answer.json()["error"]["message"]
    # A just-in-time load may not evict what was loaded by hand.
    assert chat(simulator, OTTER).status_code == 500
    assert loaded(simulator) == [TORTOISE]
    # A long context needs memory as well.
    post(simulator, "models/unload", instance_id=TORTOISE)
    assert post(simulator, "models/load", model=TORTOISE, context_length=60_000).status_code == 500


def test_a_jit_load_evicts_earlier_jit_loads_but_not_what_was_loaded_by_hand(simulator):
    post(simulator, "models/load", model=REED)
    chat(simulator, OTTER)
    chat(simulator, HERON)
    assert set(loaded(simulator)) == {REED, HERON}
    state = simulator.state()
    assert (state["evictions"], state["busy_evictions"], state["loads"], state["unloads"]) == (1, 0, 3, 1)
    assert [(entry["model"], entry["how"]) for entry in state["load_log"]] == [
        (REED, "explicit"), (OTTER, "jit"), (HERON, "jit")
    ]  # fmt: skip
    assert abs(state["load_log"][-1]["at"] - time.time()) < 5


def test_requests_that_come_during_a_load_share_it(simulator):
    simulator.control(f"models/{OTTER}", {"load_seconds": 20})  # 2 s at this speed
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(chat(simulator, OTTER).json())) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: simulator.state()["models"][OTTER]["waiting"] == 4)
    assert loaded(simulator) == []  # an instance is listed when it is ready
    for thread in threads:
        thread.join()
    assert simulator.state()["loads"] == 1
    assert simulator.state()["models"][OTTER]["completed"] == 4
    assert sum("model_load_time_seconds" in answer["stats"] for answer in answers) == 1


def test_a_load_goes_on_when_its_client_leaves(simulator):
    simulator.control(f"models/{OTTER}", {"load_seconds": 20})
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(f"{simulator.url}/api/v1/chat", json={"model": OTTER, "input": "hi"}, timeout=0.1)
    wait_for(lambda: loaded(simulator) == [OTTER])
    assert simulator.state()["models"][OTTER]["cancelled"] == 1


def test_unloading_a_busy_instance_ends_its_requests(simulator):
    simulator.control(f"models/{OTTER}", {"tokens_per_second": 1})
    answers = []
    thread = threading.Thread(target=lambda: answers.append(chat(simulator, OTTER)))
    thread.start()
    wait_for(lambda: simulator.state()["models"][OTTER]["active"] == 1)
    post(simulator, "models/unload", instance_id=OTTER)
    thread.join()
    assert answers[0].status_code == 500
    assert simulator.state()["busy_evictions"] == 0


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("models/load", {}, 400, "missing_required_parameter"),
        ("models/load", {"model": OTTER, "parallel": 2}, 400, "unrecognized_keys"),
        ("models/load", {"model": OTTER, "ttl": 2}, 400, "unrecognized_keys"),
        ("models/load", {"model": OTTER, "context_length": 0}, 400, "invalid_value"),
        ("models/load", {"model": OTTER, "context_length": "x"}, 400, "invalid_type"),
        ("models/load", {"model": "no/such"}, 404, "model_not_found"),
        ("models/unload", {}, 400, "missing_required_parameter"),
        ("models/unload", {"instance_id": OTTER}, 404, "model_not_found"),
        ("models/unload", {"instance_id": OTTER, "all": True}, 400, "unrecognized_keys"),
        ("models/download", {"model": "nonsense"}, 404, "model_not_found"),
        ("models/download", {"model": "acme/x", "quantization": "Q4_K_M"}, 400, "invalid_value"),
    ],
)
def test_a_bad_model_request_is_refused_with_its_reason(simulator, path, body, status, code):
    answer = post(simulator, path, **body)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code


def test_an_idle_jit_instance_is_unloaded_and_a_busy_or_explicit_one_is_not(simulator):
    post(simulator, "models/load", model=HERON)
    with speaking(simulator, HERON, ttl=0.5):
        pass
    with speaking(simulator, OTTER, ttl=0.5):
        time.sleep(1)
        assert set(loaded(simulator)) == {HERON, OTTER}
    wait_for(lambda: loaded(simulator) == [HERON])
    assert simulator.state()["unloads"] == 1


@pytest.fixture
def slow_downloads():
    """A simulated daemon of its own, whose downloads can be looked at before they are there."""
    process = SimulatorProcess().start("--speed", "2")
    process.reset()
    yield process
    process.stop()


def test_a_download_reports_progress_and_adds_the_model(slow_downloads):
    simulator = slow_downloads
    job = post(simulator, "models/download", model="https://huggingface.co/acme/vole-1b").json()
    assert job["status"] == "downloading"
    status_url = f"{simulator.url}/api/v1/models/download/status/{job['job_id']}"
    status = requests.get(status_url, timeout=60).json()
    assert 0 <= status["downloaded_bytes"] < status["total_size_bytes"] == job["total_size_bytes"]
    assert status["bytes_per_second"] > 0
    assert "acme/vole-1b" not in models(simulator)
    wait_for(lambda: requests.get(status_url, timeout=60).json()["status"] == "completed")
    assert "acme/vole-1b" in models(simulator)
    simulator.control("models/*", INSTANT)
    assert post(simulator, "models/download", model="acme/vole-1b").json() == {"status": "already_downloaded"}
    assert chat(simulator, "acme/vole-1b").status_code == 200


def test_a_download_can_stall(simulator):
    job = post(simulator, "models/download", model="acme/stalled-1b").json()
    url = f"{simulator.url}/api/v1/models/download/status/{job['job_id']}"
    wait_for(lambda: requests.get(url, timeout=60).json()["bytes_per_second"] == 0)
    time.sleep(0.4)  # all of it would be here by now
    told = requests.get(url, timeout=60).json()
    assert (told["status"], told["bytes_per_second"]) == ("downloading", 0)
    assert told["downloaded_bytes"] == pytest.approx(0.4 * told["total_size_bytes"], rel=0.001)
    assert "estimated_completion" not in told
    assert "acme/stalled-1b" not in models(simulator)


def test_a_download_can_fail_and_an_unknown_job_is_a_404(simulator):
    job = post(simulator, "models/download", model="acme/broken-1b").json()
    url = f"{simulator.url}/api/v1/models/download/status/"
    wait_for(lambda: requests.get(url + job["job_id"], timeout=60).json()["status"] == "failed")
    answer = requests.get(url + "job_0", timeout=60)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "job_not_found"


def test_with_jit_off_only_loaded_models_are_listed_and_served():
    simulator = SimulatorProcess().start("--no-jit", "--speed", "100")
    try:
        answer = chat(simulator, OTTER)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith("No models loaded")
        assert requests.get(f"{simulator.url}/v1/models", timeout=60).json()["data"] == []
        assert requests.get(f"{simulator.url}/api/v0/models", timeout=60).json()["data"] == []
        assert len(models(simulator)) == 8
        post(simulator, "models/load", model=OTTER)
        assert chat(simulator, OTTER).status_code == 200
        assert [one["id"] for one in requests.get(f"{simulator.url}/v1/models", timeout=60).json()["data"]] == [OTTER]
    finally:
        simulator.stop()


def test_without_auto_evict_jit_loads_stay_until_the_card_is_full():
    simulator = SimulatorProcess().start("--no-auto-evict", "--speed", "100", "--vram-gb", "10", "--ttl", "0.5")
    try:
        with speaking(simulator, OTTER), speaking(simulator, HERON):
            assert len(loaded(simulator)) == 2
            assert chat(simulator, "simulated/beaver-tools-8b").status_code == 500
        wait_for(lambda: loaded(simulator) == [])
        assert simulator.state()["evictions"] == 0
    finally:
        simulator.stop()
