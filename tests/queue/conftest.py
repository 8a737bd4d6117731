"""What the queue's tests share; the cast is in tests/conftest.py."""

import pytest
from django.core.cache import cache
from django.db import connections


@pytest.fixture
def alice_client(client, alice):
    client.force_login(alice)
    return client


@pytest.fixture(autouse=True)
def nobody_waits():
    """Whoever called too often in an earlier test may call again."""
    from daemonpulse.queue.sync import door

    cache.clear()
    door.PACE.spent.clear()


@pytest.fixture
def closing_connections():
    """For functions that run in threads: each closes the connection it opened."""

    def closing(function):
        def run(*args):
            try:
                return function(*args)
            finally:
                connections.close_all()

        return run

    return closing
