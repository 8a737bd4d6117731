"""What devices are told: changes since a cursor, a listing where there is none, long texts in pieces."""

import json
from datetime import timedelta
from unittest.mock import patch

import pytest
from django.db import transaction
from django.utils import timezone

from daemonpulse import sealing
from daemonpulse.models import Event
from daemonpulse.models.event import record
from daemonpulse.queue import watch
from daemonpulse.queue.models import Prompt
from daemonpulse.queue.sync import pulling
from daemonpulse.queue.watch import tidy
from pulse.thinking import Kind

from .devices import TestDevice
from .prompts import claim, done, fresh, running, stream, submit

pytestmark = pytest.mark.django_db


@pytest.fixture
def phone(alice, node):
    return TestDevice(alice)


def ids(changes) -> list[str]:
    return [change["id"] for change in changes]


def test_it_lists_everything_newest_first_and_goes_on_from_before_it_began(phone, alice):
    prompts = [submit(alice, f"question {n}") for n in range(7)]
    page = phone.pull(limit=3)
    assert (page["reset"], page["more"]) == (True, True)
    assert ids(page["changes"]) == [str(prompt.pk) for prompt in reversed(prompts)][:3]
    late = submit(alice, "while it lists")
    prompts[0].cancel()
    rest, cursor = phone.pull_all(page["cursor"], limit=3)
    assert ids(rest) == [str(prompt.pk) for prompt in reversed(prompts)][3:]
    after, _ = phone.pull_all(cursor)
    assert {str(late.pk), str(prompts[0].pk)} <= set(ids(after))


def test_it_tells_each_changed_prompt_once_as_it_is_now(phone, alice, node):
    _, cursor = phone.pull_all()
    first, second = submit(alice, "first"), submit(alice, "second", model="heron")
    attempt = claim(first, node)
    stream(attempt, (Kind.MESSAGE, "because"))
    attempt.prompt.finish(attempt, stats={"output_tokens": 1})
    changes, cursor = phone.pull_all(cursor)
    assert ids(changes) == [str(second.pk), str(first.pk)]  # in the order of their last changes
    told = changes[1]
    assert (told["state"], told["answer"], told["text"]) == ("done", "because", "first")
    assert (told["attempts"], told["stats"]) == (1, {"output_tokens": 1})
    assert phone.pull_all(cursor)[0] == []


def test_it_tells_the_answer_so_far(phone, alice, node):
    _, attempt = running(alice, node)
    stream(attempt, (Kind.REASONING, "hm"), (Kind.MESSAGE, "bec"), (Kind.MESSAGE, "ause"))
    (change,), _ = phone.pull_all()
    assert (change["state"], change["reasoning"], change["answer"]) == ("sending", "hm", "because")


def test_it_tells_what_was_deleted_and_edited(phone, alice):
    gone, kept = submit(alice, "gone"), submit(alice, "kept")
    _, cursor = phone.pull_all()
    gone_id = str(gone.pk)
    gone.remove()
    kept.edit(text="changed")
    page = phone.pull(cursor)
    assert page["removed"] == [gone_id]
    assert [change["text"] for change in page["changes"]] == ["changed"]
    assert not phone.pull(page["cursor"])["removed"]


def test_it_tells_nothing_of_others(phone, bob, node):
    _, cursor = phone.pull_all()
    prompt = submit(bob, "not hers")
    assert phone.pull_all(cursor)[0] == phone.pull_all()[0] == []
    status, answer = phone.call("text", {"prompt": str(prompt.pk), "field": "text", "offset": 0})
    assert (status, answer["error"]["code"]) == (404, "not_found")
    prompt.remove()
    assert phone.pull(cursor)["removed"] == []


@pytest.mark.parametrize(
    "cursor", ["", "x", "e.", "e.999999", "e.1.2", "l.1.2", "l.1..-99999999999999999999.00", "é", "e.²"]
)
def test_a_cursor_that_is_none_of_ours_begins_anew(phone, alice, cursor):
    prompt = submit(alice)
    page = phone.pull(cursor)
    assert (page["reset"], ids(page["changes"])) == (True, [str(prompt.pk)])


def test_a_cursor_older_than_the_log_begins_anew(phone, alice):
    prompt = submit(alice)
    _, cursor = phone.pull_all()
    assert not phone.pull(cursor)["reset"]
    for _ in range(2):
        prompt.cancel(), fresh(prompt).retry()
        prompt = fresh(prompt)
    newest = Event.objects.last_id()
    Event.objects.filter(id__lt=newest).delete()
    assert phone.pull(cursor)["reset"]
    Event.objects.all().delete()
    assert phone.pull(f"e.{newest}")["reset"]


def test_a_page_has_at_most_a_megabyte_and_at_least_one_change(alice, node):
    sealed = TestDevice(alice, sealed=True)
    for n in range(8):
        done(alice, node, text="ä" * 31_000, answer=("€" * 200_000, "x")[n % 2])
    changes, cursor = [], ""
    while True:
        body = sealed.sealed("pull", {"cursor": cursor})
        answer = sealed.post("pull", body, "application/jose")
        assert len(answer.content) <= 1_000_000
        page = json.loads(sealing.open_sealed(sealed.key, answer.content.decode())[1])
        assert page["changes"]
        changes += page["changes"]
        cursor = page["cursor"]
        if not page["more"]:
            break
    assert len(set(ids(changes))) == 8


def test_long_texts_come_in_pieces(phone, alice, node):
    whole = "".join(f"{n} 🦦 " for n in range(60_000))
    prompt = done(alice, node, answer=whole)
    (change,), _ = phone.pull_all()
    assert change["lengths"] == {"answer": len(whole)}
    text = change["answer"]
    assert len(text) == pulling.CUT_AFTER
    while len(text) < len(whole):
        status, piece = phone.call(
            "text", {"prompt": str(prompt.pk), "field": "answer", "attempt": 1, "offset": len(text)}
        )
        assert (status, piece["offset"], piece["attempt"]) == (200, len(text), 1)
        text += piece["text"]
    assert text == whole


def test_it_wants_a_field_that_a_prompt_has(phone, alice):
    prompt = submit(alice)
    status, answer = phone.call("text", {"prompt": str(prompt.pk), "field": "owner", "offset": 0})
    assert (status, answer["error"]["fields"][0]["field"]) == (422, "field")


def test_a_pull_asks_the_database_as_often_for_many(phone, alice, node, django_assert_max_num_queries):
    for n in range(40):
        done(alice, node, text=f"question {n}")
    with django_assert_max_num_queries(14):
        assert len(phone.pull()["changes"]) == 40


def test_old_clocks_do_not_matter(phone, alice):
    """Prompts of one moment are listed once each, however the pages cut them."""
    for _ in range(9):
        submit(alice)
    Prompt.objects.update(enqueued_at=timezone.now() - timedelta(days=400))
    changes, _ = phone.pull_all(limit=2)
    assert len(set(ids(changes))) == len(changes) == 9


def test_a_server_where_nothing_happened_yet_lists_once(phone):
    Event.objects.all().delete()
    page = phone.pull()
    assert (page["reset"], page["more"]) == (True, False)
    assert not phone.pull(page["cursor"])["reset"]


def test_a_quiet_week_costs_no_listing(phone, alice):
    submit(alice)
    _, cursor = phone.pull_all()
    record("reading.taken", 1)
    assert phone.pull(cursor)["cursor"] == cursor
    with patch.object(watch, "KEEP_EVENTS", timedelta(0)), patch.object(watch, "KEEP_TRANSIENT_EVENTS", timedelta(0)):
        tidy()
    assert not phone.pull(cursor)["reset"]


def test_a_cursor_of_a_log_that_was_put_back_is_told_as_such(phone, alice):
    """Also when the log has come as far again in the meantime."""
    submit(alice, "In the backup")
    backup = Event.objects.last_id()
    submit(alice, "Lost")
    _, cursor = phone.pull_all()
    Event.objects.filter(id__gt=backup).delete()
    assert phone.pull(cursor)["rewound"]
    submit(alice, "Instead")
    Event.objects.filter(id__gt=backup).update(id=int(cursor.split(".")[1]))
    page = phone.pull(cursor)
    assert (page["reset"], page["rewound"]) == (True, True)
    assert "rewound" not in phone.pull(page["cursor"])
    assert "rewound" not in phone.pull("")
    assert phone.pull(f"e.{backup}")["reset"] is False, "without a mark, as a poke has it"


def test_a_clock_that_was_set_back_makes_no_hole_in_the_log(phone, alice):
    submit(alice, "before")
    _, cursor = phone.pull_all()
    Event.objects.update(at=timezone.now() + timedelta(days=30))
    set_back = [submit(alice, text).pk for text in ("old", "newest")]
    Event.objects.filter(subject__in=set_back).update(at=timezone.now() - timedelta(days=8))
    tidy()
    assert {"old", "newest"} <= {change["text"] for change in phone.pull_all(cursor)[0]}


def test_a_listing_of_a_log_that_was_put_back_begins_anew(phone, alice):
    prompts = [submit(alice, f"question {n}") for n in range(3)]
    earlier = transaction.savepoint()
    for n in range(3):
        fresh(prompts[0]).edit(text=f"lost {n}")
    page = phone.pull(limit=1)
    transaction.savepoint_rollback(earlier)
    for n in range(4):
        fresh(prompts[2]).edit(text=f"listed already, and changed {n}")
    page = phone.pull(page["cursor"])
    assert (page["reset"], page["rewound"], len(page["changes"])) == (True, True, 3)
