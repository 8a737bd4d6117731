"""A client's verbs: what the server never heard of is changed here, everything else is on its way."""

import json

import pytest

from daemonpulse.queue import outbox
from daemonpulse.queue.models import Mirror, Mutation, Prompt, Remote, RemoteModel
from daemonpulse.queue.states import State

from .clients import SERVER, change, paired
from .prompts import fresh, kinds_of, submit

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def client_role(settings):
    settings.IS_CLIENT = True


def kinds() -> list[str]:
    return list(Mutation.objects.values_list("kind", flat=True))


def tried() -> None:
    Mutation.objects.update(is_tried=True)


def there(prompt: Prompt, state=State.QUEUED, attempts: int = 0) -> Prompt:
    """As the server has told of it."""
    Mutation.objects.filter(prompt=prompt.pk).delete()
    remote = Remote.current() or paired(prompt.owner)
    Prompt.mirror_page(remote, [change(prompt.pk, state, attempts, text=prompt.text)], [])
    return fresh(prompt)


def test_it_puts_a_new_prompt_into_the_outbox_with_the_fields_of_the_api(alice):
    prompt = submit(alice, "Why?", priority=10, system_prompt="Be brief.", settings={"temperature": 0.5})
    (one,) = Mutation.objects.all()
    assert one.as_json() == {
        "id": str(one.uuid), "kind": "submit", "prompt": str(prompt.pk),
        "fields": {"model": "otter", "text": "Why?", "priority": "high", "system_prompt": "Be brief.",
                   "temperature": 0.5},
    }  # fmt: skip
    assert prompt.state_words == "queued here"


def test_it_puts_many_into_the_outbox_in_their_order(alice):
    Prompt.submit_many(owner=alice, drafts=[{"model": "otter", "text": str(n)} for n in range(5)])
    assert [one.fields["text"] for one in Mutation.objects.all()] == list("01234")


def test_a_server_has_no_outbox(alice, settings):
    settings.IS_CLIENT = False
    prompt = submit(alice)
    assert prompt.cancel()
    assert not Mutation.objects.exists()
    assert prompt.state_words == "cancelled"


def test_it_changes_an_unsent_prompt_here_and_in_its_submit(alice):
    prompt = submit(alice, "Old")
    submit(alice, "Another")
    assert prompt.edit(model="otter", text="New", system_prompt="", priority=0, settings={"top_k": 4})
    assert fresh(prompt).text == "New"
    assert [one.fields["text"] for one in Mutation.objects.all()] == ["New", "Another"]
    assert Mutation.objects.first().fields["top_k"] == 4


def test_it_cancels_an_unsent_prompt_here_and_queues_it_again_at_the_end(alice):
    prompt = submit(alice)
    first = Mutation.objects.get().uuid
    assert prompt.cancel()
    assert (fresh(prompt).state, kinds()) == (State.CANCELLED, [])
    submit(alice, "Another")
    assert prompt.retry()
    assert [one.prompt_id for one in Mutation.objects.all()][-1] == prompt.pk
    assert not Mutation.objects.filter(uuid=first).exists()


def test_it_deletes_an_unsent_prompt_without_a_trace(alice):
    prompt = submit(alice)
    prompt.remove()
    assert not Prompt.objects.exists()
    assert kinds() == []


@pytest.mark.parametrize("verb", ["cancel", "edit", "remove"])
def test_it_never_alters_what_was_in_a_push(alice, verb):
    prompt = submit(alice, "As it was sent")
    tried()
    sent = Mutation.objects.get().as_json()
    fields = {"text": "Other"} if verb == "edit" else {}
    assert getattr(prompt, verb)(**fields)
    assert Mutation.objects.first().as_json() == sent
    assert kinds() == ["submit", {"remove": "delete"}.get(verb, verb)]


def test_it_shows_the_new_text_of_what_may_have_been_sent_and_says_that_the_change_is_on_its_way(alice):
    prompt = submit(alice, "Old")
    tried()
    assert prompt.edit(model="heron", text="New", system_prompt="", priority=10, settings={"top_k": 4})
    prompt = fresh(prompt)
    assert (prompt.text, prompt.model, prompt.settings) == ("New", "heron", {"top_k": 4})
    assert (prompt.shows_the_change, prompt.change_words) == (True, "change on its way")
    prompt = there(submit(alice, "Old"))
    prompt.edit(text="New")
    assert not fresh(prompt).shows_the_change


def test_what_is_to_be_cancelled_is_not_changed_any_more(alice):
    prompt = submit(alice, "Old")
    tried()
    assert prompt.cancel()
    assert fresh(prompt).change_words == "cancel on its way"
    assert not prompt.edit(text="New")
    assert kinds() == ["submit", "cancel"]


@pytest.mark.parametrize("verb", ["cancel", "edit", "remove"])
def test_what_was_not_sent_after_all_is_changed_here_with_what_was_asked_meanwhile(alice, verb):
    prompt = submit(alice, "Old")
    submit(alice, "Another")
    (one, other) = Mutation.objects.all()
    pk = prompt.pk
    tried()
    assert getattr(prompt, verb)(**({"text": "New"} if verb == "edit" else {}))
    outbox.take_back([one, other])
    states = dict(Prompt.objects.values_list("pk", "state"))
    left = [(each.kind, each.fields["text"], each.is_tried) for each in Mutation.objects.all()]
    expected = {"cancel": [], "edit": [("submit", "New", False)], "remove": []}[verb]
    assert left == [*expected, ("submit", "Another", False)]
    assert states.get(pk) == {"cancel": "cancelled", "edit": "queued", "remove": None}[verb]


def test_it_leaves_what_the_server_has_as_it_is_until_the_server_tells(alice):
    prompt = there(submit(alice, "Old"))
    assert prompt.edit(model="otter", text="New", system_prompt="", priority=0, settings={"top_k": 4})
    assert prompt.cancel()
    assert (fresh(prompt).text, fresh(prompt).state) == ("Old", State.QUEUED)
    assert kinds() == ["edit", "cancel"]
    assert Mutation.objects.first().fields["temperature"] is None  # an edit there keeps what is not named
    assert fresh(prompt).wanted["text"] == "New"
    assert fresh(prompt).is_changing
    assert "prompt.carried" in kinds_of(prompt)


def test_it_merges_changes_that_were_not_sent_yet(alice):
    prompt = there(submit(alice, "Old"))
    assert prompt.edit(text="One")
    assert prompt.edit(text="Two")
    assert [one.fields["text"] for one in Mutation.objects.all()] == ["Two"]
    tried()
    assert prompt.edit(text="Three")
    assert [one.fields["text"] for one in Mutation.objects.all()] == ["Two", "Three"]
    assert prompt.cancel()
    assert prompt.cancel()
    assert kinds() == ["edit", "edit", "cancel"]


def test_it_deletes_here_at_once_and_sends_nothing_else_about_it(alice):
    prompt = there(submit(alice))
    prompt.cancel()
    pk = prompt.pk
    prompt.remove()
    assert not Prompt.objects.filter(pk=pk).exists()
    assert kinds() == ["delete"]
    Prompt.mirror_page(Remote.current(), [change(pk, "cancelled")], [])  # told before our deletion came there
    assert not Prompt.objects.filter(pk=pk).exists()


@pytest.mark.parametrize(
    ("state", "verb", "is_possible"),
    [("done", "cancel", False), ("done", "retry", False), ("failed", "retry", True), ("sending", "cancel", True)],
)
def test_it_does_not_send_what_could_do_nothing(alice, state, verb, is_possible):
    prompt = there(submit(alice), state, attempts=1)
    assert getattr(prompt, verb)() is is_possible
    assert bool(kinds()) is is_possible


def test_it_asks_nothing_of_a_server_that_does_not_have_the_prompt(alice):
    prompt = there(submit(alice))
    paired(alice, "another", "other")
    assert not prompt.cancel()
    prompt.remove()
    assert list(Mutation.objects.to_send("another")) == []
    assert list(Mutation.objects.to_send(SERVER)) == list(Mutation.objects.all())


def test_it_keeps_what_waits_when_it_is_paired_with_another_server(alice):
    paired(alice)
    submit(alice, "One")
    paired(alice, "another", "other")
    assert [one.fields["text"] for one in Mutation.objects.to_send("another")] == ["One"]


def refuse(prompt: Prompt, code: str = "invalid") -> Mutation:
    tried()
    one = Mutation.objects.get(prompt=prompt.pk)
    one.refuse({"code": code, "message": "No.", "fields": [{"field": "model", "rule": "x", "message": "Unknown."}]})
    return one


def test_it_sends_a_changed_refusal_as_a_new_mutation(alice):
    paired(alice)
    prompt = submit(alice, "Old")
    old = refuse(prompt)
    assert fresh(prompt).state_words == "not accepted"
    assert list(Mutation.objects.to_send(SERVER)) == []
    assert prompt.edit(text="New", model="otter")
    (new,) = Mutation.objects.to_send(SERVER)
    assert new.uuid != old.uuid
    assert new.fields["text"] == "New"


def test_it_discards_a_refused_prompt_but_only_the_change_of_one_that_is_there(alice):
    prompt = submit(alice)
    outbox.discard(refuse(prompt), prompt)
    assert not Prompt.objects.exists()
    prompt = there(submit(alice))
    prompt.edit(text="New")
    outbox.discard(refuse(prompt), prompt)
    assert Prompt.objects.count() == 1
    assert kinds() == []


def test_its_texts_cannot_be_read_in_the_database(alice):
    from django.db import connection

    submit(alice, "Zebrastreifen")
    with connection.cursor() as cursor:
        cursor.execute("SELECT fields_json, refusal_json FROM queue_mutation")
        assert not any(b"Zebra" in bytes(value) for row in cursor.fetchall() for value in row)


def test_it_knows_the_servers_models_only(alice):
    from daemonpulse.queue.forms import PromptForm

    RemoteModel.replace([{"key": "otter", "name": "Otter", "is_usable": True}])
    assert PromptForm({"model": "otter", "text": "Hi"}, owner=alice).is_valid()
    form = PromptForm({"model": "heron", "text": "Hi"}, owner=alice)
    assert form.errors["model"] == ["The server has no model “heron”. Known: otter."]
    assert json.dumps(RemoteModel.keys()) == '["otter"]'
    assert not Mirror.objects.exists()
