"""What the queue's tests share; the cast is in tests/conftest.py."""

import pytest
from django.db import connections


@pytest.fixture(autouse=True)
def quick_passwords(settings):
    """Nobody's password is guessed here, and hashing them well takes longer than the tests."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


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
