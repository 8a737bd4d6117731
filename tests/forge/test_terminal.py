"""Forge's commands in a terminal, on a simulated node."""

import json
import os
import re
import signal
import threading
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.utils import timezone

from daemonpulse.queue.models import Prompt
from fleet import operations
from fleet.agent.keys import AgentKey
from fleet.models import Command, Node, Reading
from fleet.models.command import LOAD
from forge import terminal
from forge.models import Instance, Model
from tests.conftest import wait_for
from tests.fleet.test_pages import GIB, gpu, machine
from tests.forge.simulated_node import BEAVER, HERON, OTTER, OWL, RAVEN, box, load, small  # noqa: F401

pytestmark = pytest.mark.django_db(transaction=True)
TORTOISE = "simulated/tortoise-slow-70b"
HOUR = timedelta(hours=1)


@pytest.fixture
def say(capsys):
    """What a command writes, and the status that it ends with."""

    def run(*arguments) -> tuple[int, str]:
        status, problem = 0, ""
        try:
            call_command(*arguments)
        except CommandError as error:
            status, problem = error.returncode, str(error)
        except SystemExit as end:
            status = end.code
        told = capsys.readouterr()
        return status, told.out + told.err + problem

    return run


def loaded() -> set[str]:
    return set(Instance.objects.values_list("identifier", flat=True))


# models


def test_it_lists_the_models_of_all_nodes_with_their_copies(say, box):  # noqa: F811
    load(box, HERON, context_length=4096, ttl_seconds=600)
    attic = Node.objects.create(name="attic", base_url="http://127.0.0.1:9", state="offline", reason="unreachable",
                                checked_at=timezone.now(), last_seen_at=timezone.now() - 2 * HOUR)  # fmt: skip
    Model.objects.create(node=attic, key="acme/\x1b[31mred", name="A", type="llm", loaded=None)
    status, told = say("models")
    assert status == 0
    rows = [" ".join(line.split()) for line in told.splitlines()]
    assert f"{HERON} 1.9 GiB Q4_K_M 131,072 box loaded" in rows
    assert "acme/red ? ? ? attic not known whether it is loaded" in rows
    assert f"{HERON}: loaded by hand, context 4,096, 4 slots, memory 2.3 GiB (measured), idle, unloaded in" in told
    assert "attic does not answer; what is told of it is 2 h 00 min old. Nothing answers" in told
    assert "box: as of" in told


def test_it_narrows_the_list_and_tells_all_of_it_as_json(say, box):  # noqa: F811
    status, told = say("models", "heron", "--node", "box", "--json")
    (model,) = json.loads(told)["models"]
    assert (model["key"], model["nodes"][0]["copies"]) == (HERON, [])
    assert "No model is found." in say("models", "unicorn")[1]
    status, told = say("models", "--node", "roof")
    assert (status, told) == (1, "There is no node “roof”. Known: box.")


def test_it_teaches_where_there_is_nothing(say):
    assert "daemonpulse node-add" in say("models")[1]


# load


def test_it_loads_with_every_option_and_leaves_the_same_row_as_the_page(say, box):  # noqa: F811
    status, told = say("load", HERON, "--context", "4096", "--parallel", "2", "--gpu", "max", "--flash-attention",
                       "off", "--kv-on-gpu", "on", "--batch", "256", "--ttl", "0", "--identifier", "mine")  # fmt: skip
    assert status == 0, told
    assert "100 %\n" in told and "mine is loaded.\n" in told and "box: done, as mine.\n" in told
    copy = Instance.objects.get()
    assert (copy.identifier, copy.context_length, copy.parallel, copy.ttl_seconds) == ("mine", 4096, 2, None)
    assert copy.options["flash_attention"] is False
    command = Command.objects.get()
    assert (command.action, command.state, command.user) == (LOAD, "done", None)
    assert command.parameters == {"model": HERON, "context_length": 4096, "parallel": 2, "offload_ratio": 1.0,
                                  "flash_attention": False, "offload_kv_cache_to_gpu": True, "eval_batch_size": 256,
                                  "ttl_seconds": 0, "identifier": "mine"}  # fmt: skip


def test_it_loads_what_is_loaded_only_when_told_to_do_it_again(say, box):  # noqa: F811
    load(box, HERON)
    status, told = say("load", HERON)
    assert (status, "loaded on box already" in told, "--again" in told) == (1, True, True)
    status, told = say("load", HERON, "--again")
    assert status == 0, told
    assert loaded() == {HERON, f"{HERON}:2"}


def test_it_knows_of_a_copy_that_came_since_the_last_look(say, box):  # noqa: F811
    box.connect().load(HERON)
    assert not Instance.objects.exists()
    assert "loaded on box already" in say("load", HERON)[1]


def test_it_names_the_option_that_is_wrong(say, box):  # noqa: F811
    status, told = say("load", OWL, "--context", "999999", "--ttl", "soon", "--gpu", "3", "--experts", "2")
    assert status == 1
    for option in ("--context: ", "--ttl: ", "--gpu: ", "--experts: It cannot be set"):
        assert option in told, told
    assert say("load", "heron")[1] == f"No node has the model “heron”. Perhaps: {HERON}."
    other = Node.objects.create(name="other", base_url="http://127.0.0.1:9", checked_at=timezone.now())
    Model.objects.create(node=other, key=HERON, name="H", type="llm", loaded=[])
    assert "Several nodes have simulated/heron-3b: box, other." in say("load", HERON)[1]
    assert "other does not answer: Nothing answers" in say("load", HERON, "--node", "other")[1]
    assert not Command.objects.exists()


def test_it_fails_with_the_engines_own_line(say, box):  # noqa: F811
    status, told = say("load", TORTOISE)
    assert status == 1
    assert "GiB are missing" in told and "does not fit into the node's memory" in told
    status, told = say("load", TORTOISE, "--anyway")
    assert status == 1
    assert "insufficient memory: needs 21.8 GB of VRAM" in told


def test_ctrl_c_calls_the_load_off(say, box, small):  # noqa: F811
    small.control(f"models/{HERON}", {"load_seconds": 2000})

    def interrupt():
        wait_for(lambda: Command.objects.filter(state="running").exists())
        connections.close_all()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    status, told = say("load", HERON)
    thread.join()
    assert status == 1
    assert "Called off. Nothing was loaded." in told
    assert (Command.objects.get().state, small.state()["loads"]) == ("failed", 0)


def test_ctrl_c_twice_leaves_it_and_says_so(say, box, monkeypatch):  # noqa: F811
    def run(command, *more):
        command.claim()
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal.operations, "run", run)
    status, told = say("load", HERON)
    assert (status, "Left. LM Studio may go on with it" in told) == (1, True)
    assert Command.objects.get().state == "interrupted"


def test_it_takes_a_load_back_that_has_to_wait_for_another_one(say, box, monkeypatch):  # noqa: F811
    assert Command.ask(box, LOAD, model=OTTER).claim()
    wait = operations.wait

    def interrupted(command):
        monkeypatch.setattr(terminal.operations, "wait", wait)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(terminal.operations, "wait", interrupted)
    status, told = say("load", HERON)
    assert (status, "Called off. It was called off before it began." in told) == (1, True)


def test_it_follows_a_load_that_the_worker_was_faster_to_take(say, box, monkeypatch):  # noqa: F811
    monkeypatch.setattr(terminal.operations, "is_busy", lambda node: True)

    def work():
        operations.run(wait_for(lambda: Command.objects.filter(state="waiting").first()))
        connections.close_all()

    worker = threading.Thread(target=work)
    worker.start()
    status, told = say("load", HERON)
    worker.join()
    assert status == 0
    assert f"{HERON} is loaded.\n" in told and f"box: done, as {HERON}.\n" in told


# eject


def test_it_ejects_all_that_is_idle_and_names_what_stays(say, box, alice):  # noqa: F811
    for key in (HERON, RAVEN):
        load(box, key)
    prompt, _ = Prompt.submit(owner=alice, model=RAVEN, text="x")
    attempt = Prompt.claim(prompt.lane_id, box.pk, "somebody")[0]
    status, told = say("eject", "--all")
    assert status == 1
    assert f"{RAVEN} on box: {RAVEN} stays loaded. 1 prompt runs on it" in told
    assert "1 of 2 stayed loaded" in told
    assert loaded() == {RAVEN}
    status, told = say("eject", RAVEN)
    assert (status, "stays loaded" in told) == (1, True)
    attempt.prompt.cancel()
    assert say("eject", RAVEN) == (0, f"{RAVEN} is unloaded.\n")
    assert say("eject", "--all", "--node", "box") == (0, "Nothing is loaded.\n")
    assert not loaded()


def test_it_wants_to_know_which_copy(say, box):  # noqa: F811
    load(box, HERON, identifier="mine")
    assert say("eject") == (1, "Name one copy, or use --all. Loaded: mine on box.")
    assert say("eject", "yours") == (1, "There is no loaded copy “yours”. Loaded: mine.")
    assert say("eject", HERON)[0] == 0  # its only copy
    assert not loaded()


# fit


def test_it_says_whether_a_load_would_fit_and_ends_so(say, box):  # noqa: F811
    for key in (HERON, RAVEN):
        load(box, key)
    status, told = say("fit", BEAVER, "--context", "8192")
    assert status == 0
    assert told.startswith(f"{BEAVER} on box: fits\n")
    assert f"  Unloads first: {HERON}.\n" in told
    assert "LM Studio's own estimate: 4.7 GiB for the model and 1.1 GiB for the context, high confidence." in told
    assert loaded() == {HERON, RAVEN}
    status, told = say("fit", OWL, "--context", "40960")
    assert (status, "on box: does not fit\n" in told, "are missing" in told) == (1, True, True)
    assert say("fit", OWL, "--context", "many")[0] == 2


def test_it_measures_the_machine_before_it_judges(say, box):  # noqa: F811
    Reading.of(box).keep(machine(gpu(memory_free_bytes=1 * GIB)))
    told = json.loads(say("fit", HERON, "--context", "4096", "--json")[1])
    assert (told["verdict"], told["notes"], told["lmstudio"]["confidence"]) == ("fits", [], "high")
    assert told["free_bytes"] > 10 * GIB
    assert Reading.objects.get().machine.gpus[0].memory_free_bytes > 10 * GIB


def test_it_falls_back_on_the_last_reading_and_tells_its_age(say):
    rig = Node.objects.create(name="rig", base_url="http://127.0.0.1:9", checked_at=timezone.now(),
                              agent_url="http://127.0.0.1:9", agent_key=AgentKey.make().to_text())  # fmt: skip
    Model.objects.create(node=rig, key="acme/otter", name="O", type="llm", loaded=[], size_bytes=30 * GIB)
    assert say("fit", "acme/otter")[0] == 2  # nothing is known of its machine
    Reading.of(rig).keep(machine(gpu()))
    Reading.objects.update(read_at=timezone.now() - timedelta(minutes=5))
    status, told = say("fit", "acme/otter")
    assert status == 1
    assert re.search(r"Measured 5 min \d\d s ago\.", told)
    for part in ("rig does not answer", "could not be measured now. Nothing answers",
                 "own estimate could not be had"):  # fmt: skip
        assert part in told, told
