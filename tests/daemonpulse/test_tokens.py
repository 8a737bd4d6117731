"""API tokens: made, shown once, used within their scopes, ended."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from daemonpulse.models import ApiToken

pytestmark = pytest.mark.django_db


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return client


def make(page, **fields):
    return page.post("/settings/tokens/", {"name": "backup", "scopes": ["read", "write"], "days": ""} | fields)


def use(secret, method="get", path="/api/v1/prompts", **more):
    return getattr(Client(), method)(path, headers={"Authorization": f"Bearer {secret}"}, **more)


def test_it_shows_a_new_token_once(page):
    answer = make(page)
    secret = answer.context["new_secret"]
    assert answer.status_code == 201
    assert secret in answer.content.decode()
    later = page.get("/settings/").content.decode()
    assert secret not in later
    assert f"…{secret[-4:]}" in later
    assert use(secret).status_code == 200


def test_it_stores_a_hash_only(page):
    secret = make(page).context["new_secret"]
    assert len(secret) > 40
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM daemonpulse_apitoken")
        (row,) = cursor.fetchall()
    assert secret not in str(row)
    assert secret.removeprefix("dp_") not in str(row)


def test_it_makes_every_token_another_one(alice):
    assert len({ApiToken.issue(alice, "x", ["read"])[1] for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("scopes", "statuses"),
    [(["read"], (200, 403)), (["write"], (403, 400)), (["read", "write"], (200, 400))],
)
def test_it_allows_what_its_scopes_say(alice, scopes, statuses):
    _, secret = ApiToken.issue(alice, "x", scopes)
    posted = use(secret, "post", data="{", content_type="application/json")
    assert (use(secret).status_code, posted.status_code) == statuses


def test_it_ends_on_its_day(page):
    secret = make(page, days="1").context["new_secret"]
    token = ApiToken.objects.get()
    assert timedelta(hours=23) < token.expires_at - timezone.now() <= timedelta(days=1)
    assert use(secret).status_code == 200
    ApiToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert use(secret).status_code == 401
    assert "expired" in page.get("/settings/").content.decode()


def test_it_ends_when_it_is_revoked(page):
    secret = make(page).context["new_secret"]
    token = ApiToken.objects.get()
    assert page.get(f"/settings/tokens/{token.pk}/revocation/").status_code == 405
    assert page.post(f"/settings/tokens/{token.pk}/revocation/").status_code == 302
    assert use(secret).status_code == 401
    token.refresh_from_db()
    revoked_at = token.revoked_at
    token.revoke()
    token.refresh_from_db()
    assert token.revoked_at == revoked_at
    assert "revoked" in page.get("/settings/").content.decode()


def test_it_ends_with_its_user(alice):
    _, secret = ApiToken.issue(alice, "x", ["read"])
    alice.is_active = False
    alice.save()
    assert use(secret).status_code == 401


def test_it_does_not_show_or_end_another_users_token(page, bob):
    token, secret = ApiToken.issue(bob, "bobs-own", ["read"])
    assert "bobs-own" not in page.get("/settings/").content.decode()
    assert page.post(f"/settings/tokens/{token.pk}/revocation/").status_code == 404
    assert use(secret).status_code == 200


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [({"name": ""}, "name"), ({"scopes": []}, "scopes"), ({"scopes": ["all"]}, "scopes"), ({"days": "0"}, "days"),
     ({"days": "soon"}, "days"), ({"name": "x" * 81}, "name")],
)  # fmt: skip
def test_it_says_what_a_token_lacks(page, fields, wrong):
    answer = make(page, **fields)
    assert answer.status_code == 422
    assert list(answer.context["token_form"].errors) == [wrong]
    assert not ApiToken.objects.exists()


def test_it_notes_its_use_once_a_minute(alice, django_assert_num_queries):
    token, secret = ApiToken.issue(alice, "x", ["read"])
    with django_assert_num_queries(2):
        ApiToken.find(secret)
    with django_assert_num_queries(1):
        ApiToken.find(secret)
    token.refresh_from_db()
    assert timezone.now() - token.last_used_at < timedelta(seconds=30)
    ApiToken.objects.update(last_used_at=timezone.now() - timedelta(minutes=2))
    with django_assert_num_queries(2):
        ApiToken.find(secret)


def test_it_is_the_only_way_to_the_api(page):
    """A session is not enough: what a browser sends by itself must not act through JSON."""
    assert page.get("/api/v1/prompts").status_code == 401


def test_it_is_no_way_to_the_pages(alice):
    _, secret = ApiToken.issue(alice, "x", ["read", "write"])
    assert use(secret, path="/prompts/").headers["Location"].startswith("/sign-in/")


def test_it_lets_charlie_make_none(client, db):
    assert make(client).headers["Location"].startswith("/sign-in/")
    assert not ApiToken.objects.exists()
