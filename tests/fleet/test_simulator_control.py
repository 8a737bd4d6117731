"""Fault switches, counters and the odd routes of the simulated daemon (contract §1, §2.0, §12)."""

import time

import pytest
import requests

from tests.fleet.simulator_fixture import read_events

OTTER, HERON, MAGPIE = "simulated/otter-8b", "simulated/heron-3b", "simulated/magpie-flaky-4b"
LOST = {"type": "connection lost"}


def chat(simulator, model=OTTER, timeout=5.0, **body):
    body = {"model": model, "input": "[[tokens=20]]", **body}
    return requests.post(f"{simulator.url}/api/v1/chat", json=body, timeout=timeout)


def stream(simulator, model=OTTER, timeout=5.0):
    body = {"model": model, "input": "[[tokens=20]]", "stream": True}
    with requests.post(f"{simulator.url}/api/v1/chat", json=body, stream=True, timeout=timeout) as response:
        return read_events(response)


def fail(simulator, kind, key=OTTER, **more):
    simulator.control(f"models/{key}", {"fault": {"kind": kind, **more}})


def deltas(events):
    return sum(event["type"] == "message.delta" for event in events)


def settled(simulator, **counts):
    for _ in range(200):
        seen = simulator.state()["models"][OTTER]
        if all(seen[name] == count for name, count in counts.items()):
            return True
        time.sleep(0.01)
    return False


def test_refuse_drops_the_connection_without_an_answer(simulator):
    fail(simulator, "refuse", times=1)
    with pytest.raises(requests.exceptions.ConnectionError):
        chat(simulator)
    assert chat(simulator).status_code == 200


def test_error_500_and_unauthorized_answer_with_their_envelope(simulator):
    fail(simulator, "error_500", times=2)
    for _ in range(2):
        answer = chat(simulator, stream=True)
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "internal_error"
    assert chat(simulator).status_code == 200
    fail(simulator, "unauthorized")
    answer = chat(simulator)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert chat(simulator).status_code == 401
    simulator.control(f"models/{OTTER}", {"fault": None})
    assert chat(simulator).status_code == 200
    assert simulator.state()["models"][OTTER]["failed"] == 4


@pytest.mark.parametrize("tokens", [0, 7, 20])
def test_a_cut_ends_a_stream_after_its_tokens_and_without_an_end(simulator, tokens):
    fail(simulator, "cut", after_tokens=tokens)
    events = stream(simulator)
    assert events[-1] == LOST
    assert deltas(events) == tokens
    assert "chat.end" not in [event["type"] for event in events]
    with pytest.raises(requests.exceptions.ConnectionError):
        chat(simulator)


def test_a_hang_never_answers_and_ends_with_the_client(simulator):
    fail(simulator, "hang", times=1)
    with pytest.raises(requests.exceptions.ReadTimeout):
        chat(simulator, timeout=0.3)
    assert settled(simulator, cancelled=1)


def test_a_hang_in_mid_stream_holds_its_slot_until_the_client_leaves(simulator):
    fail(simulator, "hang", after_tokens=3)
    body = {"model": OTTER, "input": "[[tokens=20]]", "stream": True}
    with requests.post(f"{simulator.url}/api/v1/chat", json=body, stream=True, timeout=5) as response:
        lines = response.iter_lines()
        while b"message.delta" not in next(lines):
            pass
        time.sleep(0.2)
        assert simulator.state()["models"][OTTER]["active"] == 1
    assert settled(simulator, cancelled=1, active=0)


def test_a_load_failure_strikes_the_next_load_only(simulator):
    fail(simulator, "load_failure", times=2)
    answer = requests.post(f"{simulator.url}/api/v1/models/load", json={"model": OTTER}, timeout=5)
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "internal_error"
    events = stream(simulator)
    assert [event["type"] for event in events if "progress" not in event["type"]] == [
        "chat.start", "model_load.start", "error", "chat.end"
    ]  # fmt: skip
    assert events[-1]["result"]["output"] == []
    assert chat(simulator).status_code == 200
    assert simulator.state()["loads"] == 1


def test_a_fault_of_all_models_and_one_of_the_whole_daemon(simulator):
    fail(simulator, "error_500", key="*", times=1)
    assert [chat(simulator, model).status_code for model in (OTTER, HERON, OTTER)] == [500, 500, 200]
    simulator.control("daemon", {"fault": {"kind": "error_500", "times": 2}})
    for path in ("/lmstudio-greeting", "/api/v1/models"):
        assert requests.get(simulator.url + path, timeout=5).status_code == 500
    assert requests.get(f"{simulator.url}/api/v1/models", timeout=5).status_code == 200


def test_a_daemon_that_refuses_or_cuts_still_obeys_its_switches(simulator):
    simulator.control("daemon", {"fault": {"kind": "refuse"}})
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(f"{simulator.url}/lmstudio-greeting", timeout=5)
    assert simulator.state()["fault"]["kind"] == "refuse"
    simulator.control("daemon", {"fault": {"kind": "cut", "after_tokens": 4}})
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(f"{simulator.url}/api/v1/models", timeout=5)
    assert deltas(stream(simulator)) == 4
    simulator.control("daemon", {"fault": None})
    assert requests.get(f"{simulator.url}/lmstudio-greeting", timeout=5).json() == {"lmstudio": True, "simulated": True}


def test_the_flaky_model_fails_every_third_request_each_time_in_another_way(simulator):
    def outcome():
        try:
            events = stream(simulator, MAGPIE)
        except requests.exceptions.ConnectionError:
            return "refused"
        return events[-1]["type"] if events else "error"

    done = "chat.end"
    assert [outcome() for _ in range(9)] == [
        done, done, "error", done, done, "connection lost", done, done, "refused"
    ]  # fmt: skip


def test_counts_tell_what_became_of_every_request(simulator):
    chat(simulator)
    fail(simulator, "error_500")
    chat(simulator)
    counts = simulator.state()["models"][OTTER]
    assert (counts["requests"], counts["completed"], counts["failed"], counts["cancelled"]) == (2, 1, 1, 0)
    requests.get(f"{simulator.url}/lmstudio-greeting", timeout=5)
    assert simulator.state()["requests"] == 3


def test_reset_is_a_new_beginning(simulator):
    fail(simulator, "error_500", key=HERON)
    chat(simulator)
    simulator.control("daemon", {"fault": {"kind": "error_500", "times": 100}})
    simulator.control("reset")
    state = simulator.state()
    assert state["fault"] is None
    assert state["models"][HERON]["fault"] is None
    assert state["models"][OTTER]["requests"] == state["loads"] == state["unloads"] == state["requests"] == 0
    assert state["models"][OTTER]["speed"]["tokens_per_second"] == 48
    assert state["load_log"] == []
    assert state["slot_busy_seconds"] == {}


def test_output_length_can_be_set(simulator):
    simulator.control(f"models/{OTTER}", {"output_tokens": 33})
    answer = chat(simulator, input="hello")
    assert answer.json()["stats"]["total_output_tokens"] == 33


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("models/no/such", {}, 404),
        ("models/*", {"fault": {"kind": "explode"}}, 400),
        ("models/*", {"fault": {"kind": "cut", "after": 3}}, 400),
        ("models/*", {"slots": 0}, 400),
        ("models/*", {"ttft": 1}, 400),
        ("daemon", {"fault": {}}, 400),
    ],
)
def test_a_wrong_switch_is_refused(simulator, path, body, status):
    assert requests.post(f"{simulator.url}/simulator/{path}", json=body, timeout=5).status_code == status


def test_a_web_page_cannot_throw_a_switch(simulator):
    headers = {"content-type": "text/plain"}
    answer = requests.post(f"{simulator.url}/simulator/reset", data="{}", headers=headers, timeout=5)
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("POST", "/v1/models/unload", 200),
        ("DELETE", "/v1/models", 200),
        ("GET", "/api/v1/models/list", 404),
        ("GET", "/api/v1/chat", 404),
    ],
)
def test_a_wrong_path_gets_an_error_whatever_its_status(simulator, method, path, status):
    answer = requests.request(method, simulator.url + path, json={}, timeout=5)
    assert answer.status_code == status
    assert answer.json() == {"error": f"Unexpected endpoint or method. ({method} {path})"}
