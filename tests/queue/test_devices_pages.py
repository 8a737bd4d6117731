"""The pages of one's own devices, as their visitors meet them."""

import html
import io
import logging
import re
import uuid
from datetime import timedelta
from urllib.parse import unquote

import pytest
from django.core.management import CommandError, call_command
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone

from daemonpulse import certs
from daemonpulse.models import Event
from daemonpulse.models.access import hashed
from daemonpulse.queue.devices.pages import pairing_context
from daemonpulse.queue.devices.pairing import Offer
from daemonpulse.queue.models import Device, PairingCode

from .prompts import fresh

pytestmark = pytest.mark.django_db
CODE = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}\b")
LAN = "192.168.1.20"


def pair(owner, name="Kitchen tablet", **fields) -> Device:
    """A device that is paired, heard of at once, and sealed."""
    code = PairingCode.issue(owner)[0]
    device = Device.pair(code, **{"name": name, "kind": "phone", "app": "lmrmq/1", "key": "k" * 43} | fields)[0]
    device.heard(pending=3)
    return device


def words(response) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", response.content.decode())).split())


def url(name: str, device) -> str:
    return reverse(name, args=[device.pk])


def new_code(client, **headers) -> tuple[str, str]:
    """(the code that the page shows, the page)"""
    response = client.post(reverse("device_pair"), **headers)
    assert response.status_code == 201
    page = response.content.decode()
    return CODE.search(page).group(), page


# Who may


def test_it_sends_charlie_to_the_sign_in_page(client, alice):
    device = pair(alice)
    addresses = [reverse("device_list"), reverse("device_pair")]
    addresses += [url(name, device) for name in ("device_rename", "device_revocation")]

    for address in addresses:
        response = client.post(address, {"name": "Mine"})
        assert response.status_code == 302
        assert response.url.startswith("/sign-in/")
    assert (fresh(device).name, fresh(device).revoked_at) == ("Kitchen tablet", None)


@pytest.mark.parametrize("name", ["device_rename", "device_revocation"])
def test_bobs_device_is_unknown_to_alice(alice_client, bob, name):
    device = pair(bob)

    assert alice_client.post(url(name, device), {"name": "Mine"}).status_code == 404
    assert "Kitchen tablet" not in words(alice_client.get(reverse("device_list")))
    assert (fresh(device).name, fresh(device).revoked_at) == ("Kitchen tablet", None)


def test_it_knows_no_device_that_is_not_there(alice_client):
    assert alice_client.post(reverse("device_rename", args=[uuid.uuid4()]), {"name": "x"}).status_code == 404


# The list


def test_it_teaches_what_devices_are_while_there_are_none(alice_client):
    page = words(alice_client.get(reverse("device_list")))

    for word in ("No devices yet", "LMRMQ", "daemonpulse client", "Pair a device"):
        assert word in page


def test_it_shows_what_is_known_of_a_device(alice_client, alice):
    pair(alice)

    page = words(alice_client.get(reverse("device_list")))

    for word in ("Kitchen tablet", "away", "Phone", "lmrmq/1", "Still to send 3 changes", "Sealed yes"):
        assert word in page


def test_it_does_not_claim_to_know_what_a_silent_device_has(alice_client, alice):
    Device.objects.filter(pk=pair(alice, key="").pk).update(last_heard_at=None, pending=0)

    page = words(alice_client.get(reverse("device_list")))

    for word in ("Last heard never", "Still to send unknown", "Sealed no"):
        assert word in page


def test_it_says_who_is_online_and_who_has_to_pair_again(alice_client, alice):
    here, gone = pair(alice, "Phone"), pair(alice, "Forgotten")
    here.heard(is_connected=True)
    Device.objects.filter(pk=gone.pk).update(last_heard_at=timezone.now() - timedelta(days=366))

    page = words(alice_client.get(reverse("device_list")))

    assert "Phone online now" in page
    assert "Forgotten expired" in page
    assert "has to be paired again" in page


def test_it_shows_no_key_and_no_hash(alice_client, alice, client):
    device = pair(alice)
    paths = [reverse("device_list"), reverse("admin:queue_device_changelist"), url("admin:queue_device_change", device)]

    for path in paths:
        page = alice_client.get(path)
        assert page.status_code == 200
        assert "Kitchen tablet" in page.content.decode()
        assert "k" * 43 not in page.content.decode()
        assert device.token_hash not in page.content.decode()


# Renaming and revoking


def test_it_renames_a_device(alice_client, alice):
    device = pair(alice)

    page = alice_client.post(url("device_rename", device), {"name": " Alice’s phone "}, follow=True)

    assert "It is called “Alice’s phone” now." in words(page)
    assert fresh(device).name == "Alice’s phone"


@pytest.mark.parametrize(("name", "wording"), [("  ", "Give it a name"), ("x" * 81, "at most 80 characters")])
def test_it_says_what_is_wrong_with_a_name(alice_client, alice, name, wording):
    device = pair(alice)

    response = alice_client.post(url("device_rename", device), {"name": name})

    assert response.status_code == 422
    assert wording in words(response)
    assert 'ws-connect="/ws/devices/"' not in response.content.decode()  # it would take the mistake off the page
    assert fresh(device).name == "Kitchen tablet"


def test_it_revokes_a_device_at_once_and_for_good(alice_client, alice):
    device = pair(alice)

    page = alice_client.post(url("device_revocation", device), follow=True)

    assert "“Kitchen tablet” is revoked" in words(page)
    assert 'class="card card-tall"' not in page.content.decode()
    assert not fresh(device).is_usable
    assert fresh(device).key == ""
    assert alice_client.post(url("device_rename", device), {"name": "Back"}).status_code == 404


# Pairing anew


def test_a_device_that_is_paired_anew_can_be_told_from_its_earlier_entry(alice_client, alice, bob):
    earlier, other = pair(alice, "Linux browser", kind="browser"), pair(alice, "Linux browser", kind="browser")
    third, bobs = pair(alice, "x" * 80), pair(bob, "Linux browser")
    fourth = pair(alice, "x" * 80)

    assert [each.name for each in (earlier, other, bobs)] == ["Linux browser", "Linux browser 2", "Linux browser"]
    assert (third.name, fourth.name) == ("x" * 80, "x" * 78 + " 2")
    page = words(alice_client.get(reverse("device_list")))
    assert "Linux browser 2" in page
    assert "Revoke what you no longer use" in page

    earlier.revoke()
    assert pair(alice, "Linux browser").name == "Linux browser"


def test_it_says_when_there_was_such_a_device_and_it_is_away(alice):
    earlier = pair(alice, "Linux browser", kind="browser")
    pair(alice, "Linux browser stand", kind="browser")
    code, text = PairingCode.issue(alice)
    Device.pair(PairingCode.redeem(text), name="Linux browser", kind="browser", key="k" * 43)

    told = render_to_string("queue/_device_pairing_over.html", pairing_context(alice, code.pk))
    assert "“Linux browser 2” is paired." in told
    assert "“Linux browser” is on your list as well" in told
    assert "stand" not in told

    earlier.heard(is_connected=True)  # it is another one, then
    told = render_to_string("queue/_device_pairing_over.html", pairing_context(alice, code.pk))
    assert "as well" not in told


# A code


def test_it_shows_a_code_that_pairs_and_can_be_typed_as_shown(alice_client, alice):
    shown, page = new_code(alice_client)

    assert f"daemonpulse client --server http://testserver --pair {shown}" in html.unescape(page)
    assert "make install && .venv/bin/daemonpulse client" in html.unescape(page)  # what makes it a command there
    assert "{}-<wbr>{}".format(*shown.split("-")) in page  # it does not fit a narrow page with large text
    assert PairingCode.redeem(shown.lower()).owner == alice


def test_it_shows_a_code_once_and_keeps_it_nowhere(alice_client, alice, caplog):
    with caplog.at_level(logging.DEBUG):
        shown, _ = new_code(alice_client)
        code = shown.replace("-", "")
        again = alice_client.get(reverse("device_pair"), follow=True)

    assert again.redirect_chain == [(reverse("device_list"), 302)]
    for page in (again, alice_client.get(reverse("device_list"))):
        assert shown not in page.content.decode()
        assert code not in page.content.decode()
    kept = [str(row) for model in (PairingCode, Event) for row in model.objects.values()]
    assert not [text for text in [*kept, caplog.text] if code in text or shown in text]
    assert PairingCode.objects.get(owner=alice).code_hash == hashed(code)
    assert code not in repr(Offer(code, "http://testserver"))


def test_no_cache_keeps_the_page_with_the_code(alice_client):
    response = alice_client.post(reverse("device_pair"))

    assert "no-store" in response["Cache-Control"]


def test_a_new_code_takes_the_place_of_the_one_before(alice_client):
    first, _ = new_code(alice_client)
    second, _ = new_code(alice_client)

    assert PairingCode.redeem(first) is None
    assert PairingCode.redeem(second)


def test_an_old_code_pairs_nothing(alice_client):
    shown, _ = new_code(alice_client)
    PairingCode.objects.update(expires_at=timezone.now() - timedelta(seconds=1))

    assert PairingCode.redeem(shown) is None


# Where a phone reaches us


def test_it_says_that_no_phone_reaches_a_server_on_loopback(alice_client, settings):
    settings.ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]

    _, page = new_code(alice_client, headers={"host": "127.0.0.1:8642"})

    assert "No phone reaches this server yet." in page
    assert "daemonpulse up --tls" in page
    assert reverse("ca") in page
    assert "data:image" not in page  # nothing to scan


def test_it_offers_the_other_addresses_when_opened_on_loopback(alice_client, settings):
    settings.ALLOWED_HOSTS = ["localhost", "0.0.0.0", "box", "box.local", LAN, "fd00::5", "*.example"]

    shown, page = new_code(alice_client, headers={"host": "localhost:8642"})

    found = [line.split("<")[0] for line in page.split('<li class="mono">')[1:]]
    assert found == [f"http://{name}:8642" for name in (LAN, "[fd00::5]", "box.local", "box")]
    assert f"--server http://{LAN}:8642 --pair {shown}" in page


def test_it_prefers_addresses_with_tls(alice_client, settings):
    settings.ALLOWED_HOSTS = ["localhost", LAN]
    settings.TLS_URLS = [f"https://{LAN}:8643", "https://box.local:8643"]

    for host in ("localhost:8642", f"{LAN}:8642"):
        shown, page = new_code(alice_client, headers={"host": host})
        assert f"--server https://{LAN}:8643 --pair {shown}" in page
        assert "https://box.local:8643" in page
        assert "This address has no TLS" not in page


def test_it_warns_of_an_address_without_tls_and_not_of_one_with_it(alice_client, settings):
    settings.ALLOWED_HOSTS = [LAN]

    _, plain = new_code(alice_client, headers={"host": f"{LAN}:8642"})
    _, safe = new_code(alice_client, headers={"host": f"{LAN}:8643"}, secure=True)

    assert "This address has no TLS" in plain
    assert "This address has no TLS" not in safe
    assert f"https://{LAN}:8643/m/" in safe


def test_the_qr_code_is_the_link_with_the_fingerprint(monkeypatch):
    monkeypatch.setattr(certs, "fingerprint", lambda: "ab" * 32)

    offer = Offer("K7QM2XPA", f"https://{LAN}:8643")

    assert offer.link == f"https://{LAN}:8643/m/#pair=K7QM2XPA&fp={'ab' * 32}"
    assert offer.line.endswith(f"--pair K7QM-2XPA --fingerprint {'ab' * 32}")
    assert Offer("K7QM2XPA", "http://box:8642").link == "http://box:8642/m/#pair=K7QM2XPA"
    assert unquote(offer.image).startswith("data:image/svg+xml")
    assert "style" not in unquote(offer.image)


# Commands


def run(*arguments, **options) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, **options)
    return out.getvalue()


def test_the_command_pairs_for_the_named_user(alice, bob):
    told = run("pair_device", "--user", "bob", "--url", f"http://{LAN}:8642/")

    shown = CODE.search(told).group()
    assert f"http://{LAN}:8642/m/#pair={shown.replace('-', '')}" in told
    assert "▀" in told or "▄" in told  # a QR code in half blocks
    assert PairingCode.redeem(shown).owner == bob


def test_the_command_says_that_a_phone_does_not_reach_loopback(alice):
    assert "Only this computer reaches http://127.0.0.1:8642" in run("pair_device")
    assert "Only this computer" not in run("pair_device", "--url", f"http://{LAN}:8642")


@pytest.mark.parametrize(
    ("arguments", "wording"),
    [
        (("--user", "nobody"), "no active user “nobody”. Known users: alice"),
        (("--url", "192.168.1.20:8642"), "is no address. Write it like https://"),
        (("--url", "http://box:eighty"), "is no address"),
    ],
)
def test_the_command_says_what_is_wrong_and_makes_no_code(alice, arguments, wording):
    with pytest.raises(CommandError, match=wording):
        run("pair_device", *arguments)

    assert not PairingCode.objects.exists()


def test_the_command_lists_devices(alice, bob):
    import json

    assert "No device is paired" in run("devices")
    pair(alice, "Phone\x1b[31m")
    pair(bob, "Laptop", kind="desktop", key="")

    told = run("devices")
    assert "NAME" in told
    assert "\x1b" not in told  # a device says how it is called
    rows = json.loads(run("devices", "--json"))["devices"]
    assert [(row["owner"], row["kind"], row["is_sealed"], row["to_send"]) for row in rows] == [
        ("bob", "desktop", False, 3),
        ("alice", "phone", True, 3),
    ]


def test_the_command_revokes_and_renames(alice):
    phone, laptop = pair(alice, "Phone"), pair(alice, "Laptop")

    run("devices", "--revoke", "Phone")
    run("devices", "--rename", str(laptop.pk), "Desk")

    assert fresh(phone).revoked_at
    assert fresh(laptop).name == "Desk"


def test_the_command_says_which_device_it_cannot_take(alice, bob):
    first = pair(alice, "Phone")
    pair(bob, "Phone")

    with pytest.raises(CommandError, match=f"2 devices are called “Phone”.*{first.pk}"):
        run("devices", "--revoke", "Phone")
    with pytest.raises(CommandError, match="No paired device is called “Tablet”"):
        run("devices", "--revoke", "Tablet")
    with pytest.raises(CommandError, match="at most 80 characters"):
        run("devices", "--rename", str(first.pk), "x" * 81)
    assert not Device.objects.exclude(revoked_at=None).exists()


# Operators


def test_operators_revoke_and_see_no_codes(alice_client, alice, bob):
    device = pair(bob)
    path = reverse("admin:queue_device_changelist")

    page = alice_client.post(path, {"action": "revoke", "_selected_action": [str(device.pk)]}, follow=True)

    assert "1 revoked." in words(page)
    assert fresh(device).revoked_at
    for name in ("pairingcode", "receipt"):
        assert alice_client.get(f"/admin/queue/{name}/").status_code == 404
