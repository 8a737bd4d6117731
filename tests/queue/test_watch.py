"""What happens without anybody asking, step by step and without a clock."""

import time
from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone
from django_q.models import OrmQ

from daemonpulse.models import Event, SignInLink
from daemonpulse.queue.models import Prompt, Runner
from daemonpulse.queue.watch import Watch, tidy
from fleet.models import Command as NodeCommand
from fleet.models import Node, Sample

from .prompts import cancelled, die, fresh, running, stream, submit

pytestmark = pytest.mark.django_db


@pytest.fixture
def watch(monkeypatch):
    """One that looks at no node and runs no command; those have tests of their own."""
    made = Watch()
    made.heartbeat.asked = []
    monkeypatch.setattr(
        made.heartbeat, "step", lambda working, is_awaited: made.heartbeat.asked.append((working, is_awaited))
    )
    made.dispatcher.pool.submit = lambda function, command: None
    made.tidied_at = time.monotonic()
    return made


def test_it_rescues_what_dead_workers_held(alice, node, watch):
    prompt, attempt = running(alice, node)
    stream(attempt, ("message", "Half"))
    die(attempt)

    watch.step()

    assert (fresh(prompt).state, fresh(attempt).answer) == ("queued", "Half")


def test_it_calls_a_runner_for_what_could_start(alice, node, watch):
    submit(alice)
    OrmQ.objects.all().delete()
    Runner.objects.all().delete()

    watch.step()
    watch.step()

    assert OrmQ.objects.count() == 1


def test_it_calls_nobody_while_a_runner_is_alive(alice, node, watch):
    Runner.take("box/1")
    submit(alice)

    watch.step()

    assert not OrmQ.objects.exists()


@pytest.mark.parametrize("hindrance", ["offline", "paused", "nothing waits"])
def test_it_calls_nobody_when_nothing_could_start(alice, node, watch, hindrance):
    prompt = cancelled(alice) if hindrance == "nothing waits" else submit(alice)
    if hindrance == "offline":
        Node.objects.update(state="offline")
    if hindrance == "paused":
        prompt.lane.pause()

    watch.step()

    assert not OrmQ.objects.exists()


def test_it_says_where_work_runs_and_whether_prompts_wait(alice, node, watch):
    watch.step()
    running(alice, node)
    watch.step()
    NodeCommand.ask(attic := Node.objects.create(name="attic", base_url="http://127.0.0.1:10"), "server_stop")
    watch.step()
    assert watch.heartbeat.asked == [(set(), False), ({node.pk}, True), ({node.pk, attic.pk}, True)]


def test_it_tidies_up_now_and_then(alice, node, watch):
    prompt, attempt = running(alice, node)
    stream(attempt, ("message", "Half"))
    Event.objects.filter(kind="prompt.output").update(at=timezone.now() - timedelta(minutes=3))
    watch.step()
    assert Event.objects.filter(kind="prompt.output").exists()

    watch.tidied_at -= 61
    watch.step()

    assert not Event.objects.filter(kind="prompt.output").exists()
    assert fresh(attempt).texts()["message"] == "Half"
    assert Event.objects.filter(subject=str(prompt.pk)).count() == 2


def test_it_does_not_wait_for_a_clock_that_was_set_back(alice, node):
    soon, late = submit(alice), submit(alice)
    Prompt.objects.filter(pk=late.pk).update(due_at=timezone.now() + timedelta(hours=3))
    Prompt.objects.filter(pk=soon.pk).update(due_at=timezone.now() + timedelta(minutes=5))
    tidy()
    assert list(Prompt.objects.due()) == [late]


def test_it_removes_only_what_is_old(alice):
    now = timezone.now()
    for kind, age in [
        ("prompt.queued", timedelta(days=8)),
        ("prompt.queued", timedelta(days=6)),
        ("prompt.output", timedelta(minutes=3)),
        ("prompt.output", timedelta(minutes=1)),
    ]:
        Event.objects.create(kind=kind, subject=str(age.days), at=now - age)
    for name, age in [("new", 1), ("old", 8)]:
        SignInLink.objects.create(user=alice, secret_hash=name, expires_at=now - timedelta(days=age))
        Session.objects.create(session_key=name, session_data="", expire_date=now + timedelta(days=5 - age))

    box = Node.objects.create(name="box", base_url="http://127.0.0.1:9")
    for grain, age in [(0, 59), (0, 61), (60, 61), (60, 25 * 60), (900, 25 * 60), (900, 31 * 24 * 60)]:
        Sample.objects.create(node=box, grain=grain, at=now - timedelta(minutes=age))

    tidy()

    kept = [(s.grain, round((now - s.at).total_seconds() / 60)) for s in Sample.objects.order_by("-at")]
    assert kept == [(0, 59), (60, 61), (900, 1500)]
    assert sorted(Event.objects.values_list("kind", "subject")) == [("prompt.output", "0"), ("prompt.queued", "6")]
    assert SignInLink.objects.get().secret_hash == "new"
    assert Session.objects.get().session_key == "new"
