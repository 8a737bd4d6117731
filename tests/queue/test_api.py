"""The JSON API, as a script meets it."""

import json
import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from daemonpulse.models import ApiToken
from daemonpulse.queue.models import Prompt

from .prompts import cancelled, done, failed, fresh, kinds_of, running, stream, submit

pytestmark = pytest.mark.django_db
URL = "/api/v1/prompts"
GOOD = {"model": "otter", "text": "Why?"}


class Script:
    """A script with a token."""

    def __init__(self, client, secret: str):
        self.client = client
        self.headers = {"Authorization": f"Bearer {secret}"}

    def get(self, path: str, **headers):
        return self.client.get(path, headers=self.headers | headers)

    def post(self, path: str, body: object = None):
        content = body if isinstance(body, bytes) else json.dumps(body)
        return self.client.post(path, content, content_type="application/json", headers=self.headers)


@pytest.fixture
def script(client, alice):
    return Script(client, ApiToken.issue(alice, "script", ["read", "write"])[1])


def error(response, status: int) -> dict:
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/json"
    return response.json()["error"]


def rules(response, status: int = 422) -> list[tuple[str, str]]:
    return [(field["field"], field["rule"]) for field in error(response, status)["fields"]]


# Submit


def test_it_queues_a_prompt(script, alice, node):
    body = GOOD | {"system_prompt": "Be brief.", "priority": "high", "temperature": 0.5, "node": node.pk}

    response = script.post(URL, body)

    assert response.status_code == 201
    told = response.json()
    prompt = Prompt.objects.get(pk=told["id"])
    assert (prompt.owner, prompt.text, prompt.state, prompt.priority) == (alice, "Why?", "queued", 10)
    assert (prompt.settings, prompt.node_pin) == ({"temperature": 0.5}, node)
    assert (told["state"], told["place"], told["model"], told["priority"]) == ("queued", 1, "otter", "high")
    assert (told["text"], told["system_prompt"], told["settings"]) == ("Why?", "Be brief.", {"temperature": 0.5})


def test_it_queues_once_for_an_id(script, node):
    body = GOOD | {"id": str(uuid.uuid4())}

    first, second = script.post(URL, body), script.post(URL, body | {"text": "Changed"})

    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"] == body["id"]
    assert second.json()["text"] == "Why?"
    assert Prompt.objects.count() == 1


def test_it_tells_the_answer_when_the_id_is_already_done(script, alice, node):
    prompt = done(alice, node, answer="Because.")

    response = script.post(URL, GOOD | {"id": str(prompt.pk)})

    assert (response.status_code, response.json()["answer"]) == (200, "Because.")


@pytest.mark.django_db(transaction=True)
def test_it_refuses_another_users_id_and_tells_nothing_of_it(script, bob, node):
    theirs = submit(bob, "a secret of Bob")

    response = script.post(URL, GOOD | {"id": str(theirs.pk)})

    assert rules(response, 409) == [("id", "taken")]
    assert "secret" not in response.content.decode()
    assert Prompt.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([], [("", "type")]),
        ({}, [("model", "required"), ("text", "required")]),
        (GOOD | {"text": 5}, [("text", "type")]),
        (GOOD | {"text": None}, [("text", "required")]),
        (GOOD | {"text": " \n "}, [("text", "required")]),
        (GOOD | {"text": "x" * 5 * 1024 * 1024}, [("text", "max_length")]),
        (GOOD | {"text": "\ud800"}, [("text", "surrogate")]),
        (GOOD | {"model": "kraken"}, [("model", "unknown_model")]),
        (GOOD | {"temperature": "hot"}, [("temperature", "type")]),
        (GOOD | {"temperature": 3}, [("temperature", "max_value")]),
        (GOOD | {"temperature": float("nan")}, [("temperature", "invalid")]),
        (GOOD | {"priority": "urgent"}, [("priority", "invalid_choice")]),
        (GOOD | {"node": 10**30}, [("node", "invalid_choice")]),
        (GOOD | {"id": "42"}, [("id", "invalid")]),
        (GOOD | {"stream": "yes"}, [("stream", "type")]),
        (GOOD | {"\ud800": 1}, [("\ud800", "unknown_field")]),
        (GOOD | {"follows": str(uuid.uuid4())}, [("follows", "invalid_choice")]),
        (GOOD | {"prompt": 1, "top_k": "3"}, [("prompt", "unknown_field"), ("top_k", "type")]),
    ],
)
def test_it_names_field_and_rule_of_bad_input_and_queues_nothing(script, node, body, expected):
    response = script.post(URL, body)

    assert rules(response) == expected
    assert all(field["message"] for field in response.json()["error"]["fields"])
    assert not Prompt.objects.exists()


def test_it_does_not_follow_up_another_users_prompt(script, bob, node):
    theirs = done(bob, node)

    assert rules(script.post(URL, GOOD | {"follows": str(theirs.pk)})) == [("follows", "invalid_choice")]


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe", b'{"text": ' + b"9" * 5000 + b"}", b"[" * 100_000])
def test_it_says_that_a_body_is_no_json(script, body):
    assert "not valid JSON" in error(script.post(URL, body), 400)["message"]


def test_it_refuses_a_body_above_eight_megabytes(script, node):
    response = script.post(URL, GOOD | {"text": "x" * 9 * 1024 * 1024})

    assert "larger than 8 MB" in error(response, 413)["message"]
    assert not Prompt.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_it_answers_a_submission_with_its_events_when_asked_to(script, node):
    response = script.post(URL, GOOD | {"stream": True})

    assert response.status_code == 200
    assert response["Content-Type"] == "text/event-stream"
    assert response["Cache-Control"] == "no-store"
    assert str(Prompt.objects.get().pk) == response["Prompt-Id"]


# Get


def test_it_shows_a_finished_prompt(script, alice, node):
    prompt = done(alice, node, answer="Because.", reasoning="Hm.")

    told = script.get(f"{URL}/{prompt.pk}").json()

    assert (told["state"], told["answer"], told["reasoning"], told["node"]) == ("done", "Because.", "Hm.", "box")
    assert (told["stats"], told["attempts"], told["place"], told["reason"]) == ({"output_tokens": 1}, 1, None, None)
    assert told["finished_at"] >= told["started_at"] >= told["enqueued_at"]


def test_it_shows_the_text_so_far_of_a_running_prompt(script, alice, node):
    prompt, attempt = running(alice, node)
    stream(attempt, ("message", "Half an"))

    told = script.get(f"{URL}/{prompt.pk}").json()

    assert (told["state"], told["answer"], told["stats"]) == ("sending", "Half an", {})


def test_it_shows_why_a_prompt_failed(script, alice, node):
    told = script.get(f"{URL}/{failed(alice, node).pk}").json()

    assert (told["reason"], told["detail"]) == ("bad_request", "no such setting")
    assert told["explanation"] == "The node did not accept the request."


# List


def test_it_lists_ones_own_prompts_newest_first(script, alice, bob, node):
    mine = [submit(alice), submit(alice, model="heron")]
    submit(bob)

    told = script.get(URL).json()

    assert [row["id"] for row in told["prompts"]] == [str(prompt.pk) for prompt in reversed(mine)]
    assert (told["page"], told["pages"], told["count"]) == (1, 1, 2)
    assert "text" not in told["prompts"][0]
    assert told["prompts"][0]["excerpt"] == "Why is the sky blue?"


def test_it_filters_by_model_and_state(script, alice, node):
    waiting, over, other = submit(alice), cancelled(alice), submit(alice, model="heron")

    def ids(query):
        return {row["id"] for row in script.get(f"{URL}?{query}").json()["prompts"]}

    assert ids("model=otter") == {str(waiting.pk), str(over.pk)}
    assert ids("state=queued") == {str(waiting.pk), str(other.pk)}
    assert ids("model=otter&state=cancelled") == {str(over.pk)}
    assert ids("model=kraken") == set()
    assert rules(script.get(f"{URL}?state=melted")) == [("state", "invalid_choice")]


def test_it_pages(script, alice):
    Prompt.submit_many(owner=alice, drafts=[{"model": "otter", "text": str(number)} for number in range(5)])

    pages = [script.get(f"{URL}?page_size=2&page={number}").json() for number in (1, 2, 3)]

    assert [len(page["prompts"]) for page in pages] == [2, 2, 1]
    assert len({row["id"] for page in pages for row in page["prompts"]}) == 5
    assert (pages[0]["pages"], pages[0]["count"]) == (3, 5)
    assert script.get(f"{URL}?page_size=x").status_code == 422
    assert len(script.get(f"{URL}?page_size=0").json()["prompts"]) == 1


def test_it_lists_with_as_many_queries_for_many_as_for_few(script, alice, django_assert_num_queries):
    def queries(count: int) -> int:
        drafts = [{"model": f"m{number % 7}", "text": "x"} for number in range(count)]
        Prompt.submit_many(owner=alice, drafts=drafts)
        script.get(URL)
        with django_assert_num_queries(4, exact=False) as captured:
            script.get(f"{URL}?page_size=200")
        return len(captured)

    assert queries(3) == queries(60)


# Cancel and retry


def test_it_cancels_and_may_be_asked_twice(script, alice, node):
    prompt, _ = running(alice, node)

    answers = [script.post(f"{URL}/{prompt.pk}/cancel") for _ in range(2)]

    assert [(answer.status_code, answer.json()["state"]) for answer in answers] == [(200, "cancelled")] * 2
    assert fresh(prompt).state == "cancelled"


def test_it_cancels_nothing_that_has_ended(script, alice, node):
    prompt = done(alice, node)

    assert rules(script.post(f"{URL}/{prompt.pk}/cancel"), 409) == [("state", "ended")]
    assert fresh(prompt).state == "done"


def test_it_retries_and_may_be_asked_twice(script, alice, node):
    prompt = failed(alice, node)

    answers = [script.post(f"{URL}/{prompt.pk}/retry") for _ in range(2)]

    assert [(answer.status_code, answer.json()["state"]) for answer in answers] == [(200, "queued")] * 2
    assert kinds_of(prompt).count("prompt.queued") == 2


def test_it_retries_nothing_that_is_done(script, alice, node):
    assert rules(script.post(f"{URL}/{done(alice, node).pk}/retry"), 409) == [("state", "not_retriable")]


# Who may


@pytest.mark.parametrize(("method", "verb"), [("get", ""), ("get", "/events"), ("post", "/cancel"), ("post", "/retry")])
def test_it_hides_another_users_prompt(script, bob, node, method, verb):
    theirs = failed(bob, node, text="a secret of Bob")

    for pk in (theirs.pk, uuid.uuid4()):
        response = getattr(script, method)(f"{URL}/{pk}{verb}")
        assert error(response, 404) == {"message": "There is no such prompt.", "fields": []}
    assert fresh(theirs).state == "failed"


def test_it_wants_a_token(client, script, alice, node):
    token, secret = ApiToken.issue(alice, "old", ["read"])
    token.revoke()
    _, expired = ApiToken.issue(alice, "older", ["read"], lifetime=timedelta(seconds=-1))
    client.force_login(alice)  # a browser's session opens no API

    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Bearer"}, {"Authorization": "Basic eDp5"}):
        response = client.get(URL, headers=headers)
        assert "Send a valid token" in error(response, 401)["message"]
        assert response["WWW-Authenticate"] == "Bearer"
    for used_up in (secret, expired):
        assert client.get(URL, headers={"Authorization": f"Bearer {used_up}"}).status_code == 401


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [(["read"], {"list", "get", "models"}), (["write"], {"submit", "cancel"}), ([], set())],
)
def test_it_keeps_to_the_tokens_scopes(client, alice, node, scopes, allowed):
    script = Script(client, ApiToken.issue(alice, "narrow", scopes)[1])
    prompt = submit(alice)
    answers = {
        "list": script.get(URL),
        "get": script.get(f"{URL}/{prompt.pk}"),
        "models": script.get("/api/v1/models"),
        "submit": script.post(URL, GOOD),
        "cancel": script.post(f"{URL}/{prompt.pk}/cancel"),
    }

    assert {name for name, answer in answers.items() if answer.status_code < 300} == allowed
    assert all(answer.status_code == 403 for name, answer in answers.items() if name not in allowed)
    assert Prompt.objects.count() == 1 + ("submit" in allowed)


def test_it_tells_the_method_to_use(script, alice):
    response = script.get(f"{URL}/{submit(alice).pk}/cancel")

    assert "Use POST here" in error(response, 405)["message"]
    assert response["Allow"] == "POST"


# Models and events


def test_it_lists_the_models_with_where_they_stand(script, node):
    node.models.filter(key="heron").update(loaded=["heron:1"])

    told = script.get("/api/v1/models").json()["models"]

    assert told == [
        {"key": "heron", "name": "Heron", "is_loaded": True, "is_online": True, "nodes": ["box"]},
        {"key": "otter", "name": "Otter", "is_loaded": False, "is_online": True, "nodes": ["box"]},
    ]


def test_it_lists_a_model_whose_node_is_offline_as_such(script, node):
    type(node).objects.update(state="offline")

    assert {model["is_online"] for model in script.get("/api/v1/models").json()["models"]} == {False}


@pytest.mark.parametrize("header", ["x", "1.2", "1.0.-3", "1.2.3.4", "latest"])
def test_it_refuses_a_last_event_id_that_is_none_of_its_own(script, alice, header):
    response = script.get(f"{URL}/{submit(alice).pk}/events", **{"Last-Event-ID": header})

    assert rules(response) == [("Last-Event-ID", "invalid")]


def test_it_notes_when_a_token_was_used(script, node):
    script.get(URL)

    assert timezone.now() - ApiToken.objects.get().last_used_at < timedelta(minutes=1)


def test_it_is_safe_to_repeat_after_the_model_is_gone(alice, node, script):
    body = {"id": "8e6f0a52-0000-4000-8000-000000000001", "model": "otter", "text": "once"}
    assert script.post(URL, body).status_code == 201
    node.remove()

    assert script.post(URL, body).status_code == 200
