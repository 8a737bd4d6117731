"""Who works the lanes: the lease, and that no wake-up call is lost."""

import threading
from datetime import timedelta

import pytest
from django.utils import timezone
from django_q.models import OrmQ

from daemonpulse.queue.models import Prompt, Runner
from daemonpulse.queue.runner import LaneRunner
from daemonpulse.queue.snapshot import make_plan

from .prompts import submit

pytestmark = pytest.mark.django_db


def age(seconds: float) -> None:
    Runner.objects.update(seen_at=timezone.now() - timedelta(seconds=seconds))


def test_it_is_taken_by_one():
    assert [Runner.take("box/1"), Runner.take("attic/2"), Runner.take("box/1")] == [True, False, False]
    assert (Runner.row().name, Runner.row().is_alive) == ("box/1", True)


def test_it_is_free_again_when_its_holder_left():
    Runner.take("box/1")
    Runner.leave("attic/2")
    assert Runner.row().is_alive

    Runner.leave("box/1")

    assert not Runner.row().is_alive
    assert Runner.take("attic/2")


def test_it_is_free_again_when_its_lease_ran_out():
    Runner.take("box/1")
    age(5)
    assert not Runner.take("attic/2")

    age(7)

    assert not Runner.row().is_alive
    assert Runner.take("attic/2")


def test_it_is_free_at_once_when_its_process_is_gone(monkeypatch):
    name = Runner.name_of_this_process()
    Runner.take(name)
    assert Runner.row().is_alive

    def gone(pid, signal):
        raise ProcessLookupError

    monkeypatch.setattr("os.kill", gone)

    assert not Runner.row().is_alive
    assert Runner.take("box/2")


def test_it_is_prolonged_by_its_holder_only():
    Runner.take("box/1")
    age(5)

    assert Runner.beat("box/1") is True
    assert timezone.now() - Runner.row().seen_at < timedelta(seconds=1)
    assert Runner.beat("attic/2") is False


def test_it_tells_a_runner_that_another_took_over():
    Runner.take("box/1")
    age(7)
    Runner.take("attic/2")

    assert Runner.beat("box/1") is False
    Runner.leave("box/1")
    assert Runner.row().name == "attic/2"


def test_it_is_called_by_one_task_however_many_call():
    assert [Runner.call() for _ in range(3)] == [True, False, False]
    assert OrmQ.objects.count() == 1


def test_it_is_called_again_when_nobody_came():
    Runner.call()
    Runner.objects.update(called_at=timezone.now() - timedelta(seconds=6))

    assert Runner.call() is True


def test_it_is_not_called_while_it_is_alive():
    Runner.take("box/1")

    assert Runner.call() is False
    assert not OrmQ.objects.exists()


def test_it_is_called_again_as_soon_as_it_came_and_left():
    Runner.call()
    Runner.take("box/1")
    Runner.leave("box/1")

    assert Runner.call() is True


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("when", ["before it leaves", "while it leaves", "after it left"])
def test_it_never_overlooks_a_prompt_that_comes_when_it_leaves(alice, node, monkeypatch, closing_connections, when):
    """Leaving and the last look are one transaction: a prompt is committed before it, or calls after it."""
    runner = LaneRunner()
    assert Runner.take(runner.name)
    runner.may_claim = False
    submitting = threading.Thread(target=closing_connections(submit), args=[alice])

    def look_while_somebody_submits():
        decided = make_plan()
        if when == "while it leaves":
            submitting.start()
            submitting.join(0.2)
            assert submitting.is_alive()  # waits for our transaction, so it will see that we left
        return decided

    monkeypatch.setattr("daemonpulse.queue.runner.make_plan", look_while_somebody_submits)
    if when == "before it leaves":
        submit(alice)
        assert not OrmQ.objects.exists()
    assert runner._leave_if_due()
    if when == "after it left":
        submit(alice)
    elif when == "while it leaves":
        submitting.join(10)

    assert Prompt.objects.queued().count() == 1
    assert OrmQ.objects.count() == 1


def test_it_calls_nobody_when_it_leaves_empty_lanes(node):
    runner = LaneRunner()
    Runner.take(runner.name)
    runner.may_claim = False

    assert runner._leave_if_due()
    assert not OrmQ.objects.exists()
