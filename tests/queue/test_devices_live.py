"""Live pages of devices: who may listen, and that they follow what happens and the clock."""

import asyncio
from datetime import timedelta

import pytest
from django.utils import timezone

from daemonpulse.consumers import in_thread
from daemonpulse.queue.devices import consumers
from daemonpulse.queue.models import Device, PairingCode
from tests.sockets import Browser, browser, own_tail, signed_in

pytestmark = pytest.mark.django_db(transaction=True)


def play(scene) -> None:
    with own_tail():
        asyncio.run(scene())


def pair(owner, name="Kitchen tablet", code=None) -> Device:
    return Device.pair(code or PairingCode.issue(owner)[0], name=name, kind="phone", app="lmrmq/1")[0]


def redeemed(text: str, name: str) -> Device:
    return pair(None, name, PairingCode.redeem(text))


def test_it_refuses_charlie_and_other_peoples_codes(alice, bob):
    code, cookie = PairingCode.issue(bob)[0], signed_in(alice)

    async def scene():
        assert await Browser("/ws/devices/").refused() == (4401, "")
        assert await Browser(f"/ws/pairings/{code.pk}/").refused() == (4401, "")
        assert await Browser(f"/ws/pairings/{code.pk}/", cookie).refused() == (4404, "")
        assert await Browser("/ws/pairings/999/", cookie).refused() == (4404, "")

    play(scene)


def test_it_follows_a_devices_life(alice):
    async def scene():
        async with browser("/ws/devices/", alice) as page:
            assert "No devices yet" in await page.hears()

            device = await in_thread(pair)(alice)
            assert 'id="devices"' in await page.hears_until("Kitchen tablet")

            await in_thread(device.heard)(pending=2, is_connected=True)
            html = await page.hears_until("online now")
            assert html.strip().startswith("<article")  # that device alone
            assert "2 changes" in html

            await in_thread(device.rename)("Alice’s phone")
            assert "Alice’s phone" in await page.hears()

            await in_thread(device.gone)()
            assert "away" in await page.hears()

            await in_thread(device.revoke)()
            assert "No devices yet" in await page.hears()

    play(scene)


def test_it_tells_nobody_of_another_persons_devices(alice, bob):
    async def scene():
        async with browser("/ws/devices/", alice) as page:
            await page.hears()
            device = await in_thread(pair)(bob, "Bob’s phone")
            await in_thread(device.heard)(is_connected=True)
            assert await page.hears_nothing()

    play(scene)


def test_a_device_that_falls_silent_is_away_without_an_event(alice, monkeypatch):
    monkeypatch.setattr(consumers, "LOOK_SECONDS", 0.1)
    device = pair(alice)
    device.heard(is_connected=True)

    async def scene():
        async with browser("/ws/devices/", alice) as page:
            assert "online now" in await page.hears()
            long_ago = timezone.now() - timedelta(seconds=29)
            await in_thread(Device.objects.filter(pk=device.pk).update)(last_heard_at=long_ago)
            assert "away" in await page.hears()

    play(scene)


def test_the_page_with_the_code_notices_the_device(alice):
    pair(alice, "Another one, of earlier")
    code, text = PairingCode.issue(alice)

    async def scene():
        async with browser(f"/ws/pairings/{code.pk}/", alice) as page:
            assert await page.hears_nothing()
            await in_thread(redeemed)(text, "Alice’s phone")
            assert "“Alice’s phone” is paired." in await page.hears()

    play(scene)


def test_the_page_with_the_code_ignores_other_peoples_devices(alice, bob):
    code, (_, bobs) = PairingCode.issue(alice)[0], PairingCode.issue(bob)

    async def scene():
        async with browser(f"/ws/pairings/{code.pk}/", alice) as page:
            await in_thread(redeemed)(bobs, "Bob’s phone")
            assert await page.hears_nothing()

    play(scene)


@pytest.mark.parametrize("end", ["its time is up", "a newer one"])
def test_the_page_with_the_code_notices_that_it_is_over(alice, monkeypatch, end):
    monkeypatch.setattr(consumers, "LOOK_SECONDS", 0.1)
    code, text = PairingCode.issue(alice)

    async def scene():
        async with browser(f"/ws/pairings/{code.pk}/", alice) as page:
            assert await page.hears_nothing()
            if end == "a newer one":
                await in_thread(PairingCode.issue)(alice)
            else:
                await in_thread(PairingCode.objects.filter(pk=code.pk).update)(expires_at=timezone.now())
            html = await page.hears()
            assert "This code does not work any more." in html
            assert text not in html

    play(scene)
