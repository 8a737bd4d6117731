"""What is offered as a node: the LM Studio of this machine, agents and servers of the network. Nothing is added."""

import threading

import pytest

from daemonpulse import lan
from fleet import offers
from fleet.models import Node
from tests.conftest import wait_for
from tests.fleet.fake_lms_fixture import FakeLMStudio

pytestmark = pytest.mark.django_db


@pytest.fixture
def studio(tmp_path):
    made = FakeLMStudio(tmp_path)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nobody has looked around before."""
    monkeypatch.setattr(offers, "_last", (-1e9, []))


def test_it_offers_an_lm_studio_that_is_installed_but_down(studio):
    (offer,) = offers.here(studio.home)
    assert offer.base_url == studio.url
    assert "its server is down" in offer.detail


def test_it_offers_nothing_where_there_is_nothing(tmp_path):
    assert offers.here(tmp_path) == []


def heard() -> list[offers.Offer]:
    """What is offered of this test's own ports; other tests announce agents too."""
    return [offer for offer in offers.network(["127.0.0.1"]) if ":286" in offer.agent_url + offer.link]


def test_it_finds_what_others_announce_and_no_more_when_it_is_gone(monkeypatch):
    agent = lan.Announcement(lan.AGENT, "127.0.0.1", 28643, {"tls": "1", "version": "0.1"})
    server = lan.Announcement(lan.SERVER, "127.0.0.1", 28642, {"tls": "0"})
    own = lan.Announcement(lan.SERVER, "127.0.0.1", 28650, {})
    monkeypatch.setattr(lan, "_own", {own.properties["id"]})  # the others are those of other processes
    try:
        found = wait_for(lambda: len(told := heard()) == 2 and told, 60)
        threading.Event().wait(2)  # what they say unasked is over: now they have to answer
        monkeypatch.setattr(offers, "BROWSE_SECONDS", 0.9)  # over before browsers ask again
        assert wait_for(lambda: len(heard()) == 2, 60, step=1)  # they answer once in a second
    finally:
        for announcement in (agent, server, own):
            announcement.end()
    by_title = {offer.title.split(" on ")[0]: offer for offer in found}
    assert (by_title["Agent"].agent_url, by_title["Agent"].likely_url) == (
        "https://127.0.0.1:28643", "http://127.0.0.1:1234",
    )  # fmt: skip
    assert by_title["DaemonPulse"].link == "http://127.0.0.1:28642"
    wait_for(lambda: heard() == [], 60)


def test_it_leaves_no_thread_behind():
    before = set(threading.enumerate())
    lan.browse([lan.AGENT, lan.SERVER], 0.1, ["127.0.0.1"])
    wait_for(lambda: not set(threading.enumerate()) - before)


def test_it_offers_what_is_not_a_node_yet_and_adds_nothing(client, alice, monkeypatch):
    told = [
        offers.Offer("LM Studio on this machine", "It answers.", base_url="http://127.0.0.1:1234"),
        offers.Offer("Agent on <b>rig</b>", "It answers.", agent_url="https://192.0.2.1:28643"),
    ]
    monkeypatch.setattr(offers, "here", lambda: told[:1])
    monkeypatch.setattr(offers, "network", lambda: told[1:])
    client.force_login(alice)
    html = client.get("/nodes/offers/").content.decode()
    assert "LM Studio on this machine" in html
    assert "Agent on &lt;b&gt;rig" in html
    assert not Node.objects.exists()
    Node.objects.create(name="here", base_url="http://127.0.0.1:1234")
    Node.objects.create(name="rig", base_url="http://192.0.2.1:1234", agent_url="https://192.0.2.1:28643")
    assert "Nothing new was found" in client.get("/nodes/offers/").content.decode()


def test_it_looks_around_once_for_all_who_ask_at_the_same_time(monkeypatch):
    times = []
    monkeypatch.setattr(offers, "here", lambda: times.append(1) or [])
    monkeypatch.setattr(offers, "network", lambda: [])
    offers.look_around()
    offers.look_around()
    assert len(times) == 1


@pytest.mark.parametrize("properties", [{}, {"tls": "<script>"}])
def test_it_trusts_nothing_of_what_is_announced(properties):
    offer = offers._offer(lan.Found(lan.AGENT, "x", "fe80::1", 28643, properties))
    assert offer.agent_url == "http://[fe80::1]:28643"
