"""The WebSocket namespaces and the cards of the simulated daemon (contract §9, §10)."""

import json
import time
from contextlib import contextmanager

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from fleet.simulator.cards import Split, spread
from tests.conftest import wait_for
from tests.fleet.simulator_fixture import SimulatorProcess

OTTER, HERON, REED = "simulated/otter-8b", "simulated/heron-3b", "text-embedding-simulated-reed"
OWL = "simulated/owl-thinker-14b"
GIB = 2**30
TOKEN = "sk-lm-abcdefgh:01234567890123456789"
GUEST = {"authVersion": 1, "clientIdentifier": "guest:test", "clientPasskey": "secret"}


SIMULATOR = ("--gpus", "2", "--vram-gb", "20")  # options of the module's simulated daemon


@contextmanager
def socket(simulator, namespace="llm", greeting=GUEST):
    with connect(f"ws{simulator.url[4:]}/{namespace}", proxy=None) as connection:
        connection.send(json.dumps(greeting))
        yield connection


@contextmanager
def line(simulator, namespace="llm"):
    with socket(simulator, namespace) as connection:
        assert hear(connection) == {"success": True}
        yield connection


def hear(connection):
    return json.loads(connection.recv(timeout=5))


def say(connection, **frame):
    connection.send(json.dumps(frame))
    return hear(connection)


def call(connection, endpoint, **more):
    return say(connection, type="rpcCall", endpoint=endpoint, callId=7, **more)


def load(connection, model=OTTER, fields=None, **more):
    """All frames of one load, the last one being the channel's end."""
    rows = [{"key": key, "value": value} for key, value in (fields or {}).items()]
    stack = {"layers": [{"layerName": "apiOverride", "config": {"fields": rows}}]}
    parameter = {"modelKey": model, "loadConfigStack": stack, **more}
    create = {"type": "channelCreate", "endpoint": "loadModel", "channelId": 3, "creationParameter": parameter}
    frames = [say(connection, **create)]
    while frames[-1]["type"] == "channelSend":
        frames.append(hear(connection))
    return frames


def split(**config):
    return {"load.gpuSplitConfig": {"disabledGpus": [], "priority": [], "customRatio": []} | config}


def landed(simulator):
    return {name: [part / GIB for part in parts] for name, parts in simulator.state()["landed"].items()}


# The handshake


def test_a_guest_keeps_the_passkey_of_its_first_connection(simulator):
    for greeting in (GUEST, GUEST):
        with socket(simulator, greeting=greeting) as connection:
            assert hear(connection) == {"success": True}
    for greeting in (GUEST | {"clientPasskey": "other"}, GUEST | {"authVersion": 2}, {}):
        with socket(simulator, greeting=greeting) as connection:
            assert hear(connection)["success"] is False
            with pytest.raises(ConnectionClosed):
                hear(connection)


def test_with_a_token_only_its_two_halves_open_the_socket():
    simulator = SimulatorProcess().start("--token", TOKEN)
    halves = {"authVersion": 1, "clientIdentifier": "abcdefgh", "clientPasskey": TOKEN[-20:]}
    try:
        with socket(simulator, greeting=halves) as connection:
            assert hear(connection) == {"success": True}
        for greeting in (GUEST, halves | {"clientPasskey": "x" * 20}):
            with socket(simulator, greeting=greeting) as connection:
                assert hear(connection)["success"] is False
    finally:
        simulator.stop()


def test_other_paths_and_faults_of_the_daemon_answer_as_http(simulator):
    with pytest.raises(InvalidStatus) as caught, socket(simulator, "nonsense"):
        pass
    assert caught.value.response.status_code == 200
    assert requests.get(f"{simulator.url}/llm", timeout=5).json()["error"].startswith("Unexpected endpoint")
    simulator.control("daemon", {"fault": {"kind": "error_500"}})
    with pytest.raises(InvalidStatus) as caught, socket(simulator):
        pass
    assert caught.value.response.status_code == 500


# Calls


def test_what_it_does_not_understand_is_answered_without_an_id(simulator):
    with line(simulator) as connection:
        for frame in (
            {"type": "rpcCall", "endpoint": "version", "callId": 1},  # of another namespace
            {"type": "rpcCall", "endpoint": "listLoaded", "callId": 1, "parameter": {}},
            {"type": "rpcCall", "endpoint": "unloadModel", "callId": 1, "parameter": {"identifier": 5}},
            {"type": "channelCreate", "endpoint": "nonsense", "channelId": 1},
            {
                "type": "channelCreate",
                "endpoint": "loadModel",
                "channelId": 1,
                "creationParameter": {"modelKey": OTTER},
            },
            {"type": "nonsense"},
        ):
            answer = say(connection, **frame)
            assert set(answer) == {"type", "warning"}
            assert answer["type"] == "communicationWarning"
        connection.send("no JSON")
        assert hear(connection)["type"] == "communicationWarning"
        assert say(connection, type="keepAlive") == {"type": "keepAliveAck"}
    with line(simulator, "system") as connection:
        assert set(call(connection, "version")["result"]) == {"version", "build"}


def test_a_load_tells_its_progress_and_is_listed_until_it_is_unloaded(simulator):
    simulator.control("models/*", {"load_seconds": 0.1})
    fields = {"llm.load.contextLength": 4096, "llm.load.numParallelSessions": 2, "llm.load.unknown": 1}
    with line(simulator) as connection:
        frames = load(connection, fields=fields, identifier="mine", ttlMs=60_000)
        packets = [frame["message"] for frame in frames[:-1]]
        assert frames[-1] == {"type": "channelClose", "channelId": 3}
        assert packets[0]["type"] == "resolved"
        progress = [packet["progress"] for packet in packets[1:-1]]
        assert (progress, progress[-1], len(progress)) == (sorted(progress), 1.0, 20)
        assert (packets[-1]["type"], packets[-1]["info"]["identifier"]) == ("success", "mine")
        [info] = call(connection, "listLoaded")["result"]
        assert (info["modelKey"], info["contextLength"], info["ttlMs"]) == (OTTER, 4096, 60_000)
        models = requests.get(f"{simulator.url}/api/v1/models", timeout=5).json()["models"]
        [instance] = [one for model in models for one in model["loaded_instances"]]
        assert (instance["id"], instance["config"]["parallel"]) == ("mine", 2)
        assert load(connection, identifier="mine")[-1]["type"] == "channelError"
        assert call(connection, "unloadModel", parameter={"identifier": "mine"}) == {"type": "rpcResult", "callId": 7}
        error = call(connection, "unloadModel", parameter={"identifier": "mine"})["error"]
        assert error["displayData"]["code"] == "generic.identifierNotFound"
    received = simulator.state()["socket_loads"][0]
    assert received == {
        "namespace": "llm", "model": OTTER, "fields": fields, "identifier": "mine", "ttlMs": 60_000,
    }  # fmt: skip


def test_a_copy_tells_what_it_does_and_when_it_was_used(simulator):
    def state(specifier, throws=False):
        parameter = {"specifier": specifier, "throwIfNotFound": throws}
        return call(connection, "getInstanceProcessingState", parameter=parameter)

    named = {"type": "query", "query": {"identifier": OTTER}}
    with line(simulator) as connection:
        assert state(named) == {"type": "rpcResult", "callId": 7}
        assert state(named, throws=True)["error"]["displayData"]["code"] == "generic.identifierNotFound"
        assert state({"type": "nonsense"})["type"] == "rpcResult"
        load(connection)
        [info] = call(connection, "listLoaded")["result"]
        assert info["lastUsedTime"] is None
        reference = {"type": "instanceReference", "instanceReference": info["instanceReference"]}
        for specifier in (named, reference):
            assert state(specifier)["result"] == {"status": "idle", "queued": 0}
        assert state({"type": "nonsense"})["type"] == "communicationWarning"
        requests.post(f"{simulator.url}/api/v1/chat", json={"model": OTTER, "input": "hello"}, timeout=5)
        [info] = call(connection, "listLoaded")["result"]
        assert abs(info["lastUsedTime"] / 1000 - time.time()) < 5


def test_a_copy_has_the_slots_it_was_loaded_with(simulator):
    simulator.control("models/*", {"tokens_per_second": 1})
    with line(simulator) as connection:
        load(connection, fields={"llm.load.numParallelSessions": 1})
    body = {"model": OTTER, "input": "hello", "stream": True}
    asked = [requests.post(f"{simulator.url}/api/v1/chat", json=body, stream=True, timeout=5) for _ in range(2)]
    assert wait_for(lambda: simulator.state()["models"][OTTER]["waiting"] == 1)
    assert simulator.state()["models"][OTTER]["active"] == 1
    for answer in asked:
        answer.close()


def test_a_load_that_cannot_be_ends_with_its_reason(simulator):
    simulator.control(f"models/{HERON}", {"fault": {"kind": "load_failure", "times": 1}})
    with line(simulator) as connection:
        assert "simulated load failure" in load(connection, HERON)[-1]["error"]["title"]
        assert "insufficient memory" in load(connection, "simulated/tortoise-slow-70b")[-1]["error"]["title"]
        assert load(connection, "no/such")[-1]["error"]["displayData"]["code"] == "generic.pathNotFound"
        assert load(connection, REED)[-1]["error"]["displayData"]["code"] == "generic.domainMismatch"
    with line(simulator, "embedding") as connection:
        assert load(connection, REED)[-2]["message"]["info"]["identifier"] == REED


def test_a_load_that_is_called_off_ends_without_success_and_leaves_nothing(simulator):
    simulator.control("models/*", {"load_seconds": 600})  # its first progress comes late
    with line(simulator) as connection:
        connection.send(json.dumps({"type": "channelSend", "channelId": 9, "message": {"type": "cancel"}}))
        parameter = {"modelKey": OTTER, "loadConfigStack": {"layers": []}}
        create = {"type": "channelCreate", "endpoint": "loadModel", "channelId": 3, "creationParameter": parameter}
        assert say(connection, **create)["message"]["type"] == "resolved"
        cancel = {"type": "channelSend", "channelId": 3, "message": {"type": "cancel"}}
        assert say(connection, **cancel) == {"type": "channelClose", "channelId": 3}
    state = simulator.state()
    assert (state["landed"], state["loads"], state["unloads"]) == ({}, 0, 0)


def test_an_estimate_counts_the_part_on_cards(simulator):
    fields = [
        {"key": "llm.load.contextLength", "value": 1000},
        {"key": "llm.load.llama.acceleration.offloadRatio", "value": 0.5},
    ]
    stack = {"layers": [{"layerName": "apiOverride", "config": {"fields": fields}}]}
    with line(simulator) as connection:
        parameter = {"modelKey": OTTER, "loadConfigStack": stack}
        result = call(connection, "estimateModelUsage", parameter=parameter)["result"]
    assert result["memory"]["modelBytes"] == 4_920_000_000
    assert result["memory"]["contextBytes"] == 131_072_000
    assert result["memory"]["totalVramBytes"] == (4_920_000_000 + 131_072_000) // 2
    assert result["passesGuardrails"] is True


# The cards


def test_loads_land_where_their_split_says(simulator):
    size = (2_020_000_000 + 8192 * 114_688) / GIB
    splits = {
        "pinned": split(strategy="priorityOrder", priority=[1], disabledGpus=[0]),
        "even": split(strategy="evenly"),
        "weighed": split(strategy="custom", customRatio=[1, 3]),
        "half": {"llm.load.llama.acceleration.offloadRatio": 0.5},
    }
    with line(simulator) as connection:
        for name, fields in splits.items():
            assert load(connection, HERON, fields, identifier=name)[-1]["type"] == "channelClose"
    requests.post(f"{simulator.url}/api/v1/models/load", json={"model": HERON}, timeout=5)
    where = landed(simulator)
    assert where["pinned"] == pytest.approx([0, size])
    assert where["even"] == where[HERON] == pytest.approx([size / 2, size / 2])
    assert where["weighed"] == pytest.approx([size / 4, size * 3 / 4])
    assert where["half"] == pytest.approx([size / 4, size / 4])
    cards = simulator.state()["gpus"]
    assert [card["total_bytes"] for card in cards] == [10 * GIB, 10 * GIB]
    for place, card in enumerate(cards):
        used = sum(parts[place] for parts in where.values())
        assert card["free_bytes"] / GIB == pytest.approx(10 - used)


def test_a_card_without_room_for_its_part_fails_the_load(simulator):
    only_first = split(strategy="priorityOrder", priority=[0], disabledGpus=[1])
    with line(simulator) as connection:
        assert load(connection, OWL, only_first)[-1]["type"] == "channelClose"
        assert "insufficient memory" in load(connection, OTTER, only_first)[-1]["error"]["title"]
        # By priority the rest goes to the next card, if that is not switched off.
        assert load(connection, OTTER, split(strategy="priorityOrder", priority=[0]))[-1]["type"] == "channelClose"
    assert landed(simulator)[OTTER][0] < 0.7


@settings(max_examples=100)
@given(
    st.integers(0, 2**40),
    st.lists(st.integers(0, 2**36), min_size=1, max_size=4),
    st.sampled_from(["evenly", "priorityOrder", "custom", "tensor"]),
    st.lists(st.integers(0, 5), max_size=4),
    st.lists(st.floats(0, 10), max_size=5),
    st.floats(0, 1),
)
def test_no_byte_of_a_load_is_lost_between_the_cards(need, free, strategy, order, weights, ratio):
    parts = spread(need, free, Split(strategy, (), tuple(order), tuple(weights), ratio))
    assert (len(parts), sum(parts)) == (len(free), round(need * ratio))
    assert min(parts) >= 0


@pytest.mark.parametrize(
    ("config", "ratio"),
    [({"strategy": "even"}, 1), ({"priority": [-1]}, 1), ({"customRatio": "1"}, 1), ({}, 2), ({}, "half")],
)
def test_a_split_that_the_schema_does_not_have_is_refused(config, ratio):
    with pytest.raises(ValueError, match="not a"):
        Split.read(config, ratio)
