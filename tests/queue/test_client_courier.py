"""The courier's judgement, without its loops and clocks."""

import asyncio
from types import SimpleNamespace
from unittest.mock import AsyncMock, patch

import pytest

from daemonpulse.queue.client import courier
from daemonpulse.queue.client.courier import Courier, back_off, note_failure
from daemonpulse.queue.client.delivery import Delivery
from daemonpulse.queue.client.line import JUMPS, CallFailed
from daemonpulse.queue.models import Mutation, Remote

from .clients import ServerInMemory, change, paired
from .prompts import fresh, submit

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def client_role(settings):
    settings.IS_CLIENT = True


@pytest.fixture
def server():
    """What every delivery made from here on talks to."""
    made = {}

    def delivery(remote, *numbers):
        one = Delivery(remote, *numbers)
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
    assert "revoke it there" in Remote.current().problem_text
    assert not Remote.current().is_paired


def test_without_a_socket_it_looks_by_itself(alice, server):
    paired(alice)
    prompt, courier_ = submit(alice), Courier()
    assert courier_.deliver_all() == courier.ALONE_SECONDS
    server["server"].tell(change(prompt.pk, "done", 1, answer="Because."))
    with patch.object(courier.time, "monotonic", return_value=courier.time.monotonic() + courier.ALONE_SECONDS):
        courier_.deliver_all()
    assert fresh(prompt).state_words == "done"


def test_it_hears_within_seconds_that_execution_stopped_or_started_there(alice, server):
    paired(alice)
    courier_ = Courier()
    courier_.socket = SimpleNamespace(is_welcome=True)
    assert courier_.deliver_all() == courier.LOOK_SECONDS <= 8
    synced_at = Remote.current().last_sync_at
    for is_working in (False, True):
        server["server"].is_working = is_working
        later = courier.time.monotonic() + (1 + is_working) * (courier.LOOK_SECONDS + 1)
        with patch.object(courier.time, "monotonic", return_value=later):
            courier_.deliver_all()
        assert Remote.current().is_working is is_working
        server["server"].calls.clear()
    assert Remote.current().last_sync_at == synced_at  # to look is not to sync


def test_a_server_that_does_not_know_us_is_asked_again_after_a_while_or_when_somebody_says_so(alice, server):
    remote = paired(alice)
    courier_ = Courier()
    unknown = CallFailed("unknown_token", "Unknown.", 401)
    with patch.object(Delivery, "step", side_effect=unknown):
        courier_.deliver_all()
    prompt = submit(alice)
    assert courier_.deliver_all() == courier.REST_SECONDS
    assert Mutation.objects.exists()
    with patch.object(courier.time, "monotonic", return_value=courier.time.monotonic() + courier.SHUT_OUT_SECONDS + 1):
        courier_.deliver_all()
    assert (fresh(prompt).state_words, Remote.current().problem) == ("queued there", "")
    note_failure(remote.device, CallFailed("revoked", "Shut out.", 401))
    submit(alice)
    Remote.call()
    courier_.deliver_all()
    assert not Mutation.objects.exists()


def test_who_is_shut_out_may_leave(alice, server):
    remote = paired(alice)
    note_failure(remote.device, CallFailed("revoked", "Shut out.", 401))
    Remote.ask_to_leave()
    Courier().deliver_all()
    assert not Remote.current().is_paired


@pytest.mark.parametrize(("told", "seconds"), [(7, 7), ("soon", 60), (None, 60), (1e9, 600), (-5, 1), (True, 60)])
def test_a_server_may_not_silence_it_for_long(told, seconds):
    assert courier.seconds_of(told) == seconds


def test_a_fault_of_its_own_is_shown_and_tried_again_less_and_less_often(alice):
    paired(alice)
    Courier.note_fault()
    assert "its log says over what" in Remote.current().problem_text
    waits = []

    async def never_right():
        raise KeyError("changes")

    async def slept(seconds):
        waits.append(seconds)
        if len(waits) == 5:
            raise asyncio.CancelledError

    with (
        patch.object(courier.asyncio, "sleep", slept),
        patch.object(courier, "in_thread", lambda function: AsyncMock()),
        pytest.raises(asyncio.CancelledError),
    ):
        asyncio.run(Courier()._forever(never_right))
    assert waits[4] > 4 * waits[0]


def test_it_says_when_its_data_folder_was_copied(alice, server):
    paired(alice)
    courier_ = Courier()
    courier_.deliver_all()
    for seen in range(100, 100 + 40 * JUMPS, 40):
        courier_.numbers.go_on_after(seen)
    courier_.deliver_all()
    assert "both copies run" in Remote.current().problem_text
    Remote.dismiss()
    courier_.deliver_all()
    assert Remote.current().problem == ""


def test_it_hears_of_the_server_also_when_the_machine_has_just_started(alice, server):
    paired(alice)
    with patch.object(courier.time, "monotonic", return_value=2.0):
        Courier().deliver_all()
    assert Remote.current().limits
