"""What a load and an unload look at before they act: nodes change between two looks."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from daemonpulse.queue.models import Lane, Prompt
from fleet import hosts, operations
from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.types import InstanceState
from fleet.models import Command, Reading
from fleet.models.command import LOAD, UNLOAD
from forge import inventory, states, wishes
from forge.eviction import Why
from forge.inventory import look
from forge.loading import NoRoom
from forge.models import Instance, LoadProfile, Model, Origin
from forge.places import ask_for_load
from forge.preview import preview
from forge.queue_loads import QueueLoad
from tests.forge.test_loading import BEAVER, HERON, OWL, RAVEN, box, loaded, run, small  # noqa: F401

pytestmark = pytest.mark.django_db(transaction=True)


def for_queue(node, key, **more) -> Command:
    return run(node, LOAD, model=key, **{"for": "queue"}, **more)


def test_the_queue_loads_no_second_copy_of_what_somebody_else_has_just_loaded(box, small):  # noqa: F811
    box.connect().load(HERON)  # and nobody has looked since
    command = for_queue(box, HERON)
    assert command.state == "done"
    assert small.state()["loads"] == 1
    assert "is loaded already" in command.output


def test_a_copy_that_is_gone_already_does_not_fail_the_load_that_wants_its_room(box, monkeypatch):  # noqa: F811
    for key in (HERON, RAVEN):
        assert run(box, LOAD, model=key).state == "done"
    unload = type(box.connect()).unload

    def twice(self, instance):
        unload(self, instance)
        unload(self, instance)  # the daemon knows no such copy any more

    monkeypatch.setattr(type(box.connect()), "unload", twice)
    command = for_queue(box, BEAVER)
    assert command.state == "done", command.output
    assert loaded(box) == {RAVEN, BEAVER}


def test_a_moment_of_silence_of_its_machine_costs_nobody_their_model(box, monkeypatch):  # noqa: F811
    run(box, LOAD, model=HERON)
    monkeypatch.setattr(hosts.SimulatedMachine, "telemetry", _silent)
    command = for_queue(box, RAVEN)
    assert command.state == "failed"
    assert command.result["can_pass"] is True
    assert loaded(box) == {HERON}


def _silent(machine):
    raise DaemonError(Reason.TIMEOUT)


def test_where_nothing_can_be_measured_the_queue_replaces_what_nobody_loaded_by_hand(box, monkeypatch):  # noqa: F811
    run(box, LOAD, model=HERON)
    for_queue(box, RAVEN)
    monkeypatch.setattr(hosts.SimulatedMachine, "telemetry", _silent)
    Reading.objects.update(read_at=timezone.now() - timedelta(minutes=5))
    assert for_queue(box, BEAVER, context_length=1024).state == "done"
    assert loaded(box) == {HERON, BEAVER}
    copy = Instance.objects.get(identifier=BEAVER)
    assert (copy.is_measured, copy.bytes_by_gpu) == (False, None)


def test_what_stands_beside_a_pinned_one_may_pass(box):  # noqa: F811
    assert NoRoom("", (("heron", Why.PINNED), ("raven", Why.BUSY))).can_pass
    assert not NoRoom("", (("heron", Why.PINNED),)).can_pass


def test_an_idle_unload_that_came_late_looks_again(box, alice):  # noqa: F811
    run(box, LOAD, model=HERON, ttl_seconds=60)
    Instance.objects.update(used_at=timezone.now())
    command = run(box, UNLOAD, instance=HERON, model=HERON, why="idle")
    assert command.state == "done"
    assert "was used meanwhile" in command.output
    assert loaded(box) == {HERON}


def test_what_was_used_last_stays(box, alice):  # noqa: F811
    for key in (HERON, RAVEN):
        run(box, LOAD, model=key)
    prompt, _ = Prompt.submit(owner=alice, model=HERON, text="x")  # loaded first, but used now
    attempt = Prompt.claim(prompt.lane_id, box.pk, "somebody", is_loaded=True)[0]
    attempt.prompt.finish(attempt)
    assert for_queue(box, BEAVER).state == "done"
    assert loaded(box) == {HERON, BEAVER}


def test_it_claims_nothing_for_a_model_that_has_just_gone(box, alice):  # noqa: F811
    prompt, _ = Prompt.submit(owner=alice, model=HERON, text="x")
    assert Prompt.claim(prompt.lane_id, box.pk, "somebody", is_loaded=True) == []
    assert len(Prompt.claim(prompt.lane_id, box.pk, "somebody")) == 1  # it brings its load with it


def test_it_claims_nothing_while_its_copy_is_being_unloaded(box, alice):  # noqa: F811
    run(box, LOAD, model=HERON)
    Instance.objects.get().move(Instance.State.UNLOADING)
    prompt, _ = Prompt.submit(owner=alice, model=HERON, text="x")
    assert Prompt.claim(prompt.lane_id, box.pk, "somebody", is_loaded=True) == []
    assert Instance.rescue() == 0
    Instance.objects.update(state_since=timezone.now() - timedelta(seconds=9))
    assert Instance.rescue() == 1
    assert len(Prompt.claim(prompt.lane_id, box.pk, "somebody", is_loaded=True)) == 1


def test_an_answer_that_was_asked_for_earlier_changes_nothing(box):  # noqa: F811
    before = inventory.ask(box)
    run(box, LOAD, model=HERON, ttl_seconds=60)
    inventory.record(box, before)
    copy = Instance.objects.get()
    assert (copy.origin, copy.ttl_seconds) == (Origin.PERSON, 60)
    inventory.record(box, replace(before, asked_at=timezone.now()))
    assert not Instance.objects.exists()


def test_it_says_whose_a_copy_is_that_a_dead_worker_left_loading(box):  # noqa: F811
    LoadProfile.choose(Model.objects.get(key=HERON), ttl_seconds=300)
    command = Command.ask(box, LOAD, model=HERON, **{"for": "queue"})
    command.claim()
    command.interrupt("its worker died")
    box.connect().load(HERON)
    look(box)
    copy = Instance.objects.get()
    assert (copy.origin, copy.ttl_seconds) == (Origin.QUEUE, 300)


def test_a_load_that_the_worker_ran_fails_with_the_same_reason(box, monkeypatch):  # noqa: F811
    for key in (HERON, RAVEN):
        run(box, LOAD, model=key)
    Instance.objects.update(busy_seen_at=timezone.now())
    ask = Command.ask

    def ask_and_let_the_worker_be_faster(*args, **parameters):
        command = ask(*args, **parameters)
        operations.run(Command.objects.get(pk=command.pk))
        return command

    monkeypatch.setattr(Command, "ask", ask_and_let_the_worker_be_faster)
    with pytest.raises(NoRoom) as raised:
        QueueLoad(box, BEAVER).run(lambda fraction: None)
    assert raised.value.can_pass


def test_a_lane_whose_load_found_no_room_has_waited_all_the_time(alice, node):
    prompt, _ = Prompt.submit(owner=alice, model="otter", text="x")
    lane = prompt.lane
    long_ago = timezone.now() - timedelta(minutes=5)
    Lane.objects.filter(pk=lane.pk).update(served_at=long_ago)
    attempt = Prompt.claim(lane.pk, node.pk, "somebody")[0]
    attempt.prompt.lane.was_not_served(attempt.started_at)
    assert Lane.objects.get(pk=lane.pk).served_at == long_ago


def test_a_models_own_copies_make_no_room_for_another_one(box):  # noqa: F811
    run(box, LOAD, model=BEAVER)
    command = run(box, LOAD, model=BEAVER)
    assert command.state == "failed"
    assert loaded(box) == {BEAVER}


def test_of_many_presses_one_is_a_load(box, alice):  # noqa: F811
    model = Model.objects.get(key=HERON)
    asked = [ask_for_load(model, {"model": HERON}, alice, False) for _ in range(3)]
    assert [bool(command) for command, _ in asked] == [True, False, False]
    operations.run(asked[0][0])
    assert ask_for_load(model, {"model": HERON}, alice, False) == (
        None, "It is loaded already. “Load another copy” makes a second one."
    )  # fmt: skip
    assert ask_for_load(model, {"model": HERON}, alice, True)[0]


def test_our_own_work_is_nobody_elses(box, small, alice):  # noqa: F811
    run(box, LOAD, model=HERON)
    prompt, _ = Prompt.submit(owner=alice, model=HERON, text="x")
    Prompt.claim(prompt.lane_id, box.pk, "somebody")
    copy = Instance.objects.get()
    busy = InstanceState(HERON, HERON, status="generating", queued=1)
    states.take_over(copy, busy, is_ours=True)
    copy.refresh_from_db()
    assert not copy.was_seen_busy
    states.take_over(copy, busy)
    copy.refresh_from_db()
    assert copy.was_seen_busy


def test_what_our_running_load_brings_is_ours_before_it_is_over(box):  # noqa: F811
    Command.ask(box, LOAD, model=HERON, ttl_seconds=120).claim()
    box.connect().load(HERON)
    look(box)
    assert (Instance.objects.get().origin, Instance.objects.get().ttl_seconds) == (Origin.PERSON, 120)


def test_the_largest_context_counts_what_can_go_in_figure_and_words(box):  # noqa: F811
    run(box, LOAD, model=HERON)
    wish = wishes.read(box, {"model": OWL, "context_length": 40_960})
    look(box)
    seen = preview(wish)
    assert not seen.decision.is_possible
    tokens = seen.fit_after.largest_context
    assert tokens and any(f"{tokens:,} tokens" in sentence for sentence in seen.fit_after.sentences)
