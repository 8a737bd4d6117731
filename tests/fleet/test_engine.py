"""The OpenAI adapter on a real engine: llama.cpp with a tiny model of random weights."""

import threading
import time

import pytest

from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.kinds import detect
from fleet.daemons.openai import OpenAICompatible
from fleet.daemons.types import ChatRequest, Finished, Message, Started, Turn
from pulse.inference import Inference
from pulse.thinking import Kind
from tests.conftest import wait_for
from tests.fleet.engine import MODEL, EngineProcess

pytestmark = pytest.mark.engine
SLOTS = 2
LONG = {"max_output_tokens": 8000}


@pytest.fixture(scope="module")
def engine():
    engine = EngineProcess().start(slots=SLOTS)
    yield engine
    engine.stop()


@pytest.fixture
def daemon(engine):
    return OpenAICompatible(engine.url)


def ask(text="Tell me about otters", tokens=40, **more):
    settings = {"max_output_tokens": tokens, "temperature": 0.8} | more.pop("settings", {})
    return ChatRequest(model=MODEL, text=text, settings=settings, **more)


def run(daemon, request):
    return [event for events in daemon.chat(request) for event in events]


def text_of(events):
    return "".join(event.text for event in events if isinstance(event, Message))


def test_it_is_found(engine):
    assert detect(engine.url) == "openai"


def test_it_lists_its_model_and_slots(daemon):
    (model,) = daemon.models()
    assert (model.key, model.type, model.slots, model.knows_loaded) == (MODEL, "llm", SLOTS, False)


def test_it_streams_an_answer_of_the_length_asked_for(daemon):
    steps = list(daemon.chat(ask(tokens=40)))
    events = [event for step in steps for event in step]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert events[-1].stats["output_tokens"] == 40
    assert events[-1].stats["input_tokens"] > 20
    assert events[-1].stats["stop_reason"] == "length"
    assert len(steps) > 3
    assert text_of(events)


def test_it_bears_broken_characters(daemon):
    """Random weights write random bytes; no piece may break the stream or the encoding of what is stored."""
    texts = [text_of(run(daemon, ask(f"number {n}", tokens=200, settings={"temperature": 1.5}))) for n in range(5)]
    assert any("\ufffd" in text for text in texts)
    assert all(text.encode() for text in texts)


def test_it_runs_through_the_whole_of_an_inference(daemon):
    steps = list(Inference(daemon.chat(ask(tokens=60))))
    stats = steps[-1].finished.stats
    assert stats["first_token_seconds"] >= 0
    assert stats["output_tokens"] == 60
    assert {kind for step in steps for kind, _ in step.pieces} <= {Kind.MESSAGE, Kind.REASONING}


def begin(daemon, request):
    """A stream that a thread of its own reads; (stream, thread, events so far)."""
    stream, events = daemon.chat(request), []
    thread = threading.Thread(target=lambda: [events.extend(step) for step in stream], daemon=True)
    thread.start()
    return stream, thread, events


def is_seen_busy(engine, begun) -> bool:
    """All of these answers were seen in a slot at once; not so where one had ended before anybody looked."""
    while all(thread.is_alive() for _, thread, _ in begun):
        if engine.busy_slots == len(begun):
            return True
    return False


def end(begun) -> None:
    for stream, thread, _ in begun:
        stream.close()
        thread.join(60)
        assert not thread.is_alive()


def is_freed_soon(daemon, engine, seconds) -> bool:
    """Cancelled so long after it was seen in its slot, an answer is gone from there within a second, and no end of it
    is told."""
    wait_for(lambda: engine.busy_slots == 0)
    begun = [begin(daemon, ask(settings=LONG))]
    is_busy = is_seen_busy(engine, begun)
    time.sleep(seconds)
    [(_, thread, events)] = begun
    is_busy = is_busy and thread.is_alive()  # it may have come to its own end meanwhile
    began = time.monotonic()
    end(begun)
    wait_for(lambda: engine.busy_slots == 0, step=0.005)
    took = time.monotonic() - began
    assert not (is_busy and any(isinstance(event, Finished) for event in events))
    return is_busy and took < 1


# A long answer lasts some seconds only: on a busy machine one may be over before it is looked at, or cancelled.
TRIES = 5


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_it_frees_its_slot_when_cancelled(daemon, engine, seconds):
    assert any(is_freed_soon(daemon, engine, seconds) for _ in range(TRIES))


def test_it_answers_in_as_many_slots_as_it_tells(daemon, engine):
    def is_so():
        begun = [begin(daemon, ask(f"number {n}", settings=LONG)) for n in range(SLOTS)]
        try:
            return is_seen_busy(engine, begun)
        finally:
            end(begun)

    assert any(is_so() for _ in range(TRIES))


def test_it_reads_the_history_of_a_chat(daemon):
    first = run(daemon, ask("Hello"))
    earlier = Turn("Hello", text_of(first))
    without = run(daemon, ask("And now?"))[-1].stats["input_tokens"]
    with_history = run(daemon, ask("And now?", history=(earlier,)))[-1].stats["input_tokens"]
    with_system = run(daemon, ask("And now?", system_prompt="Be brief."))[-1].stats["input_tokens"]
    assert with_history > without + len("Hello")
    assert with_system > without


def test_it_says_when_a_prompt_is_longer_than_its_context(daemon):
    with pytest.raises(DaemonError) as caught:
        run(daemon, ask("x" * 10_000))
    assert caught.value.reason is Reason.BAD_REQUEST
    assert "context" in caught.value.detail
