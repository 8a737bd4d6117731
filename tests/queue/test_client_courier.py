"""The courier's judgement, without its loops and clocks."""

from unittest.mock import patch

import pytest

from daemonpulse.queue.client import courier
from daemonpulse.queue.client.courier import Courier, back_off, note_failure
from daemonpulse.queue.client.delivery import Delivery
from daemonpulse.queue.client.line import CallFailed
from daemonpulse.queue.models import Mutation, Remote

from .clients import ServerInMemory, paired
from .prompts import fresh, submit

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def client_role(settings):
    settings.IS_CLIENT = True


@pytest.fixture
def server():
    """What every delivery made from here on talks to."""
    made = {}

    def delivery(remote):
        one = Delivery(remote)
        made["server"] = server = made.get("server") or ServerInMemory(one)
        one.line = server
        return one

    with patch.object(courier, "Delivery", delivery):
        yield made


def test_it_waits_longer_after_each_failure_and_never_longer_than_a_minute():
    for failures, most in ((0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (1000, 60)):
        waits = [back_off(failures, 1.0, 60.0) for _ in range(50)]
        assert most / 2 <= min(waits)
        assert max(waits) <= most


def test_it_does_everything_that_is_to_be_done_and_says_when(alice, server):
    paired(alice)
    prompt = submit(alice)
    Courier().deliver_all()
    assert fresh(prompt).state_words == "queued there"
    remote = Remote.current()
    assert remote.last_sync_at is not None
    assert remote.limits["mutations"] == 250


def test_it_rests_without_a_server_and_when_it_is_shut_out(alice, server):
    courier_ = Courier()
    assert courier_.deliver_all() == courier.REST_SECONDS
    remote = paired(alice)
    note_failure(remote.device, CallFailed("revoked", "Shut out.", 401))
    submit(alice)
    assert courier_.deliver_all() == courier.REST_SECONDS
    assert Mutation.objects.get().is_tried is False
    assert (Remote.current().problem, Remote.current().is_shut_out) == ("revoked", True)
    paired(alice)
    courier_.deliver_all()
    assert not Mutation.objects.exists()


def test_it_says_since_when_the_server_is_gone_and_takes_it_back(alice, server):
    remote = paired(alice)
    gone = CallFailed("gone", "The server does not answer.")
    with patch.object(Delivery, "step", side_effect=gone):
        courier_ = Courier()
        waits = [courier_.deliver_all() for _ in range(4)]
    since = Remote.current().gone_since
    assert since is not None
    assert waits[3] > waits[0]
    note_failure(remote.device, gone)
    assert Remote.current().gone_since == since
    courier_.news()
    courier_.deliver_all()
    assert Remote.current().gone_since is None


def test_it_waits_as_long_as_the_server_says(alice, server):
    paired(alice)
    slow = CallFailed("too_fast", "Wait.", 429, {"retry_after": 7})
    with patch.object(Delivery, "step", side_effect=slow):
        assert Courier().deliver_all() == 7
    assert Remote.current().problem == ""


def test_it_shows_a_problem_and_forgets_it_when_it_is_over(alice, server):
    paired(alice)
    courier_ = Courier()
    with patch.object(Delivery, "step", side_effect=CallFailed("certificate", "Another one.")):
        courier_.deliver_all()
    assert Remote.current().problem_text == "Another one."
    courier_.news()
    courier_.deliver_all()
    assert Remote.current().problem == ""


def test_it_leaves_also_when_nobody_answers(alice, server):
    paired(alice)
    Remote.ask_to_leave()
    with patch.object(ServerInMemory, "leave", side_effect=CallFailed("gone", "Gone.")):
        Courier().deliver_all()
    assert "remove the device there" in Remote.current().problem_text
    assert not Remote.current().is_paired
