"""The contract of every adapter, held against the simulated daemon (design, decision 8)."""

import json
import threading
import time
from types import SimpleNamespace

import pytest
import requests

from fleet.daemons import http
from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.kinds import KINDS, connect, detect
from fleet.daemons.lmstudio import LMStudio
from fleet.daemons.openai import OpenAICompatible
from fleet.daemons.types import ChatRequest, Finished, InstanceConfig, Message, Progress, Reasoning, Started, Turn
from pulse.inference import Inference
from pulse.thinking import Kind
from tests.conftest import wait_for
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.fleet.test_http import JSON_HEAD, CannedServer, sized

OTTER, HERON = "simulated/otter-8b", "simulated/heron-3b"
OWL, RAVEN = "simulated/owl-thinker-14b", "simulated/raven-raw-think-7b"
BEAVER = "simulated/beaver-tools-8b"
TORTOISE, REED = "simulated/tortoise-slow-70b", "text-embedding-simulated-reed"
HTML = sized(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n", b"<!doctype html><title>A router</title>")
LINE = "llama_model_load: error loading model hyperparameters"  # as an engine says it
TOO_SMALL = "Insufficient system memory: 7.2 GiB are needed"
SLOW = {"tokens_per_second": 20, "output_tokens": 1000}  # 50 s
SOON = 20  # seconds: far less than a SLOW answer takes

native_only = pytest.mark.parametrize("daemon", ["lmstudio"], indirect=True)
openai_only = pytest.mark.parametrize("daemon", ["openai"], indirect=True)


@pytest.fixture(scope="module")
def locked_process():
    process = SimulatorProcess().start("--token", "sk-secret")
    yield process
    process.stop()


@pytest.fixture(params=list(KINDS))
def daemon(request, simulator):
    return connect(request.param, simulator.url)


def ask(text="[[tokens=20]]", model=OTTER, **more):
    return ChatRequest(model=model, text=text, **more)


def run(daemon, request=None):
    """All events of one answer."""
    return [event for events in daemon.chat(request or ask()) for event in events]


def text_of(events, kind=Message):
    return "".join(event.text for event in events if isinstance(event, kind))


def reason_of(function, *args, **kwargs):
    with pytest.raises(DaemonError) as caught:
        function(*args, **kwargs)
    return caught.value.reason


def whole_answer(simulator, model, text):
    """The same answer in one piece: (message, reasoning) as the native route tells them."""
    body = {"model": model, "input": text}
    output = requests.post(f"{simulator.url}/api/v1/chat", json=body, timeout=10).json()["output"]
    parts = {item["type"]: item["content"] for item in output}
    return parts.get("message", ""), parts.get("reasoning", "")


def fail(simulator, kind, model=OTTER, **more):
    simulator.control(f"models/{model}", {"fault": {"kind": kind, **more}})


def counts(simulator, model=OTTER):
    return SimpleNamespace(**simulator.state()["models"][model])


class Reading:
    """A stream read by a thread of its own, as a worker does."""

    def __init__(self, stream):
        self.stream = stream
        self.events = []
        self.error = None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for events in self.stream:
                self.events += events
        except DaemonError as error:
            self.error = error

    @property
    def has_begun(self):
        return any(isinstance(event, Message) for event in self.events)

    def is_over_within(self, seconds=60):
        self.thread.join(seconds)
        return not self.thread.is_alive()


# What it does


def test_it_probes(daemon):
    assert daemon.probe() is None


def test_it_lists_the_models(daemon, simulator):
    models = {info.key: info for info in daemon.models()}
    assert set(models) == set(simulator.state()["models"])
    assert models[REED].type == "embedding"
    assert models[OTTER].type == "llm"


@native_only
def test_it_tells_what_is_loaded_and_how_many_slots_that_has(daemon, simulator):
    simulator.control(f"models/{OTTER}", {"slots": 3})
    before = {info.key: info for info in daemon.models()}
    assert before[OTTER].loaded == ()
    assert (before[HERON].slots, before[REED].slots) == (4, None)
    daemon.load(OTTER)
    otter = {info.key: info for info in daemon.models()}[OTTER]
    assert (otter.loaded, otter.slots, otter.knows_loaded) == ((OTTER,), 3, True)
    assert (otter.name, otter.size_bytes, otter.context_length) == ("Otter 8B (simulated)", 4_920_000_000, 131_072)
    assert {info.key: info for info in daemon.models()}[OWL].reasoning_options == ("off", "low", "medium", "high", "on")


@native_only
def test_it_tells_what_a_model_is_and_how_its_copies_were_loaded(daemon):
    daemon.load(OTTER)
    models = {info.key: info for info in daemon.models()}
    otter, reed = models[OTTER], models[REED]
    assert (otter.publisher, otter.architecture, otter.parameters) == ("simulated", "llama", "8B")
    assert (otter.quantization, otter.bits_per_weight, otter.format) == ("Q4_K_M", 4, "gguf")
    assert (otter.variants, otter.selected_variant) == ((f"{OTTER}@q4_k_m", f"{OTTER}@q8_0"), f"{OTTER}@q4_k_m")
    assert (models[HERON].vision, models[BEAVER].tools) == (True, True)
    assert (otter.vision, otter.tools, reed.vision, reed.tools) == (False, False, None, None)
    assert (reed.architecture, reed.parameters, reed.variants, models[HERON].variants) == ("", "", (), ())
    told = {"eval_batch_size": 512, "flash_attention": True, "offload_kv_cache_to_gpu": True}
    assert otter.instances == (InstanceConfig(OTTER, 8192, 4, told),)
    assert models[HERON].instances == ()


@openai_only
def test_it_does_not_pretend_to_know_what_is_loaded(daemon):
    otter = {info.key: info for info in daemon.models()}[OTTER]
    assert (otter.loaded, otter.knows_loaded, otter.slots) == ((), False, None)


def test_it_streams_an_answer_to_its_end(daemon, simulator):
    text = "Tell me all about otters [[tokens=300]] ünïcødé 🦦 [[echo]]"
    events = run(daemon, ask(text))
    assert text_of(events) == whole_answer(simulator, OTTER, text)[0]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert [type(event) for event in events].count(Finished) == 1


def test_it_streams_as_it_comes(daemon, simulator):
    simulator.control(f"models/{OTTER}", SLOW)
    stream = daemon.chat(ask("hello"))
    with_text = (events for events in stream if text_of(events))
    assert next(with_text) and next(with_text)
    assert counts(simulator).active == 1  # most of it is still to come
    stream.close()


def test_it_tells_what_the_daemon_measured(daemon):
    finished = run(daemon)[-1]
    assert finished.stats["output_tokens"] == 20
    assert finished.stats["input_tokens"] == 7
    assert "reasoning_pieces" not in finished.stats


@native_only
def test_it_tells_the_native_figures(daemon):
    stats = run(daemon, ask(model=OWL))[-1].stats
    assert {"input_tokens", "output_tokens", "reasoning_tokens", "tokens_per_second", "first_token_seconds",
            "load_seconds"} == set(stats)  # fmt: skip
    assert stats["output_tokens"] == 20 + stats["reasoning_tokens"]


@openai_only
def test_it_tells_why_the_answer_stopped(daemon):
    assert run(daemon)[-1].stats["stop_reason"] == "stop"
    assert run(daemon, ask(settings={"max_output_tokens": 5}))[-1].stats["stop_reason"] == "length"


def test_it_passes_settings_through(daemon):
    full = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1,
        "max_output_tokens": 7, "reasoning": "low",
    }  # fmt: skip
    sent = json.loads(daemon.chat(ask(settings=full)).stream.body)
    renamed = {"max_output_tokens": "max_tokens", "reasoning": "reasoning_effort"} if daemon.kind == "openai" else {}
    assert {name: sent[renamed.get(name, name)] for name in full} == full
    del full["reasoning"]
    assert run(daemon, ask(settings=full))[-1].stats["output_tokens"] == 7


def test_it_sends_zero_but_nothing_that_was_left_empty(daemon):
    sent = json.loads(daemon.chat(ask(settings={"temperature": 0, "top_p": None, "reasoning": ""})).stream.body)
    assert sent["temperature"] == 0
    assert not {"top_p", "reasoning", "reasoning_effort", "system_prompt"} & set(sent)


def test_it_sends_the_system_prompt(daemon):
    without = run(daemon)[-1].stats["input_tokens"]
    assert run(daemon, ask(system_prompt="You are a patient teacher."))[-1].stats["input_tokens"] > without


def test_it_goes_on_with_a_chat(daemon):
    first = run(daemon, ask("Hello there"))
    earlier = {
        "previous_response_id": first[-1].response_id,
        "history": (Turn("Hello there", text_of(first)),),
    }
    assert "question 2 of this chat" in text_of(run(daemon, ask("And now?", **earlier)))
    assert "of this chat" not in text_of(run(daemon, ask("And now?")))


def test_it_reports_reasoning_apart_when_the_daemon_does(daemon, simulator):
    events = run(daemon, ask(model=OWL, text="Why?"))
    assert (text_of(events), text_of(events, Reasoning)) == whole_answer(simulator, OWL, "Why?")
    quiet = run(daemon, ask(model=OWL, text="Why?", settings={"reasoning": "off"}))
    assert text_of(quiet, Reasoning) == ""


@pytest.mark.parametrize("model", [OWL, RAVEN])
def test_its_reasoning_is_told_from_its_answer(daemon, simulator, model):
    message, reasoning = whole_answer(simulator, model, "Why?")
    simulator.control(f"models/{model}", {"tokens_per_second": 300})
    if model == RAVEN:
        reasoning, _, message = message.removeprefix("<think>").partition("</think>")
    steps = list(Inference(daemon.chat(ask(model=model, text="Why?"))))
    pieces = [piece for step in steps for piece in step.pieces]
    assert "".join(text for kind, text in pieces if kind == Kind.REASONING) == reasoning != ""
    assert "".join(text for kind, text in pieces if kind == Kind.MESSAGE) == message != ""
    assert len(steps) > 5


def test_it_answers_side_by_side(daemon):
    readings = [Reading(daemon.chat(ask(f"number {n} [[tokens=50]] [[echo]]"))) for n in range(4)]
    assert all(reading.is_over_within() for reading in readings)
    for n, reading in enumerate(readings):
        assert f"number {n} " in text_of(reading.events)


@native_only
def test_it_reports_the_progress_of_load_and_prompt(daemon, simulator):
    simulator.control(f"models/{OTTER}", {"load_seconds": 0.1, "ttft_seconds": 0.05})
    progress = [event for event in run(daemon) if isinstance(event, Progress)]
    assert [event.phase for event in progress] == sorted(event.phase for event in progress)
    for phase in ("load", "prompt"):
        fractions = [event.fraction for event in progress if event.phase == phase]
        assert fractions == sorted(fractions)
        assert (fractions[0], fractions[-1]) == (0.0, 1.0)
        assert len(fractions) > 4


@native_only
def test_it_loads_and_unloads(daemon, simulator):
    assert daemon.can_load
    assert [daemon.load(OTTER), daemon.load(OTTER)] == [OTTER, f"{OTTER}:2"]
    daemon.unload(OTTER)
    assert {info.key: info for info in daemon.models()}[OTTER].loaded == (f"{OTTER}:2",)
    assert reason_of(daemon.load, "no/such-model") is Reason.MODEL_NOT_FOUND
    fail(simulator, "load_failure", times=1)
    assert reason_of(daemon.load, OTTER) is Reason.LOAD_FAILED


@native_only
def test_it_says_that_a_model_does_not_fit(daemon):
    daemon.load(OTTER)
    assert reason_of(daemon.load, TORTOISE) is Reason.OUT_OF_MEMORY
    assert reason_of(run, daemon, ask(model=TORTOISE)) is Reason.OUT_OF_MEMORY


@native_only
@pytest.mark.parametrize(
    ("answer", "line", "reason"),
    [
        ({"type": "internal_error", "message": "Failed to load model", "cause": LINE}, LINE, Reason.LOAD_FAILED),
        ({"type": "unknown", "message": "Engine exited", "errorData": {"log": [LINE]}}, LINE, Reason.LOAD_FAILED),
        ({"type": "invalid_request", "message": TOO_SMALL}, TOO_SMALL, Reason.OUT_OF_MEMORY),
        (TOO_SMALL, TOO_SMALL, Reason.OUT_OF_MEMORY),
        (LINE, LINE, Reason.LOAD_FAILED),
    ],
)
def test_a_load_that_fails_carries_the_engines_own_line(daemon, answer, line, reason):
    body = json.dumps({"error": answer}).encode()
    for head in (JSON_HEAD, JSON_HEAD.replace(b"200 OK", b"500 Internal Server Error")):
        with CannedServer(sized(head, body)) as server, pytest.raises(DaemonError) as caught:
            LMStudio(server.url).load(OTTER)
        assert caught.value.reason is reason
        assert line in caught.value.detail


@native_only
def test_it_downloads_and_tells_how_far_it_is(daemon):
    begun = daemon.download("https://huggingface.co/acme/vole-1b", "Q8_0")
    assert (begun.status, begun.downloaded_bytes, begun.finishes_at) == ("downloading", None, None)
    assert begun.total_bytes > 1_000_000_000
    now = daemon.download_status(begun.job_id)
    assert (now.job_id, now.status, now.total_bytes) == (begun.job_id, "downloading", begun.total_bytes)
    assert 0 <= now.downloaded_bytes < now.total_bytes
    assert now.bytes_per_second > 0
    assert 0 < now.finishes_at - time.time() < 5
    assert (daemon.download(OTTER).status, daemon.download(OTTER).job_id) == ("already_downloaded", "")


@native_only
@pytest.mark.parametrize("job_id", ["job_0", "../../../v1/models", "a b?c#d", "%2e%2e/"])
def test_it_tells_that_a_download_is_forgotten_whatever_its_job_is_called(daemon, job_id):
    assert reason_of(daemon.download_status, job_id) is Reason.JOB_NOT_FOUND


@native_only
def test_it_tells_that_a_download_cannot_be(daemon):
    assert reason_of(daemon.download, "nonsense") is Reason.MODEL_NOT_FOUND
    assert reason_of(daemon.download, "acme/vole-1b", "Q8_0") is Reason.BAD_REQUEST


@openai_only
def test_it_says_what_this_kind_cannot_do(daemon):
    for call in (
        daemon.instances,
        lambda: daemon.processing(OTTER),
        lambda: daemon.download(OTTER),
        lambda: daemon.download_status("job_0"),
    ):
        assert reason_of(call) is Reason.BAD_REQUEST


@openai_only
def test_it_says_that_it_cannot_load(daemon):
    assert not daemon.can_load
    assert reason_of(daemon.load, OTTER) is Reason.BAD_REQUEST
    assert reason_of(daemon.unload, OTTER) is Reason.BAD_REQUEST


# Cancel


def test_it_ends_a_request_that_nobody_answers(daemon, simulator):
    fail(simulator, "hang")
    reading = Reading(daemon.chat(ask()))
    wait_for(lambda: counts(simulator).requests == 1)
    reading.stream.close()
    assert reading.is_over_within(SOON)
    assert (reading.events, reading.error) == ([], None)
    wait_for(lambda: counts(simulator).cancelled == 1)


def test_it_frees_the_slot_while_the_prompt_is_read(daemon, simulator):
    simulator.control(f"models/{OTTER}", {"ttft_seconds": 60})
    reading = Reading(daemon.chat(ask()))
    wait_for(lambda: counts(simulator).active == 1)
    reading.stream.close()
    wait_for(lambda: counts(simulator).active == 0, SOON)
    assert reading.is_over_within(SOON)
    assert reading.error is None


def test_it_frees_the_slot_between_two_tokens(daemon, simulator):
    simulator.control(f"models/{OTTER}", SLOW)
    reading = Reading(daemon.chat(ask("hello")))
    wait_for(lambda: reading.has_begun)
    assert counts(simulator).active == 1
    Inference(reading.stream).close()
    wait_for(lambda: counts(simulator).active == 0, SOON)
    assert reading.is_over_within(SOON)
    assert reading.error is None
    assert reading.stream.is_closed
    assert not any(isinstance(event, Finished) for event in reading.events)


def test_it_frees_the_slot_when_the_reader_stops_by_itself(daemon, simulator):
    simulator.control(f"models/{OTTER}", SLOW)
    for events in daemon.chat(ask("hello")):
        if text_of(events):
            break
    del events
    wait_for(lambda: counts(simulator).active == 0, SOON)


def test_it_may_be_closed_twice_and_after_the_end(daemon):
    stream = daemon.chat(ask())
    assert isinstance([event for events in stream for event in events][-1], Finished)
    stream.close()
    stream.close()


# Failures


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"kind": "refuse"}, Reason.CUT),
        ({"kind": "error_500"}, Reason.SERVER_ERROR),
        ({"kind": "cut"}, Reason.CUT),
        ({"kind": "cut", "after_tokens": 7}, Reason.CUT),
        ({"kind": "cut", "after_tokens": 20}, Reason.CUT),
        ({"kind": "hang"}, Reason.TIMEOUT),
        ({"kind": "hang", "after_tokens": 7}, Reason.TIMEOUT),
        ({"kind": "load_failure"}, Reason.LOAD_FAILED),
        ({"kind": "unauthorized"}, Reason.UNAUTHORIZED),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_it_tells_one_failure_from_another(daemon, simulator, monkeypatch, fault, reason):
    fail(simulator, **fault, times=1)
    with monkeypatch.context() as patch:
        if fault["kind"] == "hang":
            patch.setattr(http, "SILENCE_SECONDS" if "after_tokens" in fault else "FIRST_BYTE_SECONDS", 1.0)
        reading = Reading(daemon.chat(ask()))
        assert reading.is_over_within()
    assert reading.error.reason is reason
    assert sum(isinstance(event, Message) for event in reading.events) == fault.get("after_tokens", 0)
    assert not any(isinstance(event, Finished) for event in reading.events)
    wait_for(lambda: counts(simulator).active == 0)
    assert run(daemon)[-1].stats["output_tokens"] == 20


def test_it_tells_that_a_model_is_unknown(daemon):
    assert reason_of(run, daemon, ask(model="no/such-model")) is Reason.MODEL_NOT_FOUND


def test_it_tells_that_the_request_is_wrong(daemon):
    assert reason_of(run, daemon, ask(model=REED)) is Reason.BAD_REQUEST


@native_only
def test_it_tells_that_a_setting_is_not_accepted(daemon):
    assert reason_of(run, daemon, ask(settings={"temperature": 2})) is Reason.BAD_REQUEST
    assert reason_of(run, daemon, ask(settings={"reasoning": "low"})) is Reason.BAD_REQUEST


@native_only
def test_it_tells_that_a_chat_is_gone(daemon):
    assert reason_of(run, daemon, ask(previous_response_id="resp_0123")) is Reason.CHAT_NOT_FOUND


def test_it_tells_that_nothing_listens(daemon):
    nowhere = connect(daemon.kind, "http://127.0.0.1:9")
    for call in (nowhere.probe, nowhere.models, lambda: run(nowhere)):
        assert reason_of(call) is Reason.UNREACHABLE


def test_it_tells_that_the_path_is_wrong(daemon, simulator):
    astray = connect(daemon.kind, f"{simulator.url}/somewhere")
    for call in (astray.probe, astray.models, lambda: run(astray)):
        assert reason_of(call) is Reason.NOT_UNDERSTOOD


@pytest.mark.parametrize("answer", [HTML, sized(JSON_HEAD, b'{"hello": "world"}'), sized(JSON_HEAD, b"[]")])
def test_it_tells_that_something_else_answers(daemon, answer):
    with CannedServer(answer) as server:
        other = connect(daemon.kind, server.url)
        for call in (other.probe, other.models, lambda: run(other)):
            assert reason_of(call) in {Reason.NOT_UNDERSTOOD, Reason.CUT}
        assert reason_of(other.models) is Reason.NOT_UNDERSTOOD


def test_it_tells_that_a_daemon_hangs(daemon, simulator, monkeypatch):
    monkeypatch.setattr(http, "FIRST_BYTE_SECONDS", 0.5)
    simulator.control("daemon", {"fault": {"kind": "hang", "times": 2}})
    assert reason_of(daemon.call, "GET", "/lmstudio-greeting", seconds=0.3) is Reason.TIMEOUT
    assert reason_of(run, daemon) is Reason.TIMEOUT


@pytest.mark.parametrize(
    ("daemon", "reason"),
    [("lmstudio", Reason.GENERATION_FAILED), ("openai", Reason.CUT)],
    indirect=["daemon"],
)
def test_it_tells_that_a_busy_model_was_evicted(daemon, simulator, reason):
    simulator.control(f"models/{OTTER}", SLOW)
    reading = Reading(daemon.chat(ask("hello")))
    wait_for(lambda: reading.has_begun)
    run(daemon, ask(model=HERON))
    assert reading.is_over_within(SOON)
    assert reading.error.reason is reason
    assert reading.error.reason.can_retry


def test_it_tells_that_a_model_was_evicted_while_it_loaded(daemon, simulator):
    simulator.control(f"models/{OTTER}", {"load_seconds": 60})
    reading = Reading(daemon.chat(ask("hello")))
    wait_for(lambda: counts(simulator).waiting == 1)
    run(daemon, ask(model=HERON))
    assert reading.is_over_within(SOON)
    assert reading.error.reason is Reason.GENERATION_FAILED


# Tokens


@pytest.mark.parametrize("kind", list(KINDS))
def test_it_sends_its_token(locked_process, kind):
    locked_process.reset()
    without, wrong = connect(kind, locked_process.url), connect(kind, locked_process.url, "sk-other")
    for call in (without.models, lambda: run(without), wrong.models, lambda: run(wrong)):
        assert reason_of(call) is Reason.UNAUTHORIZED
    allowed = connect(kind, locked_process.url, "sk-secret")
    assert len(allowed.models()) == 8
    assert run(allowed)[-1].stats["output_tokens"] == 20


# Which kind


@pytest.mark.parametrize("suffix", ["", "/"])
def test_it_finds_lm_studio(simulator, suffix):
    assert detect(simulator.url + suffix) == LMStudio.kind


def test_it_finds_lm_studio_without_its_token(locked_process):
    assert detect(locked_process.url) == LMStudio.kind


@pytest.mark.parametrize("suffix", ["", "/v1", "/v1/"])
def test_it_finds_any_other_server_that_lists_models(suffix):
    with CannedServer(sized(JSON_HEAD, b'{"object": "list", "data": [{"id": "tiny"}]}')) as server:
        assert detect(server.url + suffix) == OpenAICompatible.kind
        assert [info.key for info in connect("openai", server.url + suffix).models()] == ["tiny"]
    assert {line for line, *_ in server.requests} == {
        "GET /lmstudio-greeting HTTP/1.1" if not suffix else "GET /v1/lmstudio-greeting HTTP/1.1",
        "GET /v1/models HTTP/1.1",
        "GET /props HTTP/1.1",
    }


def test_it_finds_no_kind_where_there_is_none():
    assert reason_of(detect, "http://127.0.0.1:9") is Reason.UNREACHABLE
    with CannedServer(HTML) as server:
        assert reason_of(detect, server.url) is Reason.NOT_UNDERSTOOD


@pytest.mark.parametrize(
    "odd",
    [
        {"capabilities": {"reasoning": True}},
        {"loaded_instances": [{"id": "odd", "config": "x"}], "quantization": []},
        {"capabilities": {"reasoning": {"allowed_options": 3}}, "variants": {"x": 1}, "vision": "yes"},
        None,
    ],
)
def test_what_is_odd_about_a_model_is_unknown_and_hides_nothing(monkeypatch, odd):
    daemon = LMStudio("http://127.0.0.1:9")
    rows = ["odd", {"key": 7}, {"key": "odd"} | odd if odd else {}, {"key": "fine", "size_bytes": 1e30}]
    monkeypatch.setattr(daemon, "call", lambda *_: {"models": rows})
    told = {model.key: model for model in daemon.models()}
    assert set(told) == ({"odd", "fine"} if odd else {"fine"})
    assert told["fine"].size_bytes is None
    if odd:
        assert (told["odd"].reasoning_options, told["odd"].variants, told["odd"].vision) == ((), (), None)
        assert told["odd"].loaded == (("odd",) if "loaded_instances" in odd else ())
