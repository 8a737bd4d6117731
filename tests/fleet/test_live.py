"""The live pages of the fleet: who may listen, what they are sent, and whom they keep awake."""

import asyncio
import dataclasses
import time

import pytest
from django.utils import timezone

from daemonpulse.consumers import in_thread
from fleet import attention, cards
from fleet.models import Command, Node, Reading, Sample
from tests.conftest import wait_for
from tests.fleet.test_pages import gpu, machine
from tests.sockets import Browser, browser, own_tail, signed_in

pytestmark = pytest.mark.django_db(transaction=True)
FLEET, ONE = "/ws/nodes/", "/ws/nodes/{pk}/"


def play(scene) -> None:
    attention._attention = None
    with own_tail():
        asyncio.run(scene())


@pytest.fixture
def rig(db):
    return Node.objects.create(name="rig", base_url="http://127.0.0.1:9", state="online", latency_seconds=0.004)


def read(node, **fields):
    """A look found these figures."""
    told = machine(gpu(), **fields)
    Reading.of(node).keep(told)
    Sample.take(node, 0.004, told)


@pytest.mark.parametrize("path", [FLEET, ONE])
def test_it_refuses_charlie(rig, path):
    async def scene():
        assert await Browser(path.format(pk=rig.pk)).refused() == (4401, "")

    play(scene)


def test_it_knows_no_other_node(alice, rig):
    async def scene():
        code, heard = await Browser(ONE.format(pk=999), await in_thread(signed_in)(alice)).refused()
        assert code == 4404
        assert "This node was removed" in heard

    play(scene)


def test_it_sends_a_card_when_something_happened_to_its_node(alice, rig):
    attic = Node.objects.create(name="attic", base_url="http://127.0.0.1:10")

    async def scene():
        async with browser(FLEET, alice) as page:
            first = await page.hears()
            assert 'id="nodes"' in first and "attic" in first
            await in_thread(read)(rig, cpu_percent=77.0)
            card = await page.hears_until("CPU 77 %")
            assert f'id="node-{rig.pk}"' in card
            assert "attic" not in card
            await in_thread(attic.disable)()
            assert "switched off" in await page.hears_until(f'id="node-{attic.pk}"')

    play(scene)


def test_it_sends_the_list_when_a_node_comes_or_goes(alice, rig):
    async def scene():
        async with browser(FLEET, alice) as page:
            await page.hears()
            await in_thread(rig.remove)()
            assert "No nodes yet" in await page.hears()

    play(scene)


def test_it_shows_bob_no_buttons(bob, rig):
    Node.objects.update(state="offline", reason="unreachable")
    Reading.of(rig).keep_status({"state": "server_down"})

    async def scene():
        async with browser(FLEET, bob) as page:
            assert "<button" not in await page.hears_until("rig")

    play(scene)


def test_it_renders_a_card_once_for_all_who_look(alice, rig, monkeypatch):
    rendered, times = cards.rendered, []

    def slowly(*args):
        times.append(args)
        time.sleep(0.1)
        return rendered(*args)

    monkeypatch.setattr(cards, "rendered", slowly)

    async def scene():
        async with browser(FLEET, alice) as one, browser(FLEET, alice) as two, browser(FLEET, alice) as three:
            pages = [one, two, three]
            for page in pages:
                await page.hears()
            await in_thread(read)(rig, cpu_percent=77.0)
            for page in pages:
                await page.hears_until("CPU 77 %")

    play(scene)
    assert len(times) <= 2  # one, or two where a viewer was told a moment later


# One node


def test_it_shows_a_commands_output_as_it_comes(alice, rig):
    command = Command.ask(rig, "daemon_update")

    async def scene():
        async with browser(ONE.format(pk=rig.pk), alice) as page:
            await in_thread(command.claim)()
            await page.hears_until("running")
            await in_thread(command.beat)("Downloading llmster", 0.5)
            html = await page.hears_until("Downloading llmster")
            assert 'value="0.500"' in html
            await in_thread(command.finish)({})
            assert 'id="console"' not in await page.hears_until("chip-done")

    play(scene)


def test_it_sends_each_new_point_of_its_graphs(alice, rig):
    async def scene():
        async with browser(ONE.format(pk=rig.pk), alice) as page:
            await in_thread(read)(rig)
            html = await page.hears_until('id="sample"')
            while "data-sample" not in html:
                html = await page.hears_until('id="sample"')
            assert "&quot;latency&quot;: 0.004" in html

    play(scene)


def test_it_says_that_the_node_was_removed(alice, rig):
    async def scene():
        async with browser(ONE.format(pk=rig.pk), alice) as page:
            await page.hears()
            await in_thread(rig.remove)()
            await page.hears_until("This node was removed")

    play(scene)


# Attention


def watched_until(pk):
    return Node.objects.get(pk=pk).watched_until


def watched(pk):
    until = watched_until(pk)
    return until is not None and until > timezone.now()


async def becomes(is_so):
    await in_thread(wait_for)(is_so)


def test_it_keeps_the_nodes_awake_that_somebody_looks_at_and_no_longer(alice, rig, monkeypatch):
    monkeypatch.setattr(attention, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(attention, "LEASE_SECONDS", 2.0)
    attic = Node.objects.create(name="attic", base_url="http://127.0.0.1:10")

    async def scene():
        async with browser(ONE.format(pk=rig.pk), alice):
            for _ in range(2):  # the lease is renewed, and renewed again
                until = await in_thread(watched_until)(rig.pk)
                await becomes(lambda until=until: watched_until(rig.pk) > until)
            assert not await in_thread(watched)(attic.pk)
            async with browser(FLEET, alice):
                await becomes(lambda: watched(attic.pk))
            await becomes(lambda: not watched(attic.pk))
            await becomes(lambda: watched(rig.pk))
        await becomes(lambda: not watched(rig.pk))
        assert not attention.attention().viewers

    play(scene)


def test_it_updates_the_rows_as_often_for_many_viewers_as_for_one(alice, rig, monkeypatch):
    told = []
    monkeypatch.setattr(attention, "RENEW_SECONDS", 60)
    monkeypatch.setattr(Node, "watch", classmethod(lambda cls, pks, seconds: told.append(pks)))

    async def scene():
        async with browser(FLEET, alice), browser(FLEET, alice), browser(FLEET, alice):
            pass

    play(scene)
    assert told == [None]


def test_a_reading_from_elsewhere_takes_nothing_on_trust(rig):
    told = dataclasses.replace(machine(gpu()), hostname="x" * 10_000)
    Reading.objects.create(node=rig, machine_json=told.as_json() | {"gpus": "many", "cpu_percent": "nan"})
    assert Reading.objects.get().machine.cpu_percent is None
    assert Reading.objects.get().machine.gpus == ()
