"""Who may call, how a call is sealed, and what is answered to what is wrong."""

import json
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from daemonpulse import sealing
from daemonpulse.queue.models import Device, PairingCode
from daemonpulse.queue.sync import door

from .devices import TestDevice, submission
from .prompts import submit

pytestmark = pytest.mark.django_db
JSON = "application/json"


def error_of(answer) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# Pairing


def test_it_pairs_a_plain_device_that_sees_its_owners_prompts_only(alice, bob, node):
    mine, _ = submit(alice), submit(bob)
    phone = TestDevice(alice, name="Alice's phone")
    assert phone.row.owner == alice
    assert (phone.row.name, phone.row.kind, phone.row.app) == ("Alice's phone", "phone", "test/1")
    assert not phone.paired["sealed"]
    assert [change["id"] for change in phone.pull()["changes"]] == [str(mine.pk)]
    assert phone.token not in json.dumps(list(Device.objects.values("token_hash", "name")))


def test_a_sealed_pairing_sends_neither_key_nor_token(alice, node):
    phone = TestDevice(alice, sealed=True)
    sent = json.dumps(phone.paired)
    assert phone.token not in sent
    assert sealing.to_text(phone.key) not in sent
    assert sealing.from_text(phone.row.key) == phone.key
    assert phone.call("ping")[0] == 200


def pair(code: str, **fields):
    body = {"code": code, "name": "x", "kind": "phone"} | fields
    return Client().post("/api/sync/v1/pair", json.dumps(body), content_type=JSON)


def test_a_code_pairs_once_however_it_is_typed(alice):
    code = PairingCode.issue(alice)[1]
    assert pair(f" {code[:4].lower()}-{code[4:]} ").status_code == 200
    assert error_of(pair(code)) == (422, "bad_code")


def test_a_code_ends_after_five_minutes_or_when_another_is_made(alice):
    first, second = PairingCode.issue(alice)[1], PairingCode.issue(alice)[1]
    assert error_of(pair(first)) == (422, "bad_code")
    PairingCode.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert error_of(pair(second)) == (422, "bad_code")


def test_a_wrong_field_does_not_use_up_the_code(alice):
    code = PairingCode.issue(alice)[1]
    for wrong in (
        {"kind": "toaster"},
        {"name": " "},
        {"name": "\ud800"},
        {"app": "a\0"},
        {"public_key": "AAAA"},
        {"public_key": "!"},
        {"colour": "red"},
    ):
        answer = pair(code, **wrong)
        assert error_of(answer) == (422, "invalid")
        assert answer.json()["error"]["fields"][0]["field"] in wrong
    assert pair(code).status_code == 200


def test_who_guesses_codes_has_to_wait(alice):
    code = PairingCode.issue(alice)[1]
    for _ in range(8):
        assert error_of(pair("00000000")) == (422, "bad_code")
    answer = pair(code)
    assert error_of(answer) == (429, "too_fast")
    assert int(answer["Retry-After"]) == answer.json()["error"]["retry_after"] > 0


# The door


def test_it_wants_the_token_of_a_device_that_may_come_in(alice):
    phone = TestDevice(alice)
    assert error_of(phone.post("ping", "{}", JSON, Authorization="")) == (401, "no_token")
    assert error_of(phone.post("ping", "{}", JSON, Authorization="Bearer dpd_x")) == (401, "unknown_token")
    Device.objects.update(last_heard_at=timezone.now() - timedelta(days=366))
    assert error_of(phone.post("ping", "{}", JSON)) == (401, "expired")
    phone.row.revoke()
    assert error_of(phone.post("ping", "{}", JSON)) == (401, "revoked")


def test_it_answers_to_a_wrong_way_in_words(alice):
    phone = TestDevice(alice)
    answer = phone.post("ping", "{}", JSON, version=2)
    assert error_of(answer) == (426, "version")
    assert answer.json()["error"]["supported"] == [1]
    assert error_of(phone.post("dance", "{}", JSON)) == (404, "no_call")
    answer = phone.client.get("/api/sync/v1/ping")
    assert error_of(answer) == (405, "method") and answer["Allow"] == "POST"
    assert error_of(phone.post("ping", "{}", JSON, Origin="http://evil.example")) == (403, "foreign_origin")
    assert error_of(phone.post("ping", "{}", JSON, Origin="http://[bad")) == (403, "foreign_origin")
    assert phone.post("ping", "{}", JSON, Origin="http://testserver").status_code == 200
    assert error_of(phone.post("ping", "{}", "text/plain")) == (415, "content_type")


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("body", [" ", "no", "[]", "1", "{", "[" * 100_000, b"\xff"])
def test_it_wants_a_json_object(alice, body):
    assert error_of(TestDevice(alice).post("ping", body, JSON)) == (400, "malformed")


def test_it_tells_the_limit_to_what_is_too_large(alice, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    answer = TestDevice(alice).post("ping", json.dumps({"pending": 1, "x": "x" * 2000}), JSON)
    assert error_of(answer) == (413, "too_large")
    assert answer.json()["error"]["limit_bytes"] == 1000


def test_it_slows_down_a_device_that_calls_too_often_and_no_other(alice, monkeypatch):
    monkeypatch.setattr(door, "PACE", door.Pace(per_second=1, burst=3))
    phone, laptop = TestDevice(alice), TestDevice(alice)
    assert [phone.call("ping")[0] for _ in range(4)] == [200, 200, 200, 429]
    assert laptop.call("ping")[0] == 200


def test_it_names_the_field_that_is_wrong(alice):
    phone = TestDevice(alice)
    for data, field in (
        ({"pending": "3"}, "pending"),
        ({"pending": -1}, "pending"),
        ({"pendng": 3}, "pendng"),
        ({"\ud800": 3}, "?"),
    ):
        status, answer = phone.call("ping", data)
        assert (status, answer["error"]["fields"][0]["field"]) == (422, field)


# Sealed


@pytest.fixture
def phone(alice, node):
    return TestDevice(alice, sealed=True)


def post_sealed(phone, body: str, call: str = "ping"):
    return phone.post(call, body, sealing.CONTENT_TYPE)


def test_a_sealed_device_may_not_fall_back(phone):
    assert error_of(phone.post("ping", "{}", JSON)) == (403, "sealed_only")


def test_nothing_readable_goes_either_way(phone):
    body = phone.sealed("push", {"mutations": [submission("a secret question")]})
    answer = post_sealed(phone, body, "push")
    assert answer.status_code == 200
    for sent in (body, answer.content.decode()):
        assert "secret" not in sent and "applied" not in sent


def test_it_does_not_open_what_was_altered_or_sealed_otherwise(alice, phone):
    other = TestDevice(alice, sealed=True)
    body = phone.sealed("ping", {})
    _, *rest = body.split(".")
    bodies = [
        body[:-4] + ("AAAA" if body[-4:] != "AAAA" else "BBBB"),
        other.sealed("ping", {}),
        sealing.seal(other.key, {"kid": phone.id, "seq": 99, "use": "ping"}, b"{}"),
        phone.sealed("pull", {}),
        phone.sealed("ping", {}, kid=other.id),
        phone.sealed("ping", {}, seq=0),
        phone.sealed("ping", {}, seq=-5),
        phone.sealed("ping", {}, seq="7"),
        phone.sealed("ping", {}, seq=2**60),
        ".".join(["e30", *rest]),
        "nonsense",
        "ä" * 50,
    ]
    for wrong in bodies:
        assert error_of(post_sealed(phone, wrong)) == (400, "unopened"), wrong
    assert post_sealed(phone, body).status_code == 200  # the right one is still good


def test_it_refuses_a_body_that_was_here_before(phone):
    body = phone.sealed("ping", {"pending": 1})
    assert post_sealed(phone, body).status_code == 200
    answer = post_sealed(phone, body)
    assert answer.status_code == 409
    header, opened = sealing.open_sealed(phone.key, answer.content.decode())
    told = json.loads(opened)["error"]
    assert (told["code"], told["seen"], header["status"]) == ("replayed", 1, 409)


def test_requests_may_overtake_each_other_but_not_by_far(phone):
    late = [phone.sealed("ping", {}) for _ in range(70)]
    assert post_sealed(phone, late[-1]).status_code == 200
    assert [post_sealed(phone, body).status_code for body in late[8:10]] == [200, 200]
    assert [post_sealed(phone, body).status_code for body in (late[8], late[6], late[0])] == [409, 409, 409]
    assert [post_sealed(phone, body).status_code for body in late[10:69]] == [200] * 59


def test_a_device_goes_on_after_a_restored_backup(phone):
    for _ in range(5):
        assert phone.call("ping")[0] == 200
    status, answer = phone.call("ping"), None
    phone.seqs = iter([3])
    status, answer = phone.call("ping")
    assert (status, answer["error"]["code"]) == (409, "replayed")
    phone.seqs = iter([answer["error"]["seen"] + 1])
    assert phone.call("ping")[0] == 200


def test_errors_are_sealed_as_the_call_was(phone):
    body = phone.sealed("pull", {"cursor": 5})
    answer = post_sealed(phone, body, "pull")
    assert answer["Content-Type"] == sealing.CONTENT_TYPE
    assert json.loads(sealing.open_sealed(phone.key, answer.content.decode())[1])["error"]["code"] == "invalid"


# Ping, models, leave


def test_ping_tells_who_is_there_and_notes_the_device(alice, node):
    phone = TestDevice(alice)
    status, told = phone.call("ping", {"pending": 7})
    assert status == 200
    assert told["server"]["protocol"] == 1
    assert told["device"] == {"name": phone.row.name}
    assert told["server"]["id"] == phone.call("ping")[1]["server"]["id"]
    assert told["nodes"] == {"online": 1, "all": 1}
    assert told["limits"]["mutations"] >= 100
    assert phone.row.pending == 7
    assert timezone.now() - phone.row.last_heard_at < timedelta(seconds=5)


def test_a_device_that_only_pulls_was_there_too(alice):
    phone = TestDevice(alice)
    phone.pull()
    assert phone.row.last_heard_at is not None


def test_it_lists_the_models(alice, node):
    told = TestDevice(alice).call("models")[1]["models"]
    assert {"key": "otter", "name": "Otter", "is_usable": True} in told


def test_a_device_leaves(alice):
    phone = TestDevice(alice)
    assert phone.call("leave") == (200, {})
    assert phone.call("ping")[1]["error"]["code"] == "revoked"
    assert phone.row.key == ""
