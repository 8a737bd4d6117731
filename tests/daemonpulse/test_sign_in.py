"""Coming in: by a link, once; by a password, not too often; and going out."""

import threading
from datetime import timedelta
from io import StringIO

import pytest
from django.core.cache import cache
from django.core.management import call_command
from django.db import connections
from django.test import Client
from django.utils import timezone

from daemonpulse.models import SignInLink
from daemonpulse.throttling import SIGN_IN

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def forget_failures():
    cache.clear()


def sign_in(client, username="alice", password=PASSWORD, **more):
    return client.post("/sign-in/", {"username": username, "password": password, **more})


def is_in(client):
    return client.get("/settings/").status_code == 200


# By link


def test_it_signs_in_by_a_link_once(client, alice):
    secret = SignInLink.issue(alice)
    answer = client.get(f"/sign-in/{secret}/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    assert "You are signed in as alice" in client.get("/settings/").content.decode()
    second = Client()
    answer = second.get(f"/sign-in/{secret}/")
    assert answer.status_code == 410
    assert "daemonpulse sign-in-link" in answer.content.decode()
    assert not is_in(second)


@pytest.mark.parametrize("what", ["expired", "unknown", "of nobody who may come in"])
def test_it_says_what_to_do_when_a_link_does_not_work(client, bob, what):
    secret = SignInLink.issue(bob)
    if what == "expired":
        SignInLink.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    elif what == "unknown":
        secret = "x" * 43
    else:
        bob.is_active = False
        bob.save()
    answer = client.get(f"/sign-in/{secret}/")
    assert answer.status_code == 410
    assert "no longer works" in answer.content.decode()
    assert "daemonpulse sign-in-link" in answer.content.decode()
    assert not is_in(client)


def test_it_gives_a_link_an_hour(alice):
    SignInLink.issue(alice)
    link = SignInLink.objects.get()
    assert link.expires_at - link.created_at < timedelta(hours=1, seconds=5)
    assert link.expires_at - link.created_at > timedelta(minutes=59)


def test_it_does_not_store_a_links_secret(alice):
    secret = SignInLink.issue(alice)
    assert secret not in str(SignInLink.objects.values())


@pytest.mark.django_db(transaction=True)
def test_it_lets_one_in_when_several_use_a_link_at_once(alice):
    for _ in range(10):
        secret = SignInLink.issue(alice)
        barrier, statuses = threading.Barrier(4), []

        def use(secret=secret, barrier=barrier, statuses=statuses):
            client = Client()
            barrier.wait()
            statuses.append(client.get(f"/sign-in/{secret}/").status_code)
            connections.close_all()

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [302, 410, 410, 410]


def test_it_prints_a_link_that_works(client, alice, bob):
    out = StringIO()
    call_command("sign_in_link", url="http://box:8642/", stdout=out)
    assert out.getvalue().startswith("http://box:8642/sign-in/")
    assert client.get(out.getvalue().strip().removeprefix("http://box:8642")).status_code == 302
    assert "as alice" in client.get("/settings/").content.decode()
    out = StringIO()
    call_command("sign_in_link", "bob", stdout=out)
    other = Client()
    other.get(out.getvalue().strip().removeprefix("http://127.0.0.1:8642"))
    assert "as bob" in other.get("/settings/").content.decode()


def test_it_keeps_a_link_out_of_caches_and_other_sites(client, alice):
    answer = client.get(f"/sign-in/{SignInLink.issue(alice)}/")
    assert "no-store" in answer.headers["Cache-Control"]
    assert answer.headers["Referrer-Policy"] == "same-origin"


# By password


def test_it_signs_in_by_password_and_out_again(client, alice):
    assert sign_in(client).headers["Location"] == "/"
    assert is_in(client)
    assert client.get("/sign-out/").status_code == 405
    assert is_in(client)
    assert client.post("/sign-out/").headers["Location"] == "/sign-in/"
    assert not is_in(client)


def test_it_says_the_same_of_a_wrong_password_and_a_wrong_name(client, alice):
    wrong = [sign_in(client, password="no"), sign_in(client, username="nobody")]
    messages = [list(answer.context["form"].non_field_errors()) for answer in wrong]
    assert messages[0] == messages[1]
    assert len(messages[0]) == 1
    assert not is_in(client)


def test_it_throttles_guessing(client, alice):
    for _ in range(8):
        answer = sign_in(client, password="guess")
        assert "Too many" not in answer.content.decode()
    answer = sign_in(client)
    assert "Too many failed tries" in answer.content.decode()
    assert not is_in(client)


def test_it_throttles_an_address_whatever_the_name_and_whatever_it_claims_to_be(client, alice, bob):
    for n in range(8):
        client.post("/sign-in/", {"username": f"user{n}", "password": "x"}, headers={"X-Forwarded-For": f"10.0.0.{n}"})
    answer = client.post(
        "/sign-in/", {"username": "bob", "password": PASSWORD}, headers={"X-Forwarded-For": "10.9.9.9"}
    )
    assert "Too many failed tries" in answer.content.decode()
    elsewhere = Client(REMOTE_ADDR="192.168.1.9")
    assert sign_in(elsewhere).status_code == 302


def test_it_lets_a_throttled_address_in_by_a_link(client, alice):
    """The message says so."""
    for _ in range(9):
        page = sign_in(client, password="guess")
    assert "or use a sign-in link" in page.content.decode()
    assert client.get(f"/sign-in/{SignInLink.issue(alice)}/").status_code == 302
    assert is_in(client)


def test_it_forgets_failures_after_a_success(client, alice):
    for _ in range(7):
        sign_in(client, password="guess")
    sign_in(client)
    client.post("/sign-out/")
    for _ in range(7):
        sign_in(client, password="guess")
    assert sign_in(client).status_code == 302


def test_it_forgets_failures_after_a_while(client, alice, monkeypatch):
    monkeypatch.setattr(SIGN_IN, "seconds", 0.5)
    for _ in range(8):
        SIGN_IN.count("127.0.0.1")
    assert SIGN_IN.is_blocked("127.0.0.1")
    threading.Event().wait(0.6)
    assert sign_in(client).status_code == 302


def test_it_bears_a_count_that_ends_while_it_counts(client, alice, monkeypatch):
    monkeypatch.setattr(SIGN_IN, "seconds", 0)
    assert sign_in(client, password="guess").status_code == 200


@pytest.mark.parametrize(
    ("wanted", "place"),
    [
        ("/nodes/", "/nodes/"),
        ("/prompts/?state=failed", "/prompts/?state=failed"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("http:///evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("\\\\evil.example", "/"),
    ],
)
def test_it_goes_on_to_our_own_pages_only(client, alice, wanted, place):
    assert sign_in(client, next=wanted).headers["Location"] == place


def test_it_starts_a_new_session(client, alice):
    client.get("/sign-in/")
    client.session["planted"] = True
    client.session.save()
    before = client.session.session_key
    sign_in(client)
    assert client.session.session_key != before


def test_it_does_not_ask_who_is_in_already(client, alice):
    client.force_login(alice)
    assert client.get("/sign-in/").headers["Location"] == "/"


@pytest.mark.parametrize("path", ["/", "/prompts/", "/prompts/new/", "/prompts/batch/", "/settings/", "/nodes/"])
def test_it_sends_charlie_to_sign_in_and_back(client, alice, path):
    answer = client.get(path)
    assert answer.headers["Location"] == f"/sign-in/?next={path}"
    assert sign_in(client, next=path).headers["Location"] == path


def test_it_sets_a_password(client, alice):
    client.force_login(alice)
    short = client.post("/settings/password/", {"new_password1": "short", "new_password2": "short"})
    assert short.status_code == 422
    new = "another long sentence"
    assert client.post("/settings/password/", {"new_password1": new, "new_password2": new}).status_code == 302
    assert is_in(client)
    other = Client()
    sign_in(other)
    assert not is_in(other)
    sign_in(other, password=new)
    assert is_in(other)
