"""Live pages: who may listen, and that what they are sent brings the page up to date."""

import asyncio
import re
import uuid

import pytest
from channels.layers import get_channel_layer

from daemonpulse.consumers import in_thread
from daemonpulse.queue.pages import prompt_context
from forge.models import Model
from tests.sockets import SECONDS, Browser, browser, own_tail, signed_in

from .prompts import claim, done, fresh, running, stream, submit

pytestmark = pytest.mark.django_db(transaction=True)
PATHS = ["/ws/board/", "/ws/compose/", "/ws/prompts/{pk}/"]


def play(scene) -> None:
    with own_tail():
        asyncio.run(scene())


def page_of(prompt) -> str:
    """The address of the socket that the prompt's page opens."""
    return f"/ws/prompts/{prompt.pk}/?seen={prompt_context(fresh(prompt))['seen']}"


async def write(attempt, *pieces) -> None:
    await in_thread(stream)(attempt, *pieces)


# Who may listen


@pytest.mark.parametrize("path", PATHS)
def test_it_refuses_charlie(alice, path):
    path = path.format(pk=submit(alice).pk)

    async def scene():
        assert await Browser(path).refused() == (4401, "")
        page = Browser(path, "daemonpulse_session=nonsense")
        assert await page.refused() == (4401, "")
        await page.socket.send_to("anew")
        assert await page.hears_nothing()
        await page.socket.disconnect(timeout=SECONDS)

    play(scene)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:9999", "null", "https://127.0.0.1"])
def test_it_refuses_a_foreign_origin(alice, path, origin):
    path, cookie = path.format(pk=submit(alice).pk), signed_in(alice)

    async def scene():
        assert not await Browser(path, cookie, origin).open()

    play(scene)


def test_it_refuses_another_users_prompt(alice, bob):
    theirs, cookie = submit(bob), signed_in(alice)

    async def scene():
        for pk in (theirs.pk, uuid.uuid4()):
            code, heard = await Browser(f"/ws/prompts/{pk}/", cookie).refused()
            assert code == 4404
            assert "This prompt was deleted" in heard  # as it may have been since its page was made

    play(scene)


# One prompt


def test_it_leaves_a_page_alone_that_is_up_to_date(alice, node):
    path = page_of(done(alice, node))

    async def scene():
        async with browser(path, alice) as page:
            assert await page.hears_nothing()

    play(scene)


def test_it_brings_a_page_up_to_date_that_is_behind(alice, node):
    prompt, attempt = running(alice, node)
    path = page_of(prompt)
    stream(attempt, ("message", "Blue light"))

    async def scene():
        async with browser(path, alice) as page:
            html = await page.hears()
            assert html.startswith(f'<article class="stack" id="prompt-{prompt.pk}"')
            assert "Blue light" in html

    play(scene)


@pytest.mark.parametrize("path", ["/ws/board/", "/ws/prompts/{pk}/"])
def test_it_shows_all_again_to_a_page_that_put_in_a_late_answer(alice, node, path):
    prompt = done(alice, node)
    path = page_of(prompt) if "pk" in path else path

    async def scene():
        async with browser(path, alice) as page:
            if "board" in path:
                await page.hears()
            await page.socket.send_to("nonsense")
            assert await page.hears_nothing()
            await page.socket.send_to("anew")
            assert "otter" in (await page.hears()).lower()

    play(scene)


def test_it_sends_the_pieces_in_order_and_only_the_pieces(alice, node):
    prompt, attempt = running(alice, node)
    stream(attempt, ("message", "Blue"))
    path = page_of(prompt)

    async def scene():
        async with browser(path, alice) as page:
            await page.socket.send_to("anew")
            assert "Blue" in await page.hears()  # from here on it listens
            heard = ""
            for text in (" light", " <scatters>", " most."):
                await write(attempt, ("message", text))
                html = await page.hears()
                assert html.startswith(f'<div hx-swap-oob="beforeend:#answer-{attempt.pk}">')
                heard += re.sub(r"<[^>]+>", "", html)
            assert heard == " light &lt;scatters&gt; most."

    play(scene)


def test_it_sends_the_whole_when_the_first_piece_of_a_kind_comes(alice, node):
    prompt, attempt = running(alice, node)
    path = page_of(prompt)

    async def scene():
        async with browser(path, alice) as page:
            for kind, text in (("reasoning", "Let me think"), ("message", "Blue light")):
                await write(attempt, (kind, text))
                html = await page.hears()
                assert html.startswith("<article")
                assert text in html

    play(scene)


def test_it_sends_the_whole_when_a_piece_is_missing(alice, node):
    prompt, attempt = running(alice, node)
    stream(attempt, ("message", "Blue"))
    path = page_of(prompt)
    ahead = {"attempt": 1, "kind": "message", "offset": 99, "text": "x", "tokens": 1, "html": "<div>x</div>"}

    async def scene():
        async with browser(path, alice) as page:
            await page.socket.send_to("anew")
            await page.hears()  # from here on it listens
            await get_channel_layer().group_send(
                f"prompt.{prompt.pk}",
                {"type": "event", "id": 10**9, "kind": "prompt.output", "subject": str(prompt.pk),
                 "data": {"attempt": 1, "chunks": []}, "pieces": [ahead]},
            )  # fmt: skip
            html = await page.hears()
            assert html.startswith("<article")
            assert "Blue" in html

    play(scene)


def test_it_sends_nothing_twice(alice, node):
    prompt, attempt = running(alice, node)
    path = page_of(prompt)

    async def scene():
        async with browser(path, alice) as page:
            await write(attempt, ("message", "Blue"), ("message", " light"))
            html = await page.hears()
            assert html.count("Blue light") == 1
            assert await page.hears_nothing()

    play(scene)


def test_it_sends_the_whole_at_each_change_of_state(alice, node):
    prompt = submit(alice)
    path = page_of(prompt)

    async def scene():
        async with browser(path, alice) as page:
            attempt = await in_thread(claim)(prompt, node)
            assert "chip-sending" in await page.hears()
            await in_thread(attempt.prompt.finish)(attempt, [("message", "Because.")])
            assert "Because." in await page.hears_until("chip-done")

    play(scene)


def test_it_tells_a_waiting_prompt_that_its_place_moved(alice, node):
    first, second = submit(alice), submit(alice)
    path = page_of(second)

    async def scene():
        async with browser(path, alice) as page:
            await in_thread(first.cancel)()
            assert "It is next in its lane." in await page.hears_until("<article")

    play(scene)


def test_it_does_not_disturb_a_running_prompt_with_what_others_do(alice, bob, node):
    path = page_of(running(alice, node)[0])

    async def scene():
        async with browser(path, alice) as page:
            await in_thread(submit)(bob)
            assert await page.hears_nothing()

    play(scene)


# The board and the form


def test_it_sends_the_board_and_then_only_the_lane_that_changed(alice, node):
    otter, _ = submit(alice, "an otter question"), submit(alice, "a heron question", model="heron")

    async def scene():
        async with browser("/ws/board/", alice) as page:
            whole = await page.hears()
            assert "an otter question" in whole
            assert "a heron question" in whole

            await in_thread(submit)(alice, "another one")
            html = await page.hears()
            assert html.strip().startswith("<section")
            assert f'id="{otter.lane.dom_id}"' in html
            assert "another one" in html
            assert "heron question" not in html

    play(scene)


def test_it_sends_the_whole_board_when_a_lane_comes(alice, node):
    async def scene():
        async with browser("/ws/board/", alice) as page:
            await page.hears()
            await in_thread(submit)(alice, model="ibis")
            assert 'id="lanes"' in await page.hears()

    play(scene)


def test_it_never_sends_another_persons_text_to_the_board(alice, bob, node):
    mark = "xylophone-7319"
    submit(bob, f"first {mark}")

    async def scene():
        async with browser("/ws/board/", alice) as page:
            heard = await page.hears()
            attempt = await in_thread(claim)(await in_thread(submit)(bob, f"second {mark}"), node)
            await write(attempt, ("message", mark))
            await in_thread(attempt.prompt.finish)(attempt)
            heard += await page.hears_until("1 done")
            assert "Another person’s prompt" in heard
            assert mark not in heard

    play(scene)


def test_it_refreshes_the_models_while_the_form_is_open(alice, node):
    async def scene():
        async with browser("/ws/compose/?chosen=otter", alice) as page:
            assert "otter" in await page.hears()

            def vanish():
                from daemonpulse.models.event import record

                Model.objects.filter(key="otter").update(gone_at="2026-01-01T00:00Z")
                record("model.changed", node.pk)

            await in_thread(vanish)()
            assert "no longer on any node" in await page.hears()

    play(scene)
