"""The event log: written with the change it tells of, read past a cursor."""

import pytest
from django.db import transaction

from daemonpulse.models import Event
from daemonpulse.models.event import record, record_many

pytestmark = pytest.mark.django_db


def kinds(after=0):
    return [event.kind for event in Event.objects.after(after)]


def test_it_is_written_in_the_transaction_of_the_change(alice):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        alice.first_name = "Alicia"
        alice.save()
        record("user.renamed", alice.pk)
        raise ZeroDivisionError
    alice.refresh_from_db()
    assert alice.first_name == ""
    assert not Event.objects.exists()


def test_it_is_read_past_a_cursor_in_order():
    first = record("lane.paused", 7)
    second = record("lane.resumed", 7)
    third = record("node.online", 1)
    assert first.id < second.id < third.id
    assert kinds() == ["lane.paused", "lane.resumed", "node.online"]
    assert kinds(first.id) == ["lane.resumed", "node.online"]
    assert kinds(third.id) == []
    assert Event.objects.last_id() == third.id


def test_it_begins_at_zero():
    assert Event.objects.last_id() == 0


def test_it_never_gives_an_id_twice():
    """A cursor must not come to stand before an event that was already told."""
    last = record("node.online", 1).id
    Event.objects.all().delete()
    assert record("node.online", 1).id > last


def test_it_keeps_the_facts(alice):
    record("prompt.submitted", "a-b-c", owner_id=alice.pk, lane=3, state="queued")
    event = Event.objects.get()
    assert (event.kind, event.subject, event.owner, event.noun) == ("prompt.submitted", "a-b-c", alice, "prompt")
    assert event.data == {"lane": 3, "state": "queued"}


def test_it_tells_the_subject_the_owner_and_everybody(alice):
    event = record("prompt.submitted", "abc", owner_id=alice.pk)
    assert event.groups == ["prompt.abc", f"user.{alice.pk}", "all.prompt"]
    assert record("node.online", 4).groups == ["node.4", "all.node"]


def test_it_tells_growing_output_to_the_prompts_viewers_only(alice):
    event = record("prompt.output", "abc", owner_id=alice.pk)
    assert event.is_transient
    assert event.groups == ["prompt.abc"]


def test_it_writes_many_at_once(alice, django_assert_num_queries):
    with django_assert_num_queries(1):
        record_many([Event(kind="prompt.queued", subject=str(n), owner=alice) for n in range(50)])
    assert Event.objects.count() == 50
    assert [event.subject for event in Event.objects.after(0)] == [str(n) for n in range(50)]
    with django_assert_num_queries(0):
        record_many([])


def test_it_outlives_its_owner(alice):
    record("prompt.submitted", "abc", owner_id=alice.pk)
    alice.delete()
    assert Event.objects.get().owner is None
