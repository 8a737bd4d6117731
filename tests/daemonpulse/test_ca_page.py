"""The page on which a device learns to trust this server."""

import re

import pytest

from daemonpulse import certs
from tests.daemonpulse.test_security import assert_safe

pytestmark = pytest.mark.django_db
AGENTS = {
    "Android": "Mozilla/5.0 (Linux; Android 16; Pixel 10) AppleWebKit/537.36 Chrome/144.0.0.0 Mobile Safari/537.36",
    "iPhone and iPad": "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1",
    "Windows": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/144.0.0.0 Safari/537.36",
    "macOS": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/19.1 Safari/605.1.15",
    "Linux": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/144.0.0.0 Safari/537.36",
    "Firefox on a computer": "Mozilla/5.0 (X11; Linux x86_64; rv:146.0) Gecko/20100101 Firefox/146.0",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DAEMONPULSE_DATA_DIR", str(tmp_path))


def test_it_shows_everybody_the_fingerprint(client):
    certs.ensure()
    answer = client.get("/ca/")
    assert_safe(answer)
    page = answer.content.decode()
    assert certs.grouped(certs.fingerprint()) in page
    assert 'href="/ca/daemonpulse-ca.crt"' in page
    assert 'href="/m/"' in page  # what comes next
    assert "Trust this CA to identify websites" in page and "Certificate Trust Settings" in page


def test_it_hands_out_the_authority_and_nothing_else(client):
    certs.ensure()
    answer = client.get("/ca/daemonpulse-ca.crt")
    assert answer.headers["Content-Type"] == "application/x-x509-ca-cert"
    assert answer.content == certs.ca_path().read_bytes()
    assert b"PRIVATE" not in answer.content and answer.content.count(b"BEGIN") == 1


def test_it_says_how_to_make_one_where_there_is_none(client):
    page = client.get("/ca/").content.decode()
    assert "daemonpulse up --tls" in page
    assert "daemonpulse-ca.crt" not in page
    assert client.get("/ca/daemonpulse-ca.crt").status_code == 404


def test_it_says_when_the_server_does_not_use_its_certificate(client, settings):
    certs.ensure()
    assert "does not use it now" in client.get("/ca/").content.decode()
    settings.TLS_URLS = ["https://192.0.2.7:8643"]
    page = client.get("/ca/", HTTP_HOST="127.0.0.1").content.decode()
    assert "does not use it now" not in page
    assert "https://192.0.2.7:8643/ca/" in page


def test_it_tells_a_browser_on_the_servers_machine_that_it_needs_nothing(client, settings):
    settings.ALLOWED_HOSTS = ["*"]
    for host, is_told in [("127.0.0.1:8642", True), ("[::1]:8642", True), ("localhost", True), ("192.0.2.7:1", False)]:
        assert ("needs none of this" in client.get("/ca/", HTTP_HOST=host).content.decode()) is is_told


@pytest.mark.parametrize("title", AGENTS)
def test_it_puts_the_readers_platform_first(client, title):
    certs.ensure()
    page = client.get("/ca/", HTTP_USER_AGENT=AGENTS[title]).content.decode()
    titles = re.findall(r'<details class="disclosure"( open)?>\s*<summary>([^<]+)<', page)
    assert titles[0] == (" open", title)
    assert sorted(name for _, name in titles) == sorted(AGENTS)
    assert [is_open for is_open, _ in titles[1:]] == [""] * 5


def test_it_opens_no_platform_that_it_does_not_know(client):
    certs.ensure()
    page = client.get("/ca/", HTTP_USER_AGENT="curl/8").content.decode()
    assert '<details class="disclosure">' in page and " open>" not in page
