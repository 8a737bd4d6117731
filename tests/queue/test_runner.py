"""The runner in this process, against a simulated daemon in its own."""

import queue
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.urls import reverse

from daemonpulse import wakeup
from daemonpulse.queue import runner as runner_module
from daemonpulse.queue.models import Attempt, Chunk, Lane, Prompt, Runner
from daemonpulse.queue.runner import LaneRunner
from fleet.models import Node
from forge import inventory
from forge.models import Model
from tests.conftest import wait_for
from tests.fleet.simulator_fixture import SimulatorProcess

from .prompts import fresh, kinds_of, submit

pytestmark = pytest.mark.django_db(transaction=True)
OTTER, HERON = "simulated/otter-8b", "simulated/heron-3b"
OWL, RAVEN = "simulated/owl-thinker-14b", "simulated/raven-raw-think-7b"
SLOW = {"tokens_per_second": 50}
ENDLESS = "[[tokens=100000]]"


@pytest.fixture(scope="module")
def simulator():
    process = SimulatorProcess().start()
    yield process
    process.stop()


@pytest.fixture
def daemon(simulator, transactional_db):
    simulator.reset()
    return simulator


@pytest.fixture
def box(daemon):
    """A node whose daemon runs."""
    node = Node.objects.create(name="box", base_url=daemon.url, is_simulated=True)
    assert inventory.look(node)
    return node


def load(node: Node, key: str) -> None:
    node.connect().load(key)
    inventory.look(node)


@pytest.fixture(autouse=True)
def as_in_another_process(monkeypatch):
    """The runner hears what the test commits, as it would from the web process; and failures come back soon."""
    monkeypatch.setattr(wakeup, "listen", lambda hear_self=True: wakeup.SocketListener())
    monkeypatch.setattr("daemonpulse.queue.retry.FIRST_DELAY_SECONDS", 0.02)


@pytest.fixture
def work(closing_connections):
    """Starts a runner for as long as the block lasts; yields the function that tells it to stop and waits."""

    @contextmanager
    def start():
        told = threading.Event()
        thread = threading.Thread(target=closing_connections(LaneRunner(told.is_set).run))
        thread.start()

        def stop() -> None:
            told.set()
            thread.join(60)
            assert not thread.is_alive()

        try:
            yield stop
        finally:
            stop()

    return start


def state_of(prompt: Prompt) -> str:
    return Prompt.objects.values_list("state", flat=True).get(pk=prompt.pk)


def wait_for_state(state: str, *prompts: Prompt, seconds: float = 60) -> None:
    ids = [prompt.pk for prompt in prompts]
    wait_for(lambda: Prompt.objects.filter(pk__in=ids, state=state).count() == len(ids), seconds)


def wait_for_text(prompt: Prompt) -> Attempt:
    return wait_for(lambda: Attempt.objects.running().filter(prompt=prompt, chunk_count__gt=0).first())


def active(daemon, model: str = OTTER) -> int:
    return daemon.state()["models"][model]["active"]


def test_it_runs_the_prompts_of_two_models_to_their_ends(alice, daemon, box, work):
    prompts = [submit(alice, f"question {n}", model) for n in range(3) for model in (OTTER, HERON)]

    with work():
        wait_for_state("done", *prompts)

    for prompt in prompts:
        attempt = prompt.attempts.get()
        assert prompt.text in attempt.answer
        assert (attempt.outcome, attempt.node) == ("done", box)
        assert attempt.stats["output_tokens"] > 10
        assert attempt.response_id.startswith("resp_")
        assert kinds_of(prompt) == ["prompt.queued", "prompt.claimed", "prompt.finished"]
    assert not Chunk.objects.exists()
    state = daemon.state()
    assert (state["loads"], state["busy_evictions"]) == (2, 0)


@pytest.mark.parametrize("model", [OWL, RAVEN])
def test_it_keeps_reasoning_apart_from_the_answer(alice, daemon, box, work, model):
    prompt = submit(alice, "Why?", model)

    with work():
        wait_for_state("done", prompt)

    attempt = prompt.attempts.get()
    assert "The question begins with" in attempt.reasoning
    assert "This is a simulated answer" in attempt.answer
    assert "think>" not in attempt.reasoning + attempt.answer


def test_it_stores_the_text_while_it_streams(alice, daemon, box, work):
    daemon.reset(**SLOW)
    prompt = submit(alice, ENDLESS, OTTER)

    with work():
        attempt = wait_for_text(prompt)
        before = attempt.texts()["message"]
        wait_for(lambda: len(fresh(attempt).texts()["message"]) > len(before) + 40)
        chunks = list(attempt.chunks.order_by("seq"))

    assert fresh(attempt).answer.startswith("".join(chunk.text for chunk in chunks))
    assert [chunk.offset for chunk in chunks] == [
        sum(len(earlier.text) for earlier in chunks[:number]) for number in range(len(chunks))
    ]


def test_it_tries_again_what_failed_once(alice, daemon, box, work):
    daemon.control(f"models/{OTTER}", {"fault": {"kind": "error_500", "times": 1}})
    prompt = submit(alice, "Why?", OTTER)

    with work():
        wait_for_state("done", prompt)

    assert list(prompt.attempts.values_list("outcome", "reason")) == [("failed", "server_error"), ("done", "")]
    assert (fresh(prompt).tries, fresh(prompt).reason) == (1, "")


def test_it_keeps_the_partial_answer_of_a_stream_that_was_cut(alice, daemon, box, work):
    daemon.control(f"models/{OTTER}", {"fault": {"kind": "cut", "after_tokens": 5, "times": 1}})
    prompt = submit(alice, "Why?", OTTER)

    with work():
        wait_for_state("done", prompt)

    cut, whole = prompt.attempts.all()
    assert (cut.outcome, cut.reason) == ("failed", "cut")
    assert cut.answer
    assert whole.answer.startswith(cut.answer)


def test_it_gives_up_after_five_tries(alice, daemon, box, work):
    daemon.control(f"models/{OTTER}", {"fault": {"kind": "error_500"}})
    prompt = submit(alice, "Why?", OTTER)

    with work():
        wait_for_state("failed", prompt)

    assert (prompt.attempts.count(), fresh(prompt).tries, fresh(prompt).reason) == (5, 5, "server_error")


def test_it_fails_at_once_when_the_daemon_does_not_know_the_model(alice, daemon, box, work):
    Model.objects.create(node=box, key="simulated/ghost", name="Ghost", type="llm", loaded=[])
    prompt = submit(alice, "Boo?", "simulated/ghost")

    with work():
        wait_for_state("failed", prompt)

    assert (prompt.attempts.count(), fresh(prompt).reason) == (1, "model_not_found")
    assert fresh(Model.objects.get(key="simulated/ghost")).gone_at is not None


def test_it_frees_the_daemons_slot_within_a_second_of_a_cancel(alice, daemon, box, work):
    daemon.reset(**SLOW)
    took = []

    with work():
        for _ in range(3):  # this machine's own pauses are not the runner's
            prompt = submit(alice, ENDLESS, OTTER)
            attempt = wait_for_text(prompt)
            assert active(daemon) == 1

            cancelled_at = time.monotonic()
            assert prompt.cancel()
            assert state_of(prompt) == "cancelled"
            wait_for(lambda: active(daemon) == 0)
            took.append(time.monotonic() - cancelled_at)

    assert min(took) < 1
    stored = fresh(attempt)
    assert (stored.outcome, bool(stored.answer)) == ("cancelled", True)
    assert daemon.state()["models"][OTTER]["cancelled"] == 3


def test_it_frees_the_slot_of_a_cancelled_prompt_even_if_the_call_was_lost(alice, daemon, box, work, monkeypatch):
    """A wake-up call says only "look now"; without it the runner looks by itself (daemonpulse/wakeup.py)."""
    daemon.reset(**SLOW)
    prompt = submit(alice, ENDLESS, OTTER)
    monkeypatch.setattr(wakeup, "listen", lambda hear_self=True: wakeup.SocketListener(hear_self=False))

    with work():
        wait_for_text(prompt)
        prompt.cancel()
        wait_for(lambda: active(daemon) == 0)


def test_it_frees_the_slot_of_a_requeued_prompt_and_runs_it_again(alice, daemon, box, work):
    daemon.reset(**SLOW)
    prompt = submit(alice, ENDLESS, OTTER)

    with work():
        first = wait_for_text(prompt)
        prompt.requeue()
        wait_for(lambda: Attempt.objects.running().filter(prompt=prompt, number=2, chunk_count__gt=0).exists())
        wait_for(lambda: active(daemon) == 1)

    assert fresh(first).outcome == "released"
    assert fresh(first).answer


def test_it_puts_back_what_it_holds_when_it_is_told_to_stop(alice, daemon, box, work):
    daemon.reset(**SLOW)
    prompts = [submit(alice, f"{ENDLESS} {number}", OTTER) for number in range(3)]
    took = []

    for number in range(1, 4):  # this machine's own pauses are not the runner's
        with work() as stop:
            for prompt in prompts:
                wait_for_text(prompt)
            told_at = time.monotonic()
            stop()
            took.append(time.monotonic() - told_at)
        for prompt in prompts:
            attempt = prompt.attempts.get(number=number)
            assert (state_of(prompt), fresh(prompt).tries) == ("queued", 0)
            assert (attempt.outcome, bool(attempt.answer)) == ("released", True)

    assert min(took) < 3
    assert not Runner.row().is_alive
    assert not Chunk.objects.exists()
    wait_for(lambda: active(daemon) == 0)


def test_it_burns_no_try_when_the_daemon_dies_and_goes_on_when_it_is_back(alice, transactional_db, work):
    own = SimulatorProcess().start()
    own.reset(**SLOW)
    node = Node.objects.create(name="attic", base_url=own.url)
    inventory.look(node)
    prompt = submit(alice, "[[tokens=600]]", OTTER)
    try:
        with work():
            first = wait_for_text(prompt)
            own.process.kill()
            own.process.wait(10)
            wait_for_state("queued", prompt)
            assert (fresh(prompt).tries, fresh(prompt).due_at <= fresh(first).finished_at) == (0, True)
            assert fresh(node).state == "offline"
            assert (fresh(first).outcome, bool(fresh(first).answer)) == ("released", True)
            time.sleep(0.3)
            assert prompt.attempts.count() == 1  # it waits for the node

            own.start("--port", str(own.port))
            own.reset()
            inventory.look(node)
            wait_for_state("done", prompt)
    finally:
        own.stop()

    assert prompt.attempts.count() == 2
    assert fresh(prompt).tries == 0


def test_it_leaves_a_dead_node_alone_however_many_prompts_wait(alice, transactional_db, work, monkeypatch):
    def hear_one(runner):
        with suppress(queue.Empty):
            return [runner.inbox.get(timeout=0.05)]
        return []

    # The unluckiest order: the streams end in one turn after another, soon after a plan.
    monkeypatch.setattr(LaneRunner, "_hear", hear_one)
    monkeypatch.setattr(runner_module, "PLAN_PAUSE_SECONDS", 0.5)
    own = SimulatorProcess().start("--slots", "2")
    own.reset(**SLOW)
    node = Node.objects.create(name="attic", base_url=own.url)
    inventory.look(node)
    prompts = [submit(alice, ENDLESS, OTTER) for _ in range(6)]
    try:
        with work():
            wait_for(lambda: Attempt.objects.running().filter(chunk_count__gt=0).count() == 2)
            own.process.kill()
            own.process.wait(10)
            wait_for_state("queued", *prompts)
            time.sleep(1)
            assert Attempt.objects.count() <= 6
    finally:
        own.stop()

    assert fresh(node).state == "offline"
    assert {prompt.tries for prompt in Prompt.objects.all()} == {0}


def test_it_plans_although_something_begins_in_every_turn(alice, daemon, box, work, monkeypatch):
    hear = LaneRunner._hear
    monkeypatch.setattr(LaneRunner, "_hear", lambda runner: hear(runner) or [runner_module.LOOK])
    go_on = LaneRunner._continue_lanes
    monkeypatch.setattr(LaneRunner, "_continue_lanes", lambda runner: go_on(runner) or True)
    prompt = submit(alice, "[[tokens=5]]", OTTER)

    with work():
        wait_for_state("done", prompt)


def test_it_does_no_harm_when_two_run_at_once(alice, daemon, box, work, monkeypatch):
    monkeypatch.setattr(Runner, "take", classmethod(lambda cls, name: True))
    monkeypatch.setattr(Runner, "beat", classmethod(lambda cls, name: True))
    prompts = [submit(alice, f"question {number}", OTTER) for number in range(40)]

    with work(), work():
        wait_for_state("done", *prompts, seconds=30)

    attempts = Attempt.objects.all()
    assert (attempts.count(), set(attempts.values_list("outcome", flat=True))) == (40, {"done"})
    assert daemon.state()["models"][OTTER]["completed"] == 40


def test_it_leaves_the_lanes_to_the_one_that_has_them(alice, daemon, box):
    Runner.take("another")
    submit(alice, "Why?", OTTER)

    LaneRunner().run()  # returns at once

    assert Runner.row().name == "another"
    assert not Attempt.objects.exists()


def test_it_leaves_when_nothing_is_left_to_do(alice, daemon, box, monkeypatch):
    monkeypatch.setattr(runner_module, "LINGER_SECONDS", 0.1)
    prompt = submit(alice, "Why?", OTTER)

    LaneRunner().run()

    assert state_of(prompt) == "done"
    assert not Runner.row().is_alive


def test_it_ends_a_generation_at_its_limit_and_keeps_the_text(alice, daemon, box, work, settings, monkeypatch):
    settings.RUNNER_LIMIT_SECONDS = 60
    monkeypatch.setattr(runner_module, "BEAT_SECONDS", 0.1)
    daemon.reset(**SLOW)
    load(box, OTTER)
    prompt = submit(alice, ENDLESS, OTTER)

    with work():
        wait_for_text(prompt)
        settings.GENERATION_LIMIT_SECONDS = 0.5
        wait_for_state("failed", prompt)

    attempt = prompt.attempts.get()
    assert (fresh(prompt).reason, bool(attempt.answer)) == ("timeout_total", True)
    assert "the longest a prompt may" in fresh(prompt).detail


def test_it_prolongs_its_leases_while_it_streams(alice, daemon, box, work, monkeypatch):
    monkeypatch.setattr(runner_module, "BEAT_SECONDS", 0.1)
    daemon.reset(**SLOW)
    prompt = submit(alice, ENDLESS, OTTER)

    with work():
        attempt = wait_for_text(prompt)
        wait_for(lambda: fresh(attempt).leased_until > attempt.leased_until)


def test_it_logs_and_survives_what_nobody_foresaw(alice, daemon, box, work, monkeypatch):
    load(box, OTTER)
    connect = Node.connect
    broken = iter([True])
    monkeypatch.setattr(Node, "connect", lambda node: 1 / 0 if next(broken, False) else connect(node))
    prompt = submit(alice, "Why?", OTTER)

    with work():
        wait_for_state("done", prompt)

    assert list(prompt.attempts.values_list("outcome", "reason")) == [("failed", "generation_failed"), ("done", "")]


def test_it_continues_a_chat(alice, daemon, box, work):
    first = submit(alice, "First?", OTTER)
    with work():
        wait_for_state("done", first)
        second = submit(alice, "Second?", OTTER, follows=first, node_pin=box)
        wait_for_state("done", second)

    assert "That was question 2 of this chat" in second.attempts.get().answer


def test_it_starts_nothing_of_a_lane_that_was_paused_a_moment_ago(alice, daemon, box, work):
    with work():
        for _ in range(2):  # the second finds the model loaded: the lane may go on by itself
            wait_for_state("done", submit(alice, "Why?", OTTER))
        Lane.for_model(OTTER).pause()
        prompt = submit(alice, "And now?", OTTER)
        time.sleep(1)
        assert state_of(prompt) == "queued"

        Lane.for_model(OTTER).resume()
        wait_for_state("done", prompt)


def test_it_never_asks_for_another_model_while_one_is_at_work(alice, daemon, box, work):
    """Not even for a lane that ran dry a moment ago, whose model the daemon has just thrown out."""
    daemon.control(f"models/{HERON}", {"tokens_per_second": 40, "load_seconds": 0.3})
    with work():
        for _ in range(2):
            wait_for_state("done", submit(alice, "one", OTTER))
        long = submit(alice, "[[tokens=40]]", HERON)
        wait_for(long.attempts.exists)
        short = submit(alice, "two", OTTER)
        wait_for_state("done", long, short)

    assert daemon.state()["busy_evictions"] == 0
    assert long.attempts.count() == short.attempts.count() == 1


def test_it_loads_at_most_four_times_for_a_hundred_prompts_that_alternate(alice, daemon, box, work):
    drafts = [{"model": (OTTER, HERON)[n % 2], "text": f"[[tokens=4]] {n}"} for n in range(100)]
    prompts = Prompt.submit_many(owner=alice, drafts=drafts)

    with work():
        wait_for_state("done", *prompts, seconds=60)

    assert daemon.state()["loads"] <= 4
    assert Attempt.objects.count() == 100


class HalfCharacters(BaseHTTPRequestHandler):
    """An OpenAI-compatible daemon that cuts its tokens between the halves of a surrogate pair."""

    def do_GET(self):
        self.answer("application/json", b'{"object": "list", "data": [{"id": "halves", "object": "model"}]}')

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        deltas = [b'"An otter: \\ud83e"', b'"\\udda6"', b'", and half of one: \\ud83e"']
        lines = [b'data: {"choices": [{"delta": {"content": ' + delta + b"}}]}\n\n" for delta in deltas]
        end = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
        self.answer("text/event-stream", b"".join(lines) + end)

    def answer(self, content_type: str, body: bytes):
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Not into the test's output."""


def test_it_stores_only_text_that_a_page_can_show(alice, transactional_db, work, client):
    server = ThreadingHTTPServer(("127.0.0.1", 0), HalfCharacters)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    node = Node.objects.create(name="odd", kind="openai", base_url=f"http://127.0.0.1:{server.server_port}")
    assert inventory.look(node)
    prompt = submit(alice, "Show me one.", "halves")
    try:
        with work():
            wait_for_state("done", prompt)
    finally:
        server.shutdown()
        server.server_close()

    client.force_login(alice)
    response = client.get(reverse("prompt", args=[prompt.pk]))
    assert response.status_code == 200
    assert ", and half of one:" in response.content.decode()
