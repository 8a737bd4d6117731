"""One reading for all who ask at about the same time."""

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock

from fleet.agent import shared_read
from fleet.agent.shared_read import SharedRead


@pytest.fixture
def readings(monkeypatch):
    """Those under way or done, each the Deferred of a thread."""
    begun: list[Deferred] = []

    def in_thread(read):
        begun.append(Deferred())
        return begun[-1]

    monkeypatch.setattr(shared_read, "deferToThread", in_thread)
    return begun


@pytest.fixture
def shared():
    return SharedRead(Clock(), lambda: None, 1.0)


def ask(shared: SharedRead) -> list:
    """What it answers, once it does."""
    told: list = []
    ensureDeferred(shared.get()).addBoth(told.append)
    return told


def test_it_reads_once_for_all_who_ask_meanwhile(shared, readings):
    asked = [ask(shared) for _ in range(10)]
    assert (len(readings), asked) == (1, [[]] * 10)
    readings[0].callback("first")
    assert asked == [["first"]] * 10


def test_it_keeps_a_reading_for_so_long_and_no_longer(shared, readings):
    ask(shared)
    shared.reactor.advance(5)  # its age counts from when it was there
    readings[0].callback("first")
    shared.reactor.advance(0.9)
    assert ask(shared) == ["first"]
    shared.reactor.advance(0.1)
    later = ask(shared)
    readings[1].callback("second")
    assert later == ["second"]


def test_it_reads_anew_after_a_change_and_after_a_failure(shared, readings):
    asked = [ask(shared) for _ in range(2)]
    readings[0].errback(OSError("no"))
    assert [told.value.args for (told,) in asked] == [("no",)] * 2
    ask(shared)
    readings[1].callback("first")
    shared.forget()
    ask(shared)
    assert len(readings) == 3
