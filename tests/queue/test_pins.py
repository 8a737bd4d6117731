"""A prompt that is tied to one node never runs on another."""

import pytest

from .prompts import fresh, submit

pytestmark = pytest.mark.django_db


def test_it_cancels_what_waits_for_a_node_that_is_removed(alice, node):
    tied, free = submit(alice, node_pin=node), submit(alice)

    node.remove()

    assert (fresh(tied).state, fresh(free).state) == ("cancelled", "queued")
