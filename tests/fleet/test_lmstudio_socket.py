"""Loads through LM Studio's WebSocket: against the simulated daemon, and against servers that misbehave (§9, §10)."""

import json
import logging
import threading
import time
from contextlib import contextmanager

import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.sync.server import serve

from fleet.allocation.profile import Profile, Strategy
from fleet.daemons import lmstudio_socket
from fleet.daemons.errors import DaemonError, LoadCancelled, Reason, SocketUnavailable
from fleet.daemons.lmstudio import LMStudio
from fleet.daemons.lmstudio_instances import instances, processing
from fleet.daemons.lmstudio_socket import LMStudioSocket, failure
from fleet.daemons.openai import OpenAICompatible
from fleet.daemons.types import InstanceState, LoadRequest, Processing
from tests.conftest import wait_for
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.fleet.test_http import JSON_HEAD, CannedServer, sized

OTTER, HERON, REED = "simulated/otter-8b", "simulated/heron-3b", "text-embedding-simulated-reed"
TORTOISE = "simulated/tortoise-slow-70b"
TOKEN = "sk-lm-abcdefgh:01234567890123456789"
PINNED = Profile(Strategy.DEDICATED, (1,))
SPLIT = ("priorityOrder", [0], [1])


SIMULATOR = ("--gpus", "2")  # options of the module's simulated daemon


@pytest.fixture(scope="module")
def locked():
    process = SimulatorProcess().start("--token", TOKEN)
    yield process
    process.stop()


@pytest.fixture
def daemon(simulator):
    return LMStudio(simulator.url)


def pinned(model=HERON, **more):
    return LoadRequest(model, profile=PINNED, gpu_indices=(0, 1), **more)


def failed(function, *args, **kwargs):
    with pytest.raises(DaemonError) as caught:
        function(*args, **kwargs)
    return caught.value


def received(simulator):
    """The split of the last load that came through the socket."""
    config = simulator.state()["socket_loads"][-1]["fields"]["load.gpuSplitConfig"]
    return config["strategy"], config["disabledGpus"], config["priority"]


# Through the simulated daemon


def test_a_pinned_load_lands_on_its_gpu_and_tells_its_progress(daemon, simulator):
    simulator.control("models/*", {"load_seconds": 0.1})
    progress = []
    loaded = daemon.load_with(
        pinned(parallel=2, context_length=4096, ttl_seconds=90, identifier="mine"), progress.append
    )
    assert (loaded.instance, loaded.channel, loaded.dropped) == ("mine", "socket", ())
    assert 0.1 < loaded.load_seconds < 5
    assert (progress, progress[-1]) == (sorted(progress), 1.0)
    assert len(progress) > 5
    assert received(simulator) == SPLIT
    state = simulator.state()
    assert state["landed"]["mine"][0] == 0
    assert state["socket_loads"][-1]["ttlMs"] == 90_000
    assert state["socket_loads"][-1]["fields"]["llm.load.contextLength"] == 4096
    [info] = [info for info in daemon.models() if info.loaded]
    assert (info.key, info.loaded, info.slots) == (HERON, ("mine",), 2)


def test_what_rest_carries_goes_through_rest(daemon, simulator):
    loaded = daemon.load_with(LoadRequest(HERON, context_length=2048))
    assert (loaded.instance, loaded.channel, loaded.dropped) == (HERON, "rest", ())
    assert loaded.load_seconds >= 0
    assert simulator.state()["socket_loads"] == []
    assert daemon.load(HERON) == f"{HERON}:2"


def test_a_load_that_is_followed_goes_through_the_socket_where_there_is_one(daemon, simulator):
    progress = []
    for follow in ({"on_progress": progress.append}, {"cancelled": threading.Event()}):
        assert daemon.load_with(LoadRequest(HERON), **follow).channel == "socket"
    assert progress == [1.0]
    simulator.control("daemon", {"fault": {"kind": "error_500", "times": 1}})
    assert daemon.load_with(LoadRequest(HERON), progress.append).channel == "rest"
    assert progress == [1.0]
    off = threading.Event()
    off.set()
    simulator.control("daemon", {"fault": {"kind": "error_500", "times": 1}})
    assert isinstance(failed(daemon.load_with, LoadRequest(HERON), None, off), LoadCancelled)
    assert simulator.state()["loads"] == 3


@pytest.mark.parametrize("follow", [{}, {"on_progress": lambda part: None}], ids=["rest", "socket"])
def test_every_wish_of_a_load_arrives(daemon, follow):
    wishes = {"flash_attention": False, "offload_kv_cache_to_gpu": False, "eval_batch_size": 256}
    loaded = daemon.load_with(LoadRequest(HERON, context_length=2048, num_experts=2, **wishes), **follow)
    assert (loaded.channel, loaded.dropped) == ("socket" if follow else "rest", ())
    [copy] = {info.key: info for info in daemon.models()}[HERON].instances
    assert (copy.context_length, copy.options) == (2048, wishes)


def test_an_embedding_model_has_a_namespace_of_its_own(daemon, simulator):
    assert daemon.load_with(pinned(REED, is_embedding=True)).instance == REED
    assert simulator.state()["landed"][REED][0] == 0


def test_it_knows_why_a_load_failed(daemon, simulator):
    assert failed(daemon.load_with, pinned("no/such")).reason is Reason.MODEL_NOT_FOUND
    error = failed(daemon.load_with, pinned(TORTOISE))
    assert error.reason is Reason.OUT_OF_MEMORY
    assert "insufficient memory" in error.detail
    simulator.control("models/*", {"fault": {"kind": "load_failure", "times": 1}})
    assert failed(daemon.load_with, pinned()).reason is Reason.LOAD_FAILED
    assert simulator.state()["landed"] == {}


def test_a_load_can_be_called_off_at_any_time(daemon, simulator):
    simulator.control("models/*", {"load_seconds": 600})  # half a minute between two reports
    cancelled = threading.Event()
    errors = []
    thread = threading.Thread(target=lambda: errors.append(failed(daemon.load_with, pinned(), None, cancelled)))
    thread.start()
    assert wait_for(lambda: simulator.state()["landed"])
    cancelled.set()
    thread.join(5)
    assert isinstance(errors[0], LoadCancelled)
    assert simulator.state()["landed"] == {}


def test_a_token_opens_the_socket_by_its_halves(locked):
    locked.reset()
    loaded = LMStudio(locked.url, TOKEN).load_with(LoadRequest(HERON, parallel=2))
    assert (loaded.channel, loaded.dropped) == ("socket", ())
    error = failed(LMStudioSocket(locked.url, "sk-lm-abcdefgh:wrongwrongwrongwrong").load, LoadRequest(HERON))
    assert error.reason is Reason.UNAUTHORIZED
    assert "token" in error.detail
    # REST is refused as well, and says so.
    assert failed(LMStudio(locked.url).load_with, LoadRequest(HERON, parallel=2)).reason is Reason.UNAUTHORIZED


@pytest.mark.parametrize("kind", ["refuse", "error_500", "cut", "unauthorized"])
def test_without_a_socket_it_loads_through_rest_and_says_what_is_lost(daemon, simulator, kind):
    simulator.control("daemon", {"fault": {"kind": kind, "times": 1}})
    loaded = daemon.load_with(pinned(parallel=2))
    assert (loaded.instance, loaded.channel) == (HERON, "rest")
    assert loaded.dropped == ("one GPU alone", "the number of parallel slots")
    assert simulator.state()["socket_loads"] == []


# What loaded copies do


def ask(simulator, model=HERON):
    """An answer that goes on until it is closed."""
    body = {"model": model, "input": "hello", "stream": True}
    return requests.post(f"{simulator.url}/api/v1/chat", json=body, stream=True, timeout=5)


def test_it_tells_each_copy_and_what_it_does(daemon, simulator):
    assert daemon.instances() == []
    daemon.load_with(pinned(parallel=1, context_length=4096, ttl_seconds=90, identifier="mine"))
    daemon.load(REED)
    llm, embedding = daemon.instances()
    assert llm == InstanceState("mine", HERON, False, 4096, 90.0, None, "idle", 0)
    assert (embedding.id, embedding.is_embedding, embedding.ttl_seconds) == (REED, True, None)
    assert (llm.is_busy, embedding.is_busy) == (False, False)
    assert (daemon.processing("mine").is_busy, daemon.processing(REED, True).is_busy) == (False, False)

    simulator.control(f"models/{HERON}", {"tokens_per_second": 1})
    with ask(simulator, "mine"), ask(simulator, "mine"):
        assert wait_for(lambda: daemon.processing("mine").queued == 2)
        assert wait_for(lambda: daemon.processing("mine").status == "generating")
        busy = daemon.instances()[0]
        assert (busy.status, busy.queued, busy.is_busy) == ("generating", 2, True)
        assert abs(busy.last_used_at - time.time()) < 5
    assert wait_for(lambda: daemon.processing("mine").is_busy is False)
    simulator.control(f"models/{HERON}", {"ttft_seconds": 60})
    with ask(simulator, "mine"):
        assert wait_for(lambda: daemon.processing("mine").status == "processingPrompt")
    daemon.unload("mine")
    assert daemon.processing("mine") is None
    assert daemon.processing(REED) is None  # not among the LLMs


def test_where_nobody_tells_what_a_copy_does_it_says_so(daemon, simulator):
    for call in (daemon.instances, lambda: daemon.processing(HERON)):
        simulator.control("daemon", {"fault": {"kind": "error_500", "times": 1}})
        assert isinstance(failed(call), SocketUnavailable)


@pytest.mark.parametrize(
    ("told", "is_busy"),
    [
        (Processing("idle", 0), False),
        (Processing("idle", 1), True),
        (Processing("", 0), False),
        (Processing("generating", None), True),
        (Processing("reticulating", 0), True),  # of a later version
        (Processing(), None),
    ],
)
def test_what_is_not_told_is_not_taken_for_idle(told, is_busy):
    assert told.is_busy is is_busy


def test_it_estimates_without_loading(daemon, simulator):
    half = LoadRequest(OTTER, context_length=1000, profile=Profile(offload_ratio=0.5))
    told = daemon.estimate(half)
    assert told["model_bytes"] == 4_920_000_000
    assert told["context_bytes"] == 131_072_000
    assert told["total_vram_bytes"] == (4_920_000_000 + 131_072_000) // 2
    assert (told["confidence"], told["passes_guardrails"]) == ("high", True)
    assert simulator.state()["landed"] == {}
    assert failed(daemon.estimate, LoadRequest("no/such")).reason is Reason.MODEL_NOT_FOUND


def test_a_daemon_that_cannot_load_says_so(simulator):
    daemon = OpenAICompatible(simulator.url)
    assert failed(daemon.load_with, pinned()).reason is Reason.BAD_REQUEST
    assert failed(daemon.estimate, pinned()).reason is Reason.BAD_REQUEST


# Servers that misbehave

HELLO = {"success": True}
RESOLVED = {"type": "channelSend", "channelId": 1, "message": {"type": "resolved", "info": {}}}


def packet(**message):
    return {"type": "channelSend", "channelId": 1, "message": message}


@contextmanager
def server(*script):
    """Answers the first frames with `script`: a frame, a list of them, text, or None for silence; then it closes."""
    heard, is_over = [], threading.Event()

    def play(connection):
        for answer in script:
            heard.append(json.loads(connection.recv(timeout=60)))
            if answer is None:
                is_over.wait(60)
            for frame in answer if isinstance(answer, list) else [answer] if answer else ():
                connection.send(frame if isinstance(frame, str) else json.dumps(frame))

    quiet = logging.getLogger("tests.quiet")
    quiet.setLevel(logging.CRITICAL)
    with serve(play, "127.0.0.1", 0, logger=quiet) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        try:
            yield LMStudioSocket(f"http://127.0.0.1:{running.socket.getsockname()[1]}"), heard
        finally:
            is_over.set()
            running.shutdown()


def shorten(monkeypatch, *limits):
    for name in limits:
        monkeypatch.setattr(lmstudio_socket, name, 0.2)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (({"success": False, "error": "Invalid passkey"},), Reason.UNAUTHORIZED),
        (("no JSON",), Reason.NOT_UNDERSTOOD),
        (("[]",), Reason.NOT_UNDERSTOOD),
        ((HELLO, {"type": "communicationWarning", "warning": "no such endpoint"}), Reason.NOT_UNDERSTOOD),
        ((HELLO, [RESOLVED, {"type": "communicationWarning"}]), Reason.NOT_UNDERSTOOD),
        ((HELLO, []), Reason.CUT),
        ((HELLO, [RESOLVED]), Reason.CUT),
        ((HELLO, {"type": "channelClose", "channelId": 1}), Reason.LOAD_FAILED),
        ((HELLO, packet(type="success", info={})), Reason.NOT_UNDERSTOOD),
        ((HELLO, {"type": "channelError", "channelId": 1, "error": None}), Reason.LOAD_FAILED),
        (
            (
                HELLO,
                {"type": "channelError", "channelId": 1, "error": {"title": "Guardrail", "cause": "too little VRAM"}},
            ),
            Reason.OUT_OF_MEMORY,
        ),
    ],
)
def test_a_strange_answer_becomes_a_reason(script, reason):
    with server(*script) as (socket, _):
        assert failed(socket.load, LoadRequest(OTTER)).reason is reason


def test_only_a_load_that_was_not_understood_may_be_tried_elsewhere():
    warning = {"type": "communicationWarning", "warning": "no such endpoint"}
    for script, may_try in (((HELLO, warning), True), ((HELLO, [RESOLVED, warning]), False)):
        with server(*script) as (socket, _):
            error = failed(socket.load, LoadRequest(OTTER))
        assert isinstance(error, lmstudio_socket.SocketUnavailable) is may_try


def test_frames_of_others_and_strange_packets_do_not_disturb_a_load():
    strange = [
        {"type": "keepAliveAck"},
        {"type": "channelError", "channelId": 2, "error": {}},
        {"type": "channelSend", "channelId": 1},
        packet(type="new in a later version"),
        packet(type="progress", progress="much"),
        packet(type="progress", progress=0.5),
        packet(type="progress", progress=7),
        packet(type="success", info={"identifier": "mine"}),
    ]
    progress = []
    with server(HELLO, strange) as (socket, heard):
        assert socket.load(LoadRequest(OTTER), progress.append).instance == "mine"
    assert progress == [0.5, 1.0]
    assert heard[0]["clientIdentifier"].startswith("guest:")
    assert heard[1]["creationParameter"]["loadConfigStack"] == {
        "layers": [{"layerName": "apiOverride", "config": {"fields": []}}]
    }


def result(value=None):
    return {"type": "rpcResult", "callId": 1} | ({} if value is None else {"result": value})


ROW = {"identifier": "mine", "modelKey": OTTER, "instanceReference": "ref", "deviceIdentifier": "attic"}


def test_a_copy_that_vanishes_meanwhile_is_left_out():
    gone = {"type": "rpcError", "callId": 1, "error": {"displayData": {"code": "generic.specificModelUnloaded"}}}
    for answer in (result(), gone):
        script = (HELLO, result([ROW, ROW | {"identifier": "other"}]), answer, result({"status": "idle", "queued": 0}))
        with server(*script) as (socket, heard):
            assert [state.id for state in instances(socket)] == ["other", "other"]  # of either kind
        assert "parameter" not in heard[1]
        assert heard[2]["parameter"] == {
            "specifier": {"type": "instanceReference", "instanceReference": "ref"}, "throwIfNotFound": False,
        }  # fmt: skip


def test_a_daemon_that_cannot_tell_what_its_copies_do_still_tells_that_they_are_there():
    with server(HELLO, result([ROW, "odd", {}]), {"type": "communicationWarning"}, result("odd")) as (socket, _):
        state = instances(socket)[0]
    assert (state.id, state.device, state.status, state.is_busy) == ("mine", "attic", "", None)
    with server(HELLO, {"type": "communicationWarning"}) as (socket, heard):
        assert isinstance(failed(processing, socket, "mine"), SocketUnavailable)
    assert heard[1]["parameter"]["specifier"] == {"type": "query", "query": {"identifier": "mine"}}
    with server(HELLO, result({})) as (socket, _):
        assert failed(instances, socket).reason is Reason.NOT_UNDERSTOOD


@pytest.mark.parametrize("script", [(None,), (HELLO, None), (HELLO, [RESOLVED], None)])
def test_silence_has_an_end(monkeypatch, script):
    shorten(monkeypatch, "HANDSHAKE_SECONDS", "SILENCE_SECONDS")
    with server(*script) as (socket, _):
        began = time.monotonic()
        assert failed(socket.load, LoadRequest(OTTER)).reason is Reason.TIMEOUT
        assert time.monotonic() - began < 20


def test_a_load_that_goes_silent_is_called_off(monkeypatch):
    shorten(monkeypatch, "SILENCE_SECONDS")
    with server(HELLO, [RESOLVED], None) as (socket, heard):
        assert failed(socket.load, LoadRequest(OTTER)).reason is Reason.TIMEOUT
        assert wait_for(lambda: len(heard) == 3)
    assert heard[2] == {"type": "channelSend", "channelId": 1, "message": {"type": "cancel"}}


def test_a_silent_estimate_has_an_end_and_a_strange_one_a_reason(monkeypatch):
    with server(HELLO, None) as (socket, _), monkeypatch.context() as patch:
        shorten(patch, "RPC_SECONDS")
        assert failed(socket.estimate, OTTER, {}).reason is Reason.TIMEOUT
    for answer in ({"type": "rpcResult", "callId": 1}, {"type": "communicationWarning"}):
        with server(HELLO, answer) as (socket, _):
            assert failed(socket.estimate, OTTER, {}).reason is Reason.NOT_UNDERSTOOD
    told = {"memory": {"modelBytes": 5.0, "totalBytes": -1, "contextBytes": None}}
    with server(HELLO, {"type": "rpcResult", "callId": 1, "result": told}) as (socket, _):
        assert socket.estimate(OTTER, {}) == {"model_bytes": 5}


def test_a_load_that_was_faster_than_its_cancel_is_a_load(monkeypatch):
    cancelled = threading.Event()
    success = packet(type="success", info={"identifier": "mine"})
    with server(HELLO, [RESOLVED, packet(type="progress", progress=0.1)], success) as (socket, _):
        loaded = socket.load(LoadRequest(OTTER), lambda part: cancelled.set(), cancelled)
        assert loaded.instance == "mine"
    cancelled.clear()
    shorten(monkeypatch, "CANCEL_SECONDS")
    with server(HELLO, [RESOLVED, packet(type="progress", progress=0.1)], None) as (socket, _):
        assert isinstance(
            failed(socket.load, LoadRequest(OTTER), lambda part: cancelled.set(), cancelled), LoadCancelled
        )


def test_where_there_is_no_websocket_it_follows_nobody_and_falls_back():
    elsewhere = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/llm\r\nContent-Length: 0\r\n\r\n"
    for answer in (elsewhere, sized(JSON_HEAD, b'{"error": "Unexpected endpoint"}'), b"SSH-2.0-OpenSSH\r\n"):
        with CannedServer(answer) as canned:
            error = failed(LMStudioSocket(canned.url, TOKEN).load, LoadRequest(OTTER))
        assert error.reason in {Reason.NOT_UNDERSTOOD, Reason.CUT}
        assert isinstance(error, lmstudio_socket.SocketUnavailable)
        assert len(canned.requests) == 1
    assert failed(LMStudioSocket("http://127.0.0.1:9").load, LoadRequest(OTTER)).reason is Reason.UNREACHABLE


def test_a_server_that_never_shakes_hands_is_no_reason_to_load_twice(monkeypatch):
    shorten(monkeypatch, "HANDSHAKE_SECONDS")
    with CannedServer(60.0) as canned:
        error = failed(LMStudio(canned.url).load_with, pinned())
        wait_for(lambda: canned.requests)
    assert error.reason is Reason.TIMEOUT
    assert len(canned.requests) == 1


def test_a_passkey_reaches_no_log(caplog, locked):
    locked.reset()
    with caplog.at_level(logging.DEBUG):
        LMStudioSocket(locked.url, TOKEN).estimate(HERON, {})
    assert TOKEN[-20:] not in caplog.text


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["title", "cause", "displayData", "code", "error"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100)
@given(junk)
@example({"displayData": {"code": []}})
def test_any_error_frame_becomes_a_daemon_error(error):
    told = failure(error, "Failed to load the model: ")
    assert told.reason in {Reason.LOAD_FAILED, Reason.OUT_OF_MEMORY, Reason.MODEL_NOT_FOUND}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({"title": "Cannot find it", "displayData": {"code": "generic.pathNotFound"}}, Reason.MODEL_NOT_FOUND),
        ({"title": "Nothing matches", "displayData": {"code": "generic.noModelMatchingQuery"}}, Reason.MODEL_NOT_FOUND),
        ({"title": "Model loading was stopped", "cause": "insufficient system resources"}, Reason.OUT_OF_MEMORY),
        ({"title": "Engine exited", "cause": "code 18446744072635812000"}, Reason.LOAD_FAILED),
        ("a plain text", Reason.LOAD_FAILED),
    ],
)
def test_an_error_frame_is_read_by_its_code_and_its_words(error, reason):
    told = failure(error, "Failed to load the model: ")
    assert told.reason is reason
    assert not told.detail.startswith("Failed to load the model")  # the daemon's own words only


def test_an_error_frame_carries_the_engines_own_line():
    line = "error: n_ctx_per_seq is too large"
    for told in ({"cause": line}, {"errorData": line}, {"errorData": {"log": [line]}}):
        assert line in failure({"title": "Failed to load model"} | told | {"stack": "at load (load.js)"}).detail
    assert "load.js" not in failure({"title": "Failed", "stack": "at load (load.js)"}).detail
