"""The door of the JSON API: who gets in, with what method and body, and what the refusal says."""

import json

import pytest
from django.test import Client

from daemonpulse.models import ApiToken
from daemonpulse.queue.models import Prompt

pytestmark = pytest.mark.django_db
PATH = "/api/v1/prompts"
GOOD = {"model": "otter", "text": "Hello"}


@pytest.fixture
def secret(alice):
    return ApiToken.issue(alice, "script", ["read", "write"])[1]


@pytest.fixture
def send(secret, node):
    """send(body) posts it as JSON; bytes go as they are."""
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)

    def send(body, method="post", path=PATH, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body)
        headers = {"Authorization": f"Bearer {secret}"} | headers
        return getattr(client, method)(path, data, content_type="application/json", headers=headers)

    return send


def error_of(answer):
    assert answer.headers["Content-Type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "fields"}
    assert error["message"]
    assert not Prompt.objects.exists()
    return error


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer dp_wrong",
        "Basic YWxpY2U6eA==",
        "dp_wrong",
        "Bearer \xff\xfe",
        "bearer\tx",
    ],
)
def test_it_wants_a_token(client, db, header):
    answer = client.get(PATH, headers={"Authorization": header} if header is not None else {})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "Authorization: Bearer" in error_of(answer)["message"]


def test_it_takes_a_token_however_the_scheme_is_written(secret, client):
    assert client.get(PATH, headers={"Authorization": f"bearer  {secret} "}).status_code == 200


def test_it_says_which_scope_a_token_lacks(alice, client):
    _, secret = ApiToken.issue(alice, "reader", ["read"])
    answer = client.post(PATH, GOOD, content_type="application/json", headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 403
    assert "write" in error_of(answer)["message"]


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_it_says_which_methods_there_are(send, method):
    answer = send(GOOD, method)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, POST"
    assert "GET or POST" in error_of(answer)["message"]


def test_it_refuses_a_body_that_is_too_large(send):
    answer = send(GOOD | {"text": "x" * (8 * 1024 * 1024)})
    assert answer.status_code == 413
    assert "8 MB" in error_of(answer)["message"]


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("body", [b"", b"{", b"{'model': 1}", b"\xff\xfe{}", b"[" * 100_000, b'{"model": "otter"} x'])
def test_it_refuses_a_body_that_is_no_json(send, body):
    answer = send(body)
    assert answer.status_code == 400
    assert "not valid JSON" in error_of(answer)["message"]


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ([], "", "type"),
        (None, "", "type"),
        ({"text": "Hello"}, "model", "required"),
        ({"model": "otter"}, "text", "required"),
        (GOOD | {"text": " \n"}, "text", "required"),
        (GOOD | {"text": 7}, "text", "type"),
        (GOOD | {"text": "x" * 1_000_001}, "text", "max_length"),
        (GOOD | {"model": "badger"}, "model", "unknown_model"),
        (GOOD | {"temperature": "hot"}, "temperature", "type"),
        (GOOD | {"temperature": True}, "temperature", "type"),
        (GOOD | {"temperature": 2.5}, "temperature", "max_value"),
        (GOOD | {"top_k": 1.5}, "top_k", "type"),
        (GOOD | {"max_output_tokens": 0}, "max_output_tokens", "min_value"),
        (GOOD | {"reasoning": "huge"}, "reasoning", "invalid_choice"),
        (GOOD | {"priority": "urgent"}, "priority", "invalid_choice"),
        (GOOD | {"stream": "yes"}, "stream", "type"),
        (GOOD | {"id": "seven"}, "id", "invalid"),
        (GOOD | {"node": 99}, "node", "invalid_choice"),
        (GOOD | {"follows": "00000000-0000-4000-8000-000000000000"}, "follows", "invalid_choice"),
        (GOOD | {"colour": "blue"}, "colour", "unknown_field"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_it_names_the_field_and_the_rule(send, body, field, rule):
    answer = send(body)
    assert answer.status_code == 422
    (row,) = error_of(answer)["fields"]
    assert (row["field"], row["rule"]) == (field, rule)
    assert row["message"]


def test_it_names_every_field_at_once(send):
    error = error_of(send({"model": "badger", "temperature": 9, "text": ""}))
    assert {row["field"] for row in error["fields"]} == {"model", "temperature", "text"}


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_it_refuses_numbers_that_are_none(send, value):
    body = b'{"model": "otter", "text": "Hello", "temperature": %s}' % value.encode()
    assert send(body).status_code in {400, 422}
    assert not Prompt.objects.exists()


@pytest.mark.parametrize(
    "path", ["/api/v1/nothing", "/api/v1/prompts/7", "/api/v1/prompts/00000000-0000-4000-8000-000000000000"]
)
def test_it_answers_in_json_that_there_is_no_such_thing(client, secret, path):
    answer = client.get(path, headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 404
    error_of(answer)


def test_it_answers_in_json_when_it_fails(send, monkeypatch):
    def explode(*args, **kwargs):
        raise RuntimeError("a detail of the inside")

    monkeypatch.setattr(Prompt, "submit", explode)
    answer = send(GOOD)
    assert answer.status_code == 500
    assert "inside" not in error_of(answer)["message"]


def test_it_takes_what_is_right(send):
    answer = send(GOOD)
    assert answer.status_code == 201
    assert str(Prompt.objects.get().pk) == answer.json()["id"]
