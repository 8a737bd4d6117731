"""How a client takes over what its server tells: with few queries, and when the server was put back to an earlier
state, or another one is there, or this client's own store was copied."""

import uuid

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from daemonpulse.queue.client import courier
from daemonpulse.queue.client.delivery import Delivery
from daemonpulse.queue.client.line import CallFailed
from daemonpulse.queue.models import Attempt, Mirror, Mutation, Prompt, Remote
from daemonpulse.queue.states import State
from pulse.thinking import Kind

from .clients import SERVER, ServerInMemory, change, paired
from .prompts import fresh, submit

pytestmark = pytest.mark.django_db
LATER = "2026-11-21T10:00:00+00:00"


@pytest.fixture(autouse=True)
def client_role(settings):
    settings.IS_CLIENT = True


@pytest.fixture
def delivery(alice):
    return Delivery(paired(alice))


class Server(ServerInMemory):
    """That can be put back to an earlier state; then it knows cursors of its future for what they are."""

    id, url = SERVER, "http://box.local:8642"

    def restore(self, prompts: dict, log: list[str]) -> None:
        self.prompts, self.log, self.receipts = prompts, log, {}

    def pull(self, body: dict) -> dict:
        kind, _, rest = body["cursor"].partition(".")
        if kind == "e" and int(rest) > len(self.log):
            return super().pull({"cursor": ""}) | {"rewound": True}
        return super().pull(body)

    def ping(self, body: dict) -> dict:
        told = super().ping(body)
        return told | {"server": told["server"] | {"id": self.id}}


@pytest.fixture
def server(delivery):
    return Server(delivery)


def finish(delivery) -> None:
    delivery.is_behind = True
    while delivery.step():
        pass


def page_of(count: int, **fields) -> list[dict]:
    """Changes of `count` prompts, each of which continues the one before."""
    ids = [str(uuid.UUID(int=number + 1)) for number in range(count)]
    states = ("done", "failed", "queued", "cancelled")
    return [
        change(pk, states[number % 4], number % 4 != 2, answer=f"Answer {number}", **fields)
        | {"follows": ids[number - 1] if number else None}
        for number, pk in enumerate(ids)
    ]


def queries_of(changes: list[dict], removed=()) -> int:
    with CaptureQueriesContext(connection) as queries:
        Prompt.mirror_page(Remote.current(), changes, list(removed))
    return len(queries)


def test_it_takes_over_many_prompts_with_as_few_queries_as_few(alice):
    paired(alice)
    few, many = page_of(4), page_of(100)
    first = queries_of(few)
    assert first <= 20
    assert queries_of(few) <= 12, "the same again"
    assert queries_of(many) <= first + 4
    assert Prompt.objects.count() == 100
    assert Prompt.objects.filter(follows=None).count() == 1
    assert Attempt.objects.count() == 75
    edited = [one | {"priority": "high"} for one in many]
    assert queries_of(edited) <= first + 4
    assert Prompt.objects.filter(priority=10).count() == 100
    assert queries_of([], [one["id"] for one in many]) <= first + 4
    assert not Prompt.objects.exists()


def test_it_keeps_what_a_server_that_was_put_back_no_longer_has_as_history(alice, delivery, server):
    kept, lost = submit(alice, "kept"), submit(alice, "lost")
    finish(delivery)
    backup = {str(kept.pk): server.prompts[str(kept.pk)]}, [str(kept.pk)]
    for prompt in (kept, lost):
        server.tell(change(prompt.pk, "done", 1, answer="Because.", text=prompt.text))
    finish(delivery)

    server.restore(*backup)
    finish(delivery)
    assert Mirror.objects.get(prompt=lost.pk).server != SERVER
    assert fresh(lost).attempt().answer == "Because."
    assert Remote.current().problem == "restored"
    assert "may run a second time" in Remote.current().problem_text

    assert fresh(kept).state == State.QUEUED, "as the server has it"
    assert fresh(kept).attempt() is None
    (beside,) = Prompt.objects.exclude(pk__in=[kept.pk, lost.pk])
    assert (beside.text, beside.state, beside.attempt().answer) == ("kept", State.DONE, "Because.")
    finish(delivery)
    assert Prompt.objects.count() == 3
    assert [kind for kind, _ in server.applied] == ["submit", "submit"], "nothing was sent again by itself"


def test_what_waited_on_a_server_that_was_put_back_is_sent_again_when_a_person_says_so(
    alice, alice_client, delivery, server
):
    waiting, running = submit(alice, "waiting"), submit(alice, "running")
    finish(delivery)
    server.tell(change(running.pk, "sending", 1, answer="Bec", text="running"))
    finish(delivery)
    server.restore({}, [])
    finish(delivery)
    assert [fresh(prompt).state_words for prompt in (waiting, running)] == ["not accepted"] * 2
    refused = Mutation.objects.get(prompt=waiting.pk)
    assert "may have run there before" in refused.reasons[0]
    assert not Mutation.objects.filter(is_refused=False).exists()

    assert alice_client.post(f"/server/refusals/{refused.pk}/sending/").status_code == 302
    finish(delivery)
    assert fresh(waiting).state_words == "queued there"
    assert server.applied.count(("submit", str(waiting.pk))) == 2
    assert server.applied.count(("submit", str(running.pk))) == 1


def test_what_another_device_has_sent_again_is_not_asked_about_any_more(alice, delivery, server):
    prompt = submit(alice, "waiting")
    finish(delivery)
    server.restore({}, [])
    finish(delivery)
    assert fresh(prompt).refused
    server.tell(change(prompt.pk, "done", 1, answer="Because.", text="waiting"))
    finish(delivery)
    assert (fresh(prompt).state_words, fresh(prompt).refused) == ("done", [])


def test_a_second_run_does_not_replace_the_answer_of_the_first(alice, delivery, server):
    prompt = submit(alice, "Once?")
    finish(delivery)
    told = change(prompt.pk, "done", 1, answer="First.", text="Once?")
    for answer, at in (("First.", told["finished_at"]), ("Second.", LATER)):
        server.tell(told | {"answer": answer, "finished_at": at})
        finish(delivery)
    assert {one.attempt().answer for one in Prompt.objects.all()} == {"First.", "Second."}
    assert fresh(prompt).attempt().texts()[Kind.MESSAGE] == "Second."
    assert Remote.current().problem == "restored"


def test_a_notice_stands_until_somebody_has_seen_it_and_holds_nothing_up(alice, alice_client, delivery, server):
    Remote.warn(delivery.device, "restored", "It was put back.")
    delivery.note_done()
    html = alice_client.get("/settings/").content.decode()
    assert "It was put back." in html
    assert "server online" in alice_client.get("/").content.decode()
    alice_client.post("/server/dismissal/")
    assert Remote.current().problem == ""
    assert "It was put back." not in alice_client.get("/settings/").content.decode()


def test_a_server_that_forgot_this_client_does_not_take_the_history_with_it(alice, delivery, server):
    prompt = submit(alice)
    finish(delivery)
    server.tell(change(prompt.pk, "done", 1, answer="Because."))
    finish(delivery)
    courier.note_failure(delivery.device, CallFailed("unknown_token", "Unknown.", 401))
    assert "another server is there now" in Remote.current().problem_text
    again = Delivery(paired(alice))
    ServerInMemory(again)
    finish(again)
    assert fresh(prompt).attempt().answer == "Because."


def test_it_says_nothing_to_another_server_that_answers_at_the_address(alice, delivery, server):
    submit(alice)
    server.id = str(uuid.uuid4())
    with pytest.raises(CallFailed) as caught:
        delivery.ping()
    assert caught.value.code == "other_server"
    assert "was not sent to it" in caught.value.message
    assert server.applied == []


def test_a_change_that_a_copy_of_this_client_sent_first_is_not_lost(alice, alice_client, delivery, server):
    prompt = submit(alice, "Mine <b>")
    one = Mutation.objects.get()
    server.push({"mutations": [one.as_json() | {"fields": one.fields | {"text": "Theirs"}}]})
    finish(delivery)
    assert fresh(prompt).text == "Theirs"
    html = alice_client.get(f"/prompts/{prompt.pk}/").content.decode()
    assert "another version of this prompt" in html
    assert "Mine &lt;b&gt;" in html
    assert fresh(prompt).edit(text="Mine <b>")
    finish(delivery)
    assert (fresh(prompt).text, Mutation.objects.count()) == ("Mine <b>", 0)
