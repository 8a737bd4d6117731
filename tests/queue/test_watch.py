"""What happens without anybody asking, step by step and without a clock."""

import time
from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone
from django_q.models import OrmQ

from daemonpulse.models import Event, SignInLink
from daemonpulse.queue.models import Runner
from daemonpulse.queue.watch import Watch, interval, tidy
from fleet.models import Node
from tests.conftest import wait_for

from .prompts import cancelled, die, fresh, running, stream, submit

pytestmark = pytest.mark.django_db


@pytest.fixture
def looked(monkeypatch):
    """The names of the nodes that were looked at; nothing is sent to them."""
    seen = []
    monkeypatch.setattr("daemonpulse.queue.watch.inventory.look", lambda node: seen.append(node.name))
    return seen


@pytest.fixture
def watch(monkeypatch, looked):
    """Its probes run at once, in the test's own thread and transaction."""
    made = Watch()
    monkeypatch.setattr(made.pool, "submit", lambda function, *args: function(*args))
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


@pytest.mark.parametrize(
    ("state", "is_busy", "seconds"),
    [
        ("online", False, 10),
        ("offline", False, 10),
        ("online", True, 3),
        ("offline", True, 0.5),
        ("unauthorized", True, 0.5),
        ("unknown", True, 0.5),
    ],
)
def test_it_looks_at_a_node_as_often_as_it_matters(state, is_busy, seconds):
    assert interval(Node(state=state), is_busy) == seconds


def test_it_probes_each_enabled_node_when_it_is_due(alice, node, watch, looked):
    attic = Node.objects.create(name="attic", base_url="http://127.0.0.1:10", state="offline")
    Node.objects.create(name="cellar", base_url="http://127.0.0.1:11", is_enabled=False)
    watch.step()
    watch.step()
    assert sorted(looked) == ["attic", "box"]

    submit(alice)  # now somebody waits for the node that is down
    watch.looked_at = {pk: at - 1 for pk, at in watch.looked_at.items()}
    watch.step()
    assert looked[2:] == ["attic"]

    watch.looked_at = {pk: at - 3 for pk, at in watch.looked_at.items()}
    watch.step()
    assert sorted(looked[3:]) == ["attic", "box"]
    assert attic.pk in watch.looked_at


def test_it_does_not_let_a_slow_node_hold_up_the_others(node, watch, looked, monkeypatch):
    attic = Node.objects.create(name="attic", base_url="http://127.0.0.1:10")
    watch.probing.add(attic.pk)  # still at it

    watch.step()

    assert looked == ["box"]


def test_it_goes_on_probing_after_a_probe_that_crashed(node, watch, monkeypatch):
    monkeypatch.setattr("daemonpulse.queue.watch.inventory.look", lambda node: 1 / 0)

    watch.step()

    assert not watch.probing


@pytest.mark.django_db(transaction=True)
def test_it_probes_in_threads_of_its_own(node, looked):
    watch = Watch()
    try:
        watch.probe_due()
        wait_for(lambda: looked == ["box"] and not watch.probing)
    finally:
        watch.pool.shutdown()


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


def test_it_removes_only_what_is_old(alice):
    now = timezone.now()
    for kind, age in [
        ("prompt.output", timedelta(minutes=1)),
        ("prompt.output", timedelta(minutes=3)),
        ("prompt.queued", timedelta(days=6)),
        ("prompt.queued", timedelta(days=8)),
    ]:
        Event.objects.create(kind=kind, subject=str(age.days), at=now - age)
    for name, age in [("new", 1), ("old", 8)]:
        SignInLink.objects.create(user=alice, secret_hash=name, expires_at=now - timedelta(days=age))
        Session.objects.create(session_key=name, session_data="", expire_date=now + timedelta(days=5 - age))

    tidy()

    assert sorted(Event.objects.values_list("kind", "subject")) == [("prompt.output", "0"), ("prompt.queued", "6")]
    assert SignInLink.objects.get().secret_hash == "new"
    assert Session.objects.get().session_key == "new"
