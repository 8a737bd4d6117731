"""The state machine: every move there is, and who wins when two move at once."""

import pytest
from django.db import connection, transaction

from daemonpulse.models import Event
from daemonpulse.queue.models import Prompt
from daemonpulse.queue.states import EVENT_KINDS, MOVES, State

from .prompts import HOPELESS, claim, die, fresh, make_due, running, submit

# Written out again on purpose: the table in states.py is what is tested.
ALLOWED = {
    ("queued", "sending"),
    ("queued", "cancelled"),
    ("sending", "queued"),
    ("sending", "done"),
    ("sending", "failed"),
    ("sending", "cancelled"),
    ("failed", "queued"),
    ("cancelled", "queued"),
}
LOGGED = {
    "queued": "prompt.queued",
    "sending": "prompt.claimed",
    "done": "prompt.finished",
    "failed": "prompt.failed",
    "cancelled": "prompt.cancelled",
}
PAIRS = [(old, new) for old in State.values for new in State.values]

pytestmark = pytest.mark.django_db


def in_state(owner, state: str, attempt_number: int = 3) -> Prompt:
    prompt = submit(owner)
    Prompt.objects.filter(pk=prompt.pk).update(state=state, attempt_number=attempt_number)
    Event.objects.all().delete()
    return Prompt.objects.get(pk=prompt.pk)


@pytest.mark.parametrize(("old", "new"), [pair for pair in PAIRS if pair in ALLOWED])
def test_it_moves_where_the_table_allows_and_leaves_one_event(alice, old, new):
    prompt = in_state(alice, old)

    assert prompt.move(State(new), reason="busy") is True

    stored = fresh(prompt)
    assert (stored.state, stored.reason) == (new, "busy")
    assert (prompt.state, prompt.reason) == (new, "busy")
    event = Event.objects.get()
    assert (event.kind, event.subject, event.owner) == (LOGGED[new], str(prompt.pk), alice)
    assert event.data == {"state": new, "attempt": 3, "lane": prompt.lane_id}


@pytest.mark.parametrize(("old", "new"), [pair for pair in PAIRS if pair not in ALLOWED])
def test_it_refuses_every_other_move_and_leaves_nothing(alice, old, new):
    prompt = in_state(alice, old)

    with pytest.raises(ValueError, match=f"cannot go from {old} to {new}"):
        prompt.move(State(new), reason="busy")

    assert (fresh(prompt).state, fresh(prompt).reason) == (old, "")
    assert not Event.objects.exists()


def test_it_has_an_entry_for_every_state():
    assert set(MOVES) == set(EVENT_KINDS) == set(State)


def test_it_moves_many_at_once_and_leaves_out_those_that_went_on(alice):
    prompts = [submit(alice) for _ in range(4)]
    Prompt.objects.filter(pk=prompts[1].pk).update(attempt_number=1)
    Prompt.objects.filter(pk=prompts[2].pk).update(state="done")
    Event.objects.all().delete()

    moved = Prompt.move_all(prompts, State.CANCELLED, reason="busy")

    assert moved == [prompts[0], prompts[3]]
    assert [fresh(prompt).state for prompt in prompts] == ["cancelled", "queued", "done", "cancelled"]
    assert [prompt.state for prompt in prompts] == ["cancelled", "queued", "queued", "cancelled"]
    assert {event.subject for event in Event.objects.all()} == {str(prompt.pk) for prompt in moved}
    assert Event.objects.count() == 2


def test_it_moves_none_of_many_when_one_may_not(alice, node):
    prompts = [submit(alice), running(alice, node, model="heron")[0]]

    with pytest.raises(ValueError, match="cannot go from queued to done"):
        Prompt.move_all(prompts, State.DONE)

    assert [fresh(prompt).state for prompt in prompts] == ["queued", "sending"]


def test_it_writes_the_state_and_its_event_together_or_not_at_all(alice, monkeypatch):
    prompt = in_state(alice, "queued")
    monkeypatch.setattr("daemonpulse.queue.models.running.record_many", lambda events: 1 / 0)

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        prompt.move(State.CANCELLED)

    assert fresh(prompt).state == "queued"


@pytest.mark.django_db(transaction=True)
def test_it_writes_the_state_and_its_event_in_one_transaction(alice, monkeypatch):
    prompt = in_state(alice, "queued")
    seen = []
    monkeypatch.setattr(
        "daemonpulse.queue.models.running.record_many", lambda events: seen.append(connection.in_atomic_block)
    )

    prompt.move(State.CANCELLED)

    assert seen == [True]


@pytest.mark.parametrize("meanwhile", [{"state": "cancelled"}, {"attempt_number": 4}, {"state": "done"}])
def test_it_loses_the_race_when_the_prompt_went_on_without_it(alice, meanwhile):
    prompt = in_state(alice, "sending")
    Prompt.objects.filter(pk=prompt.pk).update(**meanwhile)
    Event.objects.all().delete()

    assert prompt.move(State.QUEUED, reason="cut") is False

    expected = {"state": "sending", "attempt_number": 3} | meanwhile
    stored = fresh(prompt)
    assert (stored.state, stored.attempt_number, stored.reason) == (*expected.values(), "")
    assert (prompt.state, prompt.reason) == ("sending", "")
    assert not Event.objects.exists()


def test_it_keeps_a_stale_worker_from_finishing_a_rescued_prompt(alice, node):
    prompt, attempt = running(alice, node)
    die(attempt)
    Prompt.rescue()
    make_due(prompt)
    second = claim(prompt, node, "runner/2")

    assert prompt.finish(attempt, [("message", "from the dead")]) is False

    stored = fresh(prompt)
    assert (stored.state, stored.attempt_number) == ("sending", 2)
    assert fresh(attempt).outcome == "lost"
    assert fresh(attempt).answer == ""
    assert second.prompt.finish(second, [("message", "alive")]) is True
    assert fresh(second).answer == "alive"


def test_it_keeps_a_stale_worker_from_failing_or_releasing_a_rescued_prompt(alice, node):
    prompt, attempt = running(alice, node)
    die(attempt)
    Prompt.rescue()
    claim(prompt, node, "runner/2")

    assert prompt.fail(attempt, HOPELESS) is False
    assert prompt.release(attempt, "released") is False

    assert (fresh(prompt).state, fresh(prompt).tries) == ("sending", 0)
