"""`up --tls`: devices that trust the authority come in without a warning, others do not, and plain HTTP stays here.

All of it needs Chromium for one installation's sake; what a browser must find is a name that is not this machine's
own, because for a browser 127.0.0.1 is secure without any TLS.
"""

import os
import shutil
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import requests
from cryptography import x509

from benchmarks.site import ROOT, free_port
from daemonpulse import certs
from tests.browser.looks import check
from tests.conftest import CHROMIUM, CHROMIUM_FLAGS, MUST_RUN_ALL, wait_for
from tests.system.conftest import Installation

pytestmark = pytest.mark.browser
NAME = "box.example"
LINKS = "from daemonpulse.models import *; [print(SignInLink.issue(User.objects.first())) for _ in range(3)]"
OPEN = """() => new Promise(tell => {
  const socket = new WebSocket("/ws/nodes/");
  socket.onopen = () => tell("open");
  socket.onclose = event => tell(`closed with ${event.code}`);
})"""
REGISTER = """async () => {
  if ((await fetch("/m/sw.js")).status !== 200) return "there is none yet";
  const registration = await navigator.serviceWorker.register("/m/sw.js", { type: "module" });
  return new URL(registration.scope).pathname;
}"""


class TlsSite(Installation):
    """`up --tls` on the loopback, without nodes."""

    def __init__(self):
        self._folder = TemporaryDirectory(prefix="daemonpulse-tls-", ignore_cleanup_errors=True)
        self.data_dir = Path(self._folder.name)
        self.environment = os.environ | {"DAEMONPULSE_DATA_DIR": self._folder.name, "DAEMONPULSE_LOG_LEVEL": "WARNING"}
        self._prepare()
        self.port, self.tls_port = free_port(), free_port()
        self.url, self.tls_url = f"http://127.0.0.1:{self.port}", f"https://{NAME}:{self.tls_port}"
        self.ca = self.data_dir / "tls" / "ca.crt"

    def up(self):
        (self.data_dir / "tls").mkdir(mode=0o700)
        (self.data_dir / "tls" / "names").write_text(f"{NAME}\n")  # as `daemonpulse certs --name` leaves it
        argv = [sys.executable, "-m", "daemonpulse", "up", "--no-simulator", "--port", str(self.port), "--tls",
                "--host", "127.0.0.1", "--tls-port", str(self.tls_port)]  # fmt: skip
        self.process = subprocess.Popen(argv, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, text=True)
        self.said = []
        while not self.said or "Ctrl-C" not in self.said[-1]:
            self.said.append(self.process.stdout.readline())
            assert self.said[-1], "it did not start"

    def stop(self):
        super().stop()
        self.process.stdout.close()

    def connect(self) -> ssl.SSLSocket:
        """A connection as one makes it who trusts the authority and asks for NAME."""
        trusting = ssl.create_default_context(cafile=self.ca)
        return trusting.wrap_socket(socket.create_connection(("127.0.0.1", self.tls_port), 60), server_hostname=NAME)

    def served(self) -> x509.Certificate:
        with self.connect() as connection:
            return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True))


@pytest.fixture(scope="module")
def site():
    installation = TlsSite()
    try:
        installation.up()
        installation.links = installation._manage("shell", "-v0", "-c", LINKS).split()
        yield installation
    finally:
        installation.stop()


def certutil(home, *arguments):
    store = home / ".pki" / "nssdb"
    store.mkdir(parents=True, exist_ok=True)
    subprocess.run(["certutil", "-d", f"sql:{store}", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def launch(playwright, tmp_path_factory):
    """Chromium with a home of its own, and in it the authorities that are given; it finds NAME on the loopback."""
    browsers = []

    def start(*authorities):
        home = tmp_path_factory.mktemp("home")
        if authorities:
            certutil(home, "-N", "--empty-password")
        for path in authorities:
            certutil(home, "-A", "-t", "C,,", "-n", "DaemonPulse", "-i", str(path))
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[*CHROMIUM_FLAGS, f"--host-resolver-rules=MAP {NAME} 127.0.0.1"],
            env={**os.environ, "HOME": str(home)},
        )
        browsers.append(browser)
        return browser

    yield start
    for browser in browsers:
        browser.close()


@pytest.fixture(scope="module")
def trusting(site, launch):
    if shutil.which("certutil") is None:
        (pytest.fail if MUST_RUN_ALL else pytest.skip)("certutil is missing (Debian: apt-get install libnss3-tools)")
    return launch(site.ca)


def sign_in_link(site, url):
    return f"{url}/sign-in/{site.links.pop()}/"


def test_it_is_trusted_by_who_trusts_the_authority_and_by_nobody_else(site):
    for host in ("127.0.0.1", "localhost"):
        address = f"https://{host}:{site.tls_port}/ca/"
        assert requests.get(address, verify=str(site.ca), timeout=60).status_code == 200
        with pytest.raises(requests.exceptions.SSLError, match="certificate verify failed"):
            requests.get(address, timeout=60)
    assert requests.get(f"{site.url}/ca/", timeout=60).status_code == 200
    assert requests.get(f"{site.url}/ca/daemonpulse-ca.crt", timeout=60).content == site.ca.read_bytes()
    assert any(f"https://127.0.0.1:{site.tls_port}/ca/" in line for line in site.said)


def test_it_answers_to_certified_names_only(site):
    address = f"https://127.0.0.1:{site.tls_port}/sign-in/"
    for host, status in [(NAME, 200), ("evil.example", 400)]:
        answer = requests.get(address, headers={"Host": host}, verify=str(site.ca), timeout=60)
        assert answer.status_code == status


def test_a_browser_that_does_not_trust_it_stops(site, launch):
    page = launch().new_page()
    with pytest.raises(Exception, match="ERR_CERT_AUTHORITY_INVALID"):
        page.goto(f"{site.tls_url}/ca/")


def test_a_browser_that_trusts_it_has_a_secure_context_and_a_live_socket(site, trusting):
    page = trusting.new_page()
    page.goto(sign_in_link(site, site.tls_url))
    assert page.url == f"{site.tls_url}/"
    with page.expect_websocket() as opened:
        page.goto(f"{site.tls_url}/nodes/")
    assert opened.value.url.startswith(f"wss://{NAME}:{site.tls_port}/ws/")
    assert page.evaluate(OPEN) == "open"
    assert page.evaluate("() => isSecureContext && !!crypto.subtle && 'serviceWorker' in navigator")
    assert page.evaluate(REGISTER) in {"there is none yet", "/m/"}
    page.context.close()


def test_one_browser_signs_in_with_and_without_tls_on_the_same_host(site, trusting):
    context = trusting.new_context()
    page = context.new_page()
    with_tls = f"https://127.0.0.1:{site.tls_port}"
    for url in (with_tls, site.url):
        page.goto(sign_in_link(site, url))
    for url in (with_tls, site.url):
        page.goto(f"{url}/settings/")
        assert page.get_by_text("You are signed in as").is_visible()
    cookies = {cookie["name"]: cookie["secure"] for cookie in context.cookies()}
    assert cookies["__Host-daemonpulse_session"] and not cookies["daemonpulse_session"]
    page.goto(f"{with_tls}/settings/")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{with_tls}/sign-in/")
    page.goto(f"{site.url}/settings/")
    assert page.get_by_text("You are signed in as").is_visible()
    context.close()


def test_it_renews_a_certificate_that_ends_soon_without_a_restart(site, monkeypatch):
    web = [process.pid for process in site.processes("web")]
    with site.connect() as connection:
        with monkeypatch.context() as here:
            here.setenv("DAEMONPULSE_DATA_DIR", str(site.data_dir))
            here.setattr(certs, "LIFETIME", timedelta(days=3))
            soon = certs.ensure(renew=True)
        assert soon.until - datetime.now(UTC) < timedelta(days=3)
        # Twice: whoever meets the old one may still get it, the next one never does.
        site.served()
        served = wait_for(lambda: (found := site.served()).not_valid_after_utc > soon.until and found)
        assert served.not_valid_after_utc - datetime.now(UTC) > timedelta(days=390)
        assert NAME in soon.names
        connection.sendall(f"GET /ca/ HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
    assert [process.pid for process in site.processes("web")] == web


def test_the_page_about_trust_passes_axe_and_fits_a_phone(site, trusting):
    page = trusting.new_page()
    page.goto(f"{site.tls_url}/ca/")
    page.evaluate("() => document.querySelectorAll('details').forEach(details => { details.open = true })")
    check(page)
    page.context.close()
