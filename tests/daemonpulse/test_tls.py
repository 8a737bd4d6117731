"""What each TLS connection gets: a fresh certificate, and cookies of its own."""

import asyncio

import pytest

from daemonpulse import certs


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DAEMONPULSE_DATA_DIR", str(tmp_path))


@pytest.fixture
def fresh():
    # Imported here: Daphne installs Twisted's reactor.
    from daemonpulse.tls import FreshContext

    return FreshContext()


def test_it_renews_the_certificate_on_a_connection_once_a_day(fresh, monkeypatch):
    monkeypatch.setattr(certs, "RENEW_BEFORE", certs.LIFETIME)  # always due
    first, written = fresh.getContext(), certs.server_path().read_bytes()
    assert fresh.getContext() is first
    fresh._look_at = 0
    second = fresh.getContext()
    assert second is not first
    assert certs.server_path().read_bytes() != written
    assert fresh.getContext() is second


def test_it_takes_another_certificate_that_was_written(fresh):
    first = fresh.getContext()
    certs.ensure(renew=True)
    assert fresh.getContext() is not first


def test_it_goes_on_with_what_it_has_and_says_so_once(fresh, caplog):
    first = fresh.getContext()
    certs.ca_key_path().unlink()
    fresh._look_at = 0
    assert fresh.getContext() is first
    assert fresh.getContext() is first
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == ["tls.not_renewed"]


class Echo:
    """Tells the cookies it got, and sets one."""

    async def __call__(self, scope, receive, send):
        self.got = dict(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Set-Cookie", b"a=1; Path=/")]})
        await send({"type": "http.response.body", "body": b""})


def ask(port: int, cookie: bytes) -> tuple[bytes, bytes]:
    """What the application got as Cookie, and the Set-Cookie that left."""
    from daemonpulse.tls import HostCookies

    sent, echo = [], Echo()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "server": ("127.0.0.1", port), "headers": [(b"host", b"box"), (b"cookie", cookie)]}
    asyncio.run(HostCookies(echo, 8643)(scope, None, send))
    return echo.got[b"cookie"], dict(sent[0]["headers"])[b"Set-Cookie"]


def test_it_has_other_cookies_than_plain_http():
    assert ask(8642, b"a=plain; __Host-a=tls") == (b"a=plain; __Host-a=tls", b"a=1; Path=/")
    assert ask(8643, b"a=planted; __Host-a=tls; __Host-b=2") == (b"a=tls; b=2", b"__Host-a=1; Path=/; Secure")
