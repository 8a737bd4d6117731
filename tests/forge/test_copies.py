"""Loaded copies as rows: whose they are, what they do for others, and what gives LM Studio's auto-evict away."""

import threading

import pytest

from fleet.daemons.types import ChatRequest
from fleet.models import Command, Node
from fleet.models.command import LOAD, UNLOAD
from forge import files, loading, states
from forge.inventory import look
from forge.models import Instance, LoadProfile, Model, NodePolicy, Origin
from tests.conftest import wait_for
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.forge.test_loading import HERON, OTTER, RAVEN, run

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def process():
    made = SimulatorProcess().start("--speed", "50", "--vram-gb", "48")
    yield made
    made.stop()


@pytest.fixture
def box(process, monkeypatch):
    process.reset()
    node = Node.objects.create(name="box", base_url=process.url, is_simulated=True, state="online")
    look(node)
    files.fill(node)
    return node


def chat(node: Node, key: str, text: str = "Hi [[tokens=2]]") -> None:
    """Somebody else's request: LM Studio loads the model just in time."""
    for _ in node.connect().chat(ChatRequest(key, text)):
        pass


def test_it_sees_what_was_loaded_elsewhere_and_guesses_who_it_was(box):
    chat(box, HERON)
    box.connect().load(RAVEN)  # as LM Studio's own window does
    look(box)
    states.refresh(box)
    files.fill(box)
    by_key = {copy.model.key: copy for copy in Instance.objects.select_related("model")}
    assert by_key[HERON].origin == Origin.JUST_IN_TIME
    assert by_key[HERON].told_ttl_seconds == 3600
    assert by_key[RAVEN].origin == Origin.ELSEWHERE
    assert by_key[RAVEN].ttl_seconds is by_key[RAVEN].unload_at is None, "it is not ours to unload"
    assert by_key[RAVEN].bytes_by_gpu == {"0": 4_680_000_000 + 8192 * 57_344}
    assert not by_key[RAVEN].is_measured


def test_it_forgets_a_copy_that_is_gone(box):
    instance = box.connect().load(HERON)
    look(box)
    box.connect().unload(instance)
    look(box)
    assert not Instance.objects.exists()
    assert Model.objects.get(key=HERON).loaded == []


def test_it_keeps_the_idle_time_that_was_wished_for_a_model_whoever_loads_it(box):
    LoadProfile.choose(Model.objects.get(key=HERON), ttl_seconds=300)
    box.connect().load(HERON)
    look(box)
    copy = Instance.objects.get()
    assert (copy.ttl_seconds, copy.unload_at > copy.used_at) == (300, True)


def test_it_sees_that_a_copy_works_for_somebody_else(box, process):
    box.connect().load(HERON)
    look(box)
    process.control(f"models/{HERON}", {"tokens_per_second": 1})
    stream = box.connect().chat(ChatRequest(HERON, "[[tokens=100000]]"))
    threading.Thread(target=lambda: [None for _ in stream], daemon=True).start()
    wait_for(lambda: process.state()["models"][HERON]["active"])
    states.refresh(box)
    assert Instance.objects.get().was_seen_busy
    stream.close()


def test_it_notices_that_lm_studio_evicts_by_itself(box):
    chat(box, HERON)
    look(box)
    assert not NodePolicy.objects.exists()
    chat(box, RAVEN)  # the daemon lets go of the other one for it
    look(box)
    policy = NodePolicy.objects.get()
    assert (policy.auto_evict_gone, policy.auto_evict_came) == (HERON, RAVEN)
    policy.forgive()
    assert NodePolicy.objects.get().auto_evict_seen_at is None


def test_it_does_not_take_its_own_loads_and_unloads_for_it(box, monkeypatch):
    assert run(box, LOAD, model=HERON).state == "done"
    assert run(box, UNLOAD, instance=HERON, model=HERON).state == "done"
    assert run(box, LOAD, model=RAVEN).state == "done"
    monkeypatch.setattr(loading.inventory, "look", lambda node: None)  # the prober is the one that sees it first
    Command.ask(box, LOAD, model=OTTER).claim()
    box.connect().unload(RAVEN)
    Instance.objects.update(state=Instance.State.UNLOADING)
    box.connect().load(OTTER)
    look(box)
    assert not NodePolicy.objects.exists()
