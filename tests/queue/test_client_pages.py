"""What a person at a client sees: where each prompt waits, how the server is, and what it did not accept."""

import asyncio
from datetime import timedelta
from unittest.mock import patch

import pytest
from django.utils import timezone

from daemonpulse.queue.client import pairing
from daemonpulse.queue.client.pairing import CannotPair
from daemonpulse.queue.models import Mutation, Prompt, Remote, RemoteModel, Runner
from tests.sockets import browser, own_tail

from .clients import change, paired
from .prompts import fresh, submit

pytestmark = pytest.mark.django_db
PAIRING = {"server": "http://box:8642", "code": "K7QM-2XPA", "name": "laptop", "fingerprint": ""}


@pytest.fixture(autouse=True)
def client_role(settings):
    settings.IS_CLIENT = True
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "daemonpulse.queue.client.middleware.only_what_is_here"]


def page(client, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status
    return answer.content.decode()


def header(client) -> str:
    return page(client, "/").partition('id="server-state"')[2].partition("</div>")[0]


def note(**fields) -> None:
    Remote.objects.update(**fields)


def test_every_page_says_how_the_server_is_and_when_both_last_agreed(alice_client, alice):
    assert "Not paired yet" in header(alice_client)
    paired(alice)
    assert "server online" in header(alice_client)
    assert "never synced" in header(alice_client)
    note(last_sync_at=timezone.now(), gone_since=timezone.now())
    submit(alice)
    assert "server gone" in header(alice_client)
    assert "1 waits here" in header(alice_client)
    assert "synced" in header(alice_client)
    note(gone_since=None, last_contact_at=timezone.now() - timedelta(minutes=1))
    assert "server unknown" in header(alice_client)
    note(problem="revoked", problem_text="The device was shut out.")
    assert "Pair it again" in header(alice_client)
    note(problem="certificate", problem_text="The certificate is another one.")
    assert "The certificate is another one." in header(alice_client)


def test_a_server_says_nothing_of_a_server(alice_client, alice, settings):
    settings.IS_CLIENT = False
    assert "server-state" not in page(alice_client, "/")
    assert alice_client.get("/server/pairing/").status_code == 404


@pytest.mark.parametrize("path", ["/nodes/", "/nodes/add/", "/models/", "/devices/", "/m/"])
def test_it_has_no_fleet_and_no_models_and_says_where_they_are(alice_client, alice, path):
    paired(alice, url="https://box.local:8643")
    html = page(alice_client, path, 404)
    assert "on its server, at https://box.local:8643" in html
    assert ">Fleet<" not in html


def test_it_is_nobodys_server_and_tells_strangers_of_none(client, alice):
    paired(alice, url="http://box.local:8642")
    for path in ("/m/", "/ca/"):
        assert "box.local" not in page(client, path, 404)
    answer = client.post("/api/sync/v1/pair", {"code": "K7QM2XPA"}, content_type="application/json")
    assert answer.status_code == 404
    assert client.get("/nodes/").status_code == 302  # to the sign-in


def test_the_board_and_the_history_say_where_a_prompt_waits(alice_client, alice):
    remote = paired(alice)
    submit(alice, "Unsent")
    sent = submit(alice, "Sent")
    Mutation.objects.filter(prompt=sent.pk).delete()
    Prompt.mirror_page(remote, [change(sent.pk, text="Sent")], [])
    fresh(sent).cancel()
    for path in ("/", "/prompts/"):
        html = page(alice_client, path)
        assert html.count("queued here") == 1
        assert html.count("queued there") == 1
        assert "cancel on its way" in html
    assert "No node has this model" not in page(alice_client, "/")


def test_lists_ask_the_database_as_often_for_many_as_for_few(alice_client, alice, django_assert_max_num_queries):
    remote = paired(alice)
    for number in range(12):
        prompt = submit(alice, str(number))
        if number % 2:
            Prompt.mirror_page(remote, [change(prompt.pk)], [])
    with django_assert_max_num_queries(22):
        page(alice_client, "/prompts/")
    with django_assert_max_num_queries(28):
        page(alice_client, "/")


def test_a_prompts_page_says_what_is_on_its_way(alice_client, alice):
    remote = paired(alice)
    prompt = submit(alice)
    path = f"/prompts/{prompt.pk}/"
    assert "as soon as the server can be reached" in page(alice_client, path)
    Mutation.objects.update(is_tried=True)
    assert "no answer came" in page(alice_client, path)
    note(problem="revoked")
    assert "counts once" in page(alice_client, path)
    assert "once this computer is paired again" in page(alice_client, path)
    note(problem="")
    Mutation.objects.all().delete()
    Prompt.mirror_page(remote, [change(prompt.pk)], [])
    assert "It waits on the server" in page(alice_client, path)
    alice_client.post(f"{path}cancellation/")
    assert "On its way to the server: cancel." in page(alice_client, path)
    paired(alice, "another")
    assert "from an earlier server" in page(alice_client, path)


def test_a_prompt_that_no_server_has_is_shown_as_it_was_edited_and_cancelled_here_at_once(alice_client, alice):
    paired(alice)
    RemoteModel.replace([{"key": "otter", "name": "Otter", "is_usable": True}])
    note(gone_since=timezone.now())
    form = {"model": "otter", "text": "The new text", "priority": "normal"}
    unsent, tried = submit(alice, "The old text"), submit(alice, "The old text")
    Mutation.objects.filter(prompt=tried.pk).update(is_tried=True)
    for prompt in (unsent, tried):
        alice_client.post(f"/prompts/{prompt.pk}/edit/", form)
        html = page(alice_client, f"/prompts/{prompt.pk}/")
        assert "The new text" in html
        assert "The old text" not in html
        assert ("On its way to the server: change." in html) is (prompt is tried)
        assert "as the server has it" not in html
        html = alice_client.post(f"/prompts/{prompt.pk}/cancellation/", follow=True).content.decode()
        assert ("It was cancelled before it ran" in html) is (prompt is unsent)
        assert ("On its way to the server: change, cancel." in html) is (prompt is tried)
        assert ("cancel on its way" in html) is (prompt is tried)
        assert 'id="edit"' not in html
        assert 'id="cancel"' not in html
    board = page(alice_client, "/")
    assert "cancel on its way" in board
    assert f'id="cancel-prompt-{tried.pk}"' not in board


def test_a_change_of_what_the_server_has_shows_both_texts(alice_client, alice):
    remote = paired(alice)
    prompt = submit(alice, "The old text")
    Mutation.objects.all().delete()
    Prompt.mirror_page(remote, [change(prompt.pk, text="The old text")], [])
    fresh(prompt).edit(text="The new text")
    html = page(alice_client, f"/prompts/{prompt.pk}/")
    assert "you see it as the server has it" in html
    assert "The new text" in html


def test_it_promises_no_answer_where_nothing_executes(alice_client, alice):
    remote = paired(alice)
    prompt = submit(alice)
    Mutation.objects.all().delete()
    Prompt.mirror_page(remote, [change(prompt.pk)], [])
    assert "You can switch this computer off" in page(alice_client, f"/prompts/{prompt.pk}/")
    note(is_working=False)
    html = page(alice_client, f"/prompts/{prompt.pk}/")
    assert "You can switch this computer off" not in html
    assert "Nothing executes prompts there" in html
    assert "nothing executes there" in header(alice_client)
    assert "not at the moment" in page(alice_client, "/settings/")


def test_it_offers_no_token_for_what_only_a_server_can(alice_client, alice, settings):
    assert "download models" not in page(alice_client, "/settings/")
    form = {"name": "script", "scopes": ["read", "operate"]}
    assert alice_client.post("/settings/tokens/", form).status_code == 422
    settings.IS_CLIENT = False
    assert "download models" in page(alice_client, "/settings/")


def test_pairing_again_proposes_the_name_that_the_server_has(alice_client, alice):
    paired(alice)
    note(device_name="Laptop upstairs")
    assert 'value="Laptop upstairs"' in page(alice_client, "/server/pairing/")


def test_a_refusal_is_shown_with_the_servers_words_until_it_is_changed_or_discarded(alice_client, alice):
    paired(alice)
    RemoteModel.replace([{"key": "otter", "name": "Otter", "is_usable": True}])
    prompt = submit(alice, model="kraken")
    refused = Mutation.objects.get()
    refused.refuse({"code": "invalid", "message": "Wrong.", "fields": [{"field": "model", "message": "Not <there>."}]})
    path = f"/prompts/{prompt.pk}/"
    for shown in (path, "/settings/"):
        assert "model: Not &lt;there&gt;." in page(alice_client, shown)
    assert "not accepted" in header(alice_client)
    form = {"model": "otter", "text": "Why?", "priority": "normal"}
    assert alice_client.post(f"{path}edit/", form).status_code == 302
    assert [(one.is_refused, one.fields["model"]) for one in Mutation.objects.all()] == [(False, "otter")]

    Mutation.objects.get().refuse({"code": "invalid", "message": "Again."})
    discarding = f"/server/refusals/{Mutation.objects.get().pk}/discarding/"
    assert alice_client.get(discarding).status_code == 405
    assert alice_client.post(discarding).status_code == 302
    assert not Prompt.objects.exists()


def test_it_shows_another_persons_refusal_to_nobody_else(client, bob, alice):
    submit(alice)
    Mutation.objects.get().refuse({"code": "invalid", "message": "No."})
    client.force_login(bob)
    for verb in ("discarding", "sending"):
        assert client.post(f"/server/refusals/{Mutation.objects.get().pk}/{verb}/").status_code == 404
    assert Prompt.objects.of(alice).count() == 1
    assert Mutation.objects.refused().count() == 1


def test_composing_offers_the_servers_models_and_no_nodes(alice_client, alice):
    paired(alice)
    assert "has not named its models yet" in page(alice_client, "/prompts/new/")
    RemoteModel.replace([{"key": "otter", "name": "Otter", "is_usable": False}])
    html = page(alice_client, "/prompts/new/")
    assert "Otter (otter): its node is offline" in html
    assert "Run on" not in html
    alice_client.post("/prompts/new/", {"model": "otter", "text": "Hi", "priority": "normal"})
    assert Mutation.objects.get().fields["text"] == "Hi"


def test_it_pairs_from_the_settings_or_says_why_not(alice_client, alice):
    with patch.object(pairing, "pair", side_effect=CannotPair("This code is wrong.")):
        answer = alice_client.post("/server/pairing/", PAIRING)
    assert (answer.status_code, "This code is wrong." in answer.content.decode()) == (422, True)
    with patch.object(pairing, "pair", side_effect=lambda owner, *rest, **more: paired(owner)):
        assert alice_client.post("/server/pairing/", PAIRING).status_code == 302
    html = page(alice_client, "/settings/")
    assert "laptop" in html
    assert "others can see that you talk, not what" in html


def test_it_asks_the_courier_to_look_and_to_leave(alice_client, alice):
    from daemonpulse.models import Event

    paired(alice)
    alice_client.post("/server/sync/")
    assert Event.objects.filter(kind="remote.called").count() == 1
    alice_client.post("/server/leaving/")
    assert Remote.current().is_leaving
    Remote.forget(Remote.current().device, "This client has left the server.")
    assert "This client has left the server." in page(alice_client, "/settings/")


def test_a_server_without_a_worker_says_so(alice_client, alice, settings, node):
    settings.IS_CLIENT = False
    prompt = submit(alice)
    assert "Nothing executes prompts" in page(alice_client, "/")
    assert "Nothing executes prompts" in page(alice_client, f"/prompts/{prompt.pk}/")
    Runner.note_watch()
    assert "Nothing executes prompts" not in page(alice_client, "/")
    assert "Nothing executes prompts" not in page(alice_client, f"/prompts/{prompt.pk}/")


@pytest.mark.django_db(transaction=True)
def test_what_a_waiting_prompt_promises_is_live(alice):
    remote = paired(alice)
    prompt = submit(alice)
    Mutation.objects.all().delete()
    Prompt.mirror_page(remote, [change(prompt.pk)], [])

    async def looks():
        async with browser(f"/ws/prompts/{prompt.pk}/", alice) as socket:
            assert "You can switch this computer off" in await socket.hears()
            await asyncio.to_thread(stopped)
            assert "It waits on the server" in await socket.hears_until("Nothing executes prompts there")

    def stopped():
        from django.db import connection

        Remote.note(Remote.current().device, is_working=False)
        connection.close()

    with own_tail():
        asyncio.run(looks())


@pytest.mark.django_db(transaction=True)
def test_the_line_about_the_server_is_live(alice):
    paired(alice)

    async def looks():
        async with browser("/ws/server/", alice) as socket:
            assert "server online" in await socket.hears()
            await asyncio.to_thread(gone)
            assert "server gone" in await socket.hears_until("server gone")

    def gone():
        from django.db import connection

        Remote.note(Remote.current().device, gone_since=timezone.now())
        connection.close()

    with own_tail():
        asyncio.run(looks())
