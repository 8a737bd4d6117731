"""What devices want changed: applied once, in order, each answered by itself."""

import json
import uuid

import pytest

from daemonpulse.models import Event
from daemonpulse.queue.models import Device, Prompt, Receipt
from daemonpulse.queue.sync import about
from daemonpulse.queue.sync.errors import SyncError
from daemonpulse.queue.sync.pushing import push

from .devices import TestDevice, mutation, submission
from .prompts import done, fresh, kinds_of, running, submit

pytestmark = pytest.mark.django_db


@pytest.fixture
def phone(alice, node):
    return TestDevice(alice)


def test_it_queues_prompts_in_their_order(phone, alice):
    drafts = [submission(f"question {n}", ("otter", "heron")[n % 2], temperature=0.5) for n in range(50)]
    results = phone.push(*drafts)
    assert [(one["id"], one["status"], one["state"]) for one in results] == [
        (draft["id"], "applied", "queued") for draft in drafts
    ]
    stored = Prompt.objects.of(alice).order_by("position")
    assert [str(prompt.pk) for prompt in stored] == [draft["prompt"] for draft in drafts]
    assert [prompt.text for prompt in stored] == [f"question {n}" for n in range(50)]
    assert stored[0].settings == {"temperature": 0.5}


def test_the_same_batch_again_adds_nothing_and_answers_the_same(phone):
    drafts = [submission(f"question {n}") for n in range(5)]
    first = phone.push(*drafts)
    events = Event.objects.filter(kind="prompt.queued").count()
    assert phone.push(*drafts) == first
    assert (Prompt.objects.count(), Event.objects.filter(kind="prompt.queued").count()) == (5, events)


def test_a_repeat_in_one_batch_counts_once(phone):
    draft = submission()
    again = draft | {"id": str(uuid.uuid4())}  # another mutation with the same prompt
    results = phone.push(draft, draft, again)
    assert [one["status"] for one in results] == ["applied"] * 3
    assert Prompt.objects.count() == 1


def test_what_is_refused_stops_nothing_behind_it(phone, alice):
    results = phone.push(
        submission("first"),
        submission("to nobody", model="unicorn"),
        submission(" "),
        submission("typed", temperature="hot"),
        submission("named", stream=True),
        mutation("cancel"),
        submission("last"),
    )
    assert [one["status"] for one in results] == ["applied", *["refused"] * 5, "applied"]
    fields = [one["error"]["fields"][0]["field"] for one in results[1:5]]
    assert fields == ["model", "text", "temperature", "stream"]
    assert results[5]["error"]["code"] == "not_found"
    assert [prompt.text for prompt in Prompt.objects.of(alice).order_by("position")] == ["first", "last"]


def test_a_refusal_is_remembered_too(phone, node):
    draft = submission("later known", model="unicorn")
    refused = phone.push(draft)
    from forge.models import Model

    Model.objects.create(node=node, key="unicorn", name="Unicorn", type="llm", loaded=[])
    assert phone.push(draft) == refused
    assert phone.push(draft | {"id": str(uuid.uuid4())})[0]["status"] == "applied"


def test_an_old_repeat_does_not_undo_what_came_after(phone, alice):
    prompt = submit(alice)
    cancel, retry = mutation("cancel", prompt.pk), mutation("retry", prompt.pk)
    phone.push(cancel)
    phone.push(cancel, retry)
    assert fresh(prompt).state == "queued"
    phone.push(cancel)  # late, from the network
    assert fresh(prompt).state == "queued"


def test_nobody_changes_another_persons_prompt(phone, bob):
    prompt = submit(bob, "mine")
    kinds = ("cancel", "retry", "edit")
    results = phone.push(*[mutation(kind, prompt.pk) for kind in kinds], mutation("delete", prompt.pk))
    assert [one.get("error", {}).get("code") for one in results] == ["not_found"] * 3 + [None]
    taken = submission("stolen") | {"prompt": str(prompt.pk)}
    assert phone.push(taken)[0]["error"]["code"] == "taken"
    assert (fresh(prompt).state, fresh(prompt).text) == ("queued", "mine")


# The table of docs/sync.md: kind x state


def cancelled(alice, node):
    prompt = submit(alice)
    prompt.cancel()
    return prompt


STATES = {
    "queued": lambda alice, node: submit(alice),
    "sending": lambda alice, node: running(alice, node)[0],
    "done": lambda alice, node: done(alice, node),
    "cancelled": cancelled,
}
TABLE = [
    ("edit", "queued", "applied", "queued"),
    ("edit", "sending", "not_queued", "sending"),
    ("edit", "done", "not_queued", "done"),
    ("edit", "cancelled", "not_queued", "cancelled"),
    ("cancel", "queued", "applied", "cancelled"),
    ("cancel", "sending", "applied", "cancelled"),
    ("cancel", "done", "applied", "done"),
    ("cancel", "cancelled", "applied", "cancelled"),
    ("retry", "queued", "applied", "queued"),
    ("retry", "sending", "applied", "sending"),
    ("retry", "done", "not_possible", "done"),
    ("retry", "cancelled", "applied", "queued"),
    ("delete", "queued", "applied", None),
    ("delete", "sending", "applied", None),
    ("delete", "done", "applied", None),
    ("delete", "cancelled", "applied", None),
]


@pytest.mark.parametrize(("kind", "state", "outcome", "after"), TABLE)
def test_each_change_in_each_state(phone, alice, node, kind, state, outcome, after):
    prompt = STATES[state](alice, node)
    fields = {"fields": {"text": "changed"}} if kind == "edit" else {}
    (result,) = phone.push(mutation(kind, prompt.pk) | fields)
    assert result["status"] == ("applied" if outcome == "applied" else "refused")
    assert result.get("error", {}).get("code") == (None if outcome == "applied" else outcome)
    assert result.get("state") == after
    stored = Prompt.objects.filter(pk=prompt.pk).first()
    assert (stored and stored.state) == after
    if kind == "edit" and outcome == "applied":
        assert stored.text == "changed"


def test_an_edit_keeps_what_it_does_not_name(phone, alice):
    draft = submission("old", temperature=0.3, priority="high", system_prompt="be brief")
    phone.push(draft)
    phone.push(mutation("edit", draft["prompt"], text="new", model="heron"))
    prompt = Prompt.objects.get(pk=draft["prompt"])
    assert (prompt.text, prompt.model, prompt.settings) == ("new", "heron", {"temperature": 0.3})
    assert (prompt.priority, prompt.system_prompt) == (10, "be brief")
    assert kinds_of(prompt)[-1] == "prompt.edited"


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ("no object", "mutations[1]"),
        ({"kind": "submit", "prompt": str(uuid.uuid4())}, "mutations[1].id"),
        ({"id": "1", "kind": "cancel", "prompt": str(uuid.uuid4())}, "mutations[1].id"),
        (mutation("explode"), "mutations[1].kind"),
        (mutation("cancel") | {"prompt": "x"}, "mutations[1].prompt"),
        (mutation("cancel", text="no fields"), "mutations[1].fields"),
        (mutation("cancel") | {"fields": []}, "mutations[1].fields"),
        (mutation("cancel") | {"when": 5}, "mutations[1].when"),
    ],
)
def test_a_list_that_is_wrong_does_nothing(phone, item, field):
    status, answer = phone.call("push", {"mutations": [submission(), item]})
    assert (status, answer["error"]["fields"][0]["field"]) == (422, field)
    assert not Prompt.objects.exists() and not Receipt.objects.exists()


def test_it_takes_no_more_at_once_than_it_says(phone):
    most = phone.call("ping")[1]["limits"]["mutations"]
    assert most == about.MUTATIONS >= 50
    status, answer = phone.call("push", {"mutations": [mutation("delete") for _ in range(most + 1)]})
    assert (status, answer["error"]["fields"][0]["rule"]) == (422, "too_many")


def test_receipts_go_after_ninety_days(phone):
    phone.push(submission())
    Receipt.forget_old()
    assert Receipt.objects.count() == 1
    Receipt.objects.update(at="2020-01-01T00:00:00Z")
    Receipt.forget_old()
    assert not Receipt.objects.exists()


def test_devices_go_with_their_owner(phone, alice):
    alice.delete()
    assert not Device.objects.exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "\ud800", "text": "x"},
        {"model": "a\0", "text": "x"},
        {"model": "otter", "text": "x", "priority": "\ud800"},
        {"model": "otter", "text": "x", "\ud800": 1},
        {"model": "otter", "text": "x", "temperature": 10**400},
        {"model": "otter", "text": "x", "top_k": 10**400},
        {"model": "otter", "text": "x"} | {f"field {n}": n for n in range(20_000)},
    ],
)
def test_nothing_that_one_mutation_says_blocks_the_rest(phone, fields):
    bad, good = mutation("submit", **{}) | {"fields": fields}, submission("good")
    status, answer = phone.call("push", {"mutations": [bad, good]})
    assert (status, [one["status"] for one in answer["results"]]) == (200, ["refused", "applied"])
    assert len(json.dumps(answer)) < 20_000
    assert phone.call("push", {"mutations": [bad, good]})[1]["results"] == answer["results"]


def test_a_repeat_after_pairing_anew_has_no_effect(phone, alice):
    draft = submission()
    phone.push(draft)
    Prompt.objects.get().remove()
    again = TestDevice(alice)
    assert again.push(draft)[0]["status"] == "applied"
    assert not Prompt.objects.exists()


def test_ids_come_back_as_they_were_sent(phone):
    draft = submission()
    status, answer = phone.call("push", {"mutations": [draft | {"id": draft["id"].upper()}]})
    assert (status, answer["error"]["fields"][0]["field"]) == (422, "mutations[0].id")


def test_what_a_device_wanted_before_it_was_shut_out_is_not_done(phone):
    row = phone.row
    row.revoke()
    with pytest.raises(SyncError, match="revoked"):
        push(row, {"mutations": [submission()]})
    assert not Prompt.objects.exists()
