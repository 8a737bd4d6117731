"""What every page carries and what none may hold (design, decision 12)."""

import asyncio
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.testing import WebsocketCommunicator
from django.test import Client

from daemonpulse.models import SignInLink
from daemonpulse.origins import SameOriginOnly
from daemonpulse.queue.models import Prompt

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[2]
MARKER = "zebra-9141-crossing"
PAGES = [
    "/", "/prompts/", "/prompts/?q=otter&state=failed", "/prompts/new/", "/prompts/batch/", "/nodes/", "/settings/",
    "/styleguide/", "/admin/", "/admin/fleet/node/", "/admin/daemonpulse/event/", "/admin/queue/prompt/",
]  # fmt: skip


class Inline(HTMLParser):
    """Collects what the policy would block: inline code and style, and addresses elsewhere."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "style" or (tag == "script" and not given.get("src") and given.get("type") != "application/json"):
            self.found.append(tag)
        for name, value in attrs:
            address = (value or "").strip().lower()
            if name == "style" or name.startswith("on"):
                self.found.append(f"{tag} {name}")
            if name in {"href", "src", "action", "formaction"} and address.startswith("javascript:"):
                self.found.append(f"{tag} {name}={value}")
            is_followed_at_once = name in {"src", "action"} or (tag == "link" and name == "href")
            if is_followed_at_once and "//" in address:
                self.found.append(f"{tag} {name}={value}")


def assert_safe(answer):
    policy = {part.split()[0]: part.split()[1:] for part in answer.headers["Content-Security-Policy"].split(";")}
    for directive in ("default-src", "script-src", "style-src", "connect-src", "form-action"):
        assert policy[directive] == ["'self'"]
    for directive in ("object-src", "frame-ancestors", "base-uri"):
        assert policy[directive] == ["'none'"]
    assert "unsafe" not in str(policy)
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        assert Inline(answer.content.decode()).found == []


@pytest.fixture
def page(alice):
    client = Client(raise_request_exception=False)
    client.force_login(alice)
    return client


def submit(alice, text="Hello **there** <script>alert(1)</script>"):
    return Prompt.submit(owner=alice, model="otter", text=text)[0]


@pytest.mark.parametrize("path", PAGES)
def test_it_serves_pages_that_the_policy_allows(page, node, alice, path):
    submit(alice)
    answer = page.get(path)
    assert answer.status_code == 200
    assert_safe(answer)


@pytest.mark.parametrize("suffix", ["", "edit/", "repeat/"])
def test_it_shows_a_prompt_within_the_policy(page, node, alice, suffix):
    answer = page.get(f"/prompts/{submit(alice).pk}/{suffix}", follow=True)
    assert answer.status_code in {200, 405}
    assert_safe(answer)
    assert "<script>alert" not in answer.content.decode()


def test_it_serves_errors_that_the_policy_allows(page, client, alice, monkeypatch):
    monkeypatch.setattr("daemonpulse.views.TokenForm", None)
    answers = {
        400: page.get("/", HTTP_HOST="evil.example"),
        403: Client(enforce_csrf_checks=True).post("/sign-in/"),
        404: page.get("/nothing/"),
        405: page.get("/nodes/1/look/"),
        410: client.get("/sign-in/used/"),
        500: page.get("/settings/"),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert_safe(answer)
    assert_safe(client.get("/sign-in/"))
    assert_safe(client.get("/static/daemonpulse/app.js"))
    assert_safe(client.get("/api/v1/prompts"))


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "evil.example:80"]
)
def test_it_answers_to_its_own_names_only(page, host):
    answer = page.get("/", HTTP_HOST=host)
    assert answer.status_code == 400
    assert "evil" not in answer.content.decode()


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost", "[::1]:8642"])
def test_it_answers_to_its_own_names(page, host):
    assert page.get("/", HTTP_HOST=host).status_code == 200


def test_it_keeps_the_session_cookie_from_scripts_and_other_sites(client, alice):
    client.get(f"/sign-in/{SignInLink.issue(alice)}/")
    cookie = client.cookies["daemonpulse_session"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert not cookie["secure"]


@pytest.mark.parametrize(("tls", "is_secure"), [("1", "True True"), ("", "False False")])
def test_it_marks_its_cookies_as_secure_behind_tls(tmp_path, tls, is_secure):
    code = "from daemonpulse import settings as s; print(s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE)"
    environment = os.environ | {"DAEMONPULSE_TLS": tls, "DAEMONPULSE_DATA_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == is_secure


@pytest.mark.parametrize("path", ["/prompts/new/", "/nodes/add/", "/settings/tokens/", "/sign-out/", "/sign-in/"])
def test_it_wants_a_csrf_token(alice, path):
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    answer = strict.post(path, {"text": MARKER})
    assert answer.status_code == 403
    assert "The form has expired" in answer.content.decode()
    assert MARKER not in answer.content.decode()


def test_it_shows_and_logs_no_prompt_when_it_fails(page, node, monkeypatch, caplog):
    def explode(*args, **kwargs):
        raise RuntimeError("broken")

    monkeypatch.setattr(Prompt, "submit", explode)
    answer = page.post("/prompts/new/", {"model": "otter", "text": MARKER})
    assert answer.status_code == 500
    assert "Something broke on our side" in answer.content.decode()
    assert MARKER not in answer.content.decode()
    assert MARKER not in caplog.text
    assert "RuntimeError" not in answer.content.decode()


def test_it_says_that_a_form_is_too_large_without_showing_it(page, node):
    answer = page.post("/prompts/new/", {"model": "otter", "text": MARKER + "x" * (9 * 1024 * 1024)})
    assert answer.status_code in {400, 413}
    assert MARKER not in answer.content.decode()
    assert not Prompt.objects.exists()


def test_it_hides_another_users_prompt(bob, alice, node):
    prompt = submit(alice, MARKER)
    other = Client()
    other.force_login(bob)
    for path in (f"/prompts/{prompt.pk}/", f"/prompts/{prompt.pk}/edit/"):
        answer = other.get(path)
        assert answer.status_code == 404
        assert MARKER not in answer.content.decode()
    assert MARKER not in other.get("/prompts/").content.decode()
    assert MARKER not in other.get("/").content.decode()


class Open(AsyncWebsocketConsumer):
    pass


@pytest.mark.parametrize(
    ("origin", "is_let_in"),
    [
        ("http://127.0.0.1:8642", True),
        ("https://127.0.0.1:8642", True),
        (None, True),
        ("http://127.0.0.1:9000", False),
        ("http://localhost:8642", False),
        ("http://127.0.0.1:8642.evil.example", False),
        ("https://evil.example", False),
        ("http://[half", False),
        ("null", False),
        ("file://", False),
    ],
)
def test_it_opens_sockets_to_its_own_pages_only(origin, is_let_in):
    headers = [(b"host", b"127.0.0.1:8642")] + ([(b"origin", origin.encode())] if origin else [])

    async def connect():
        socket = WebsocketCommunicator(SameOriginOnly(Open.as_asgi()), "/ws/board/", headers)
        connected, _ = await socket.connect()
        await socket.disconnect()
        return connected

    assert asyncio.run(connect()) is is_let_in
