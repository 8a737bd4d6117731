"""Deleting prompts: from their page, from the history and by the API; and what open pages then say."""

import asyncio
import html
import re
import uuid

import pytest
from django.urls import reverse

from daemonpulse.consumers import in_thread
from daemonpulse.models import ApiToken, Event
from daemonpulse.models.access import Scope
from daemonpulse.queue.models import Attempt, Prompt
from daemonpulse.queue.pages import prompt_context
from tests.sockets import browser, own_tail

from .prompts import cancelled, done, failed, fresh, running, submit

pytestmark = pytest.mark.django_db


def words(response) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", response.content.decode())).split())


def removal(prompt) -> str:
    return reverse("prompt_removal", args=[prompt.pk])


def test_it_deletes_what_has_ended(alice_client, alice, node):
    for prompt in (done(alice, node), failed(alice, node), cancelled(alice)):
        page = alice_client.post(removal(prompt), follow=True)

        assert "The prompt and its answer are deleted." in words(page)
        assert not Prompt.objects.filter(pk=prompt.pk).exists()
        assert Event.objects.get(kind="prompt.removed", subject=str(prompt.pk)).owner == alice
    assert not Attempt.objects.exists()


def test_it_goes_back_to_the_history_as_it_was(alice_client, alice, node):
    prompt = done(alice, node)
    page = alice_client.get(reverse("prompt_list"), {"q": "sky", "state": "done"}).content.decode()
    action = html.unescape(re.search(rf'action="({removal(prompt)}[^"]*)"', page).group(1))

    assert alice_client.post(action).url == f"{reverse('prompt_list')}?q=sky&state=done"


def test_it_asks_first_and_offers_it_for_ended_prompts_only(alice_client, alice, node):
    ended, waiting = done(alice, node), submit(alice)

    history = alice_client.get(reverse("prompt_list"), {"state": ""}).content.decode()
    assert f'action="{removal(ended)}?state="' in history
    assert removal(waiting) not in history
    for prompt, is_offered in ((ended, True), (waiting, False)):
        page = alice_client.get(reverse("prompt", args=[prompt.pk])).content.decode()
        assert (f'action="{removal(prompt)}" method="post" data-confirm=' in page) is is_offered


def test_it_deletes_nothing_that_waits_or_runs(alice_client, alice, node):
    for prompt in (submit(alice, model="heron"), running(alice, node)[0]):
        page = alice_client.post(removal(prompt), follow=True)

        assert "Cancel it first." in words(page)
        assert fresh(prompt).state in {"queued", "sending"}


def test_bobs_prompt_is_unknown_to_alice(alice_client, bob, node):
    prompt = done(bob, node)

    assert alice_client.post(removal(prompt)).status_code == 404
    assert fresh(prompt)


# The API


def call(client, user, pk, scopes=(Scope.WRITE,)):
    secret = ApiToken.issue(user, "script", list(scopes))[1]
    return client.delete(f"/api/v1/prompts/{pk}", headers={"Authorization": f"Bearer {secret}"})


def test_the_api_deletes_whatever_state_it_is_in(client, alice, node):
    going, attempt = running(alice, node)

    for prompt in (going, done(alice, node, model="heron"), submit(alice)):
        answer = call(client, alice, prompt.pk)
        assert (answer.status_code, answer.content) == (204, b"")
        assert call(client, alice, prompt.pk).status_code == 404
    assert not attempt.prompt.finish(attempt)  # the worker's word comes too late
    assert not Prompt.objects.exists()


def test_the_api_deletes_nothing_for_others_or_with_a_token_that_only_reads(client, alice, bob, node):
    prompt = done(bob, node)

    assert call(client, alice, prompt.pk).status_code == 404
    assert call(client, alice, uuid.uuid4()).status_code == 404
    assert call(client, bob, prompt.pk, [Scope.READ]).status_code == 403
    assert fresh(prompt)


# Open pages


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("state", ["done", "running"])
def test_an_open_page_says_so_and_its_socket_closes(alice, node, state):
    prompt = done(alice, node) if state == "done" else running(alice, node)[0]
    path = f"/ws/prompts/{prompt.pk}/?seen={prompt_context(fresh(prompt))['seen']}"

    async def scene():
        async with browser(path, alice) as page:
            assert await page.hears_nothing()
            await in_thread(prompt.remove)()
            assert 'id="live-prompt"' in await page.hears_until("This prompt was deleted")
            closing = await page.socket.receive_output(timeout=10)
            assert (closing["type"], closing["code"]) == ("websocket.close", 4404)

    with own_tail():
        asyncio.run(scene())
