"""When a failed prompt is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemonpulse.queue import retry
from fleet.daemons.errors import Reason

BETTER_LATER = {"unreachable", "timeout", "cut", "server_error", "busy", "load_failed", "generation_failed"}


@pytest.mark.parametrize(
    ("tries", "seconds"),
    [(1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 64), (7, 128), (8, 256), (9, 300), (10, 300), (30, 300)],
)
def test_it_doubles_the_delay_up_to_five_minutes(tries, seconds):
    assert retry.delay(tries, chance=0.5).total_seconds() == pytest.approx(seconds)


@pytest.mark.parametrize(("chance", "part"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_it_spreads_the_delay_by_a_fifth(chance, part):
    assert retry.delay(3, chance).total_seconds() == pytest.approx(8 * part)


@given(st.integers(1, 40), st.none() | st.floats(0, 1))
def test_it_stays_within_the_spread_and_below_five_minutes(tries, chance):
    seconds = retry.delay(tries, chance).total_seconds()

    middle = min(2.0**tries, 300)
    assert 0.8 * middle <= seconds <= min(1.2 * middle, 300)


def test_it_does_not_bring_all_back_together():
    assert len({retry.delay(4) for _ in range(20)}) > 10


@pytest.mark.parametrize("reason", list(Reason))
def test_it_tries_again_only_what_can_get_better(reason):
    assert retry.may_try_again(reason, 1) is (reason.value in BETTER_LATER)


def test_it_gives_up_after_the_fifth_try():
    assert [retry.may_try_again(Reason.CUT, tries) for tries in range(1, 7)] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("reason", list(Reason))
def test_it_has_words_for_every_reason(reason):
    assert reason.explanation.endswith((".", "?"))
