"""What the queue's tests share; the cast is in tests/conftest.py."""

import pytest
from django.db import connections


@pytest.fixture
def alice_client(client, alice):
    client.force_login(alice)
    return client


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
