"""How often a node is looked at: the whole policy, without a clock."""

import pytest

from fleet.heartbeat import Interest, period, status_period


@pytest.mark.parametrize(
    ("interest", "seconds"),
    [
        (Interest(), 12.0),
        (Interest(is_watched=True), 2.0),
        (Interest(is_working=True), 2.0),
        (Interest(is_awaited=True), 12.0),  # it answers: the prompts wait for something else
        (Interest(since_active=14.9), 2.0),
        (Interest(since_active=15.0), 12.0),
        (Interest(is_answering=False), 5.0),
        (Interest(is_answering=False, is_watched=True), 2.0),
        (Interest(is_answering=False, is_awaited=True), 0.5),
        (Interest(is_answering=False, is_awaited=True, is_watched=True), 0.5),
        (Interest(is_wanted=True), 0.0),
        (Interest(is_wanted=True, is_answering=False, is_awaited=True), 0.0),
    ],
)
def test_it_looks_as_often_as_it_matters(interest, seconds):
    assert period(interest) == seconds


def test_it_knows_within_fifteen_seconds_that_a_node_vanished_and_within_ten_that_it_is_back():
    """The worst case: it happens right after a look, and the next one waits for a connection that never comes."""
    from daemonpulse.queue.watch import STEP_SECONDS
    from fleet.daemons.http import CONNECT_SECONDS

    assert period(Interest()) + CONNECT_SECONDS + STEP_SECONDS < 15
    assert period(Interest(is_watched=True)) + CONNECT_SECONDS + STEP_SECONDS < 5
    assert period(Interest(is_answering=False)) + CONNECT_SECONDS + STEP_SECONDS < 10


@pytest.mark.parametrize(
    ("is_answering", "is_watched", "seconds"),
    [(True, True, 60), (True, False, 600), (False, True, 10), (False, False, 60)],
)
def test_it_seldom_starts_programs_to_ask_for_the_state_of_lm_studio(is_answering, is_watched, seconds):
    assert status_period(is_answering, is_watched) == seconds
