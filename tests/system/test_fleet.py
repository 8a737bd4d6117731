"""A fleet of real processes: two machines with agents, unplugged and plugged in again, watched and unwatched."""

import time
from contextlib import contextmanager

import pytest
from websockets.sync.client import connect

from tests.conftest import wait_for
from tests.system.networks import Machine, can_make_machines
from tests.system.rigs import Rig, fleet


@pytest.fixture
def rigs(tmp_path):
    made = []
    try:
        for number in (1, 2):
            made.append(Rig(number, tmp_path, Machine(number) if can_make_machines() else None))
        yield made
    finally:
        for rig in made:
            rig.close()


def state_of(site, rig) -> str:
    return site.rows(f"SELECT state FROM fleet_node WHERE name = '{rig.name}'")[0][0]


def seconds_until(site, rig, state) -> float:
    started = time.monotonic()
    wait_for(lambda: state_of(site, rig) == state)
    return time.monotonic() - started


def check_trips(site, rig, other, away_seconds: float) -> None:
    """It is seen within so many seconds that it went, and within ten that it came back; the other one stays. A busy
    machine may hold up any one look, so it goes up to three times."""
    away, back = [], []
    while not away or (len(away) < 3 and (min(away) > away_seconds or min(back) > 10)):
        rig.unplug()
        away.append(seconds_until(site, rig, "offline"))
        wait_for(lambda: state_of(site, other) == "online")
        rig.plug()
        back.append(seconds_until(site, rig, "online"))
    assert min(away) <= away_seconds, away
    assert min(back) <= 10, back


@contextmanager
def watching(site, path="/ws/nodes/"):
    """A page that shows the fleet is open."""
    headers = {"Cookie": site.session(), "Origin": site.url}
    with connect(site.url.replace("http", "ws") + path, additional_headers=headers, proxy=None) as socket:
        socket.recv(timeout=60)
        yield socket


def test_it_notices_that_machines_go_and_come_back(site, rigs):
    one, two = rigs
    for rig in rigs:
        rig.add_to(site)
    for rig in rigs:
        wait_for(lambda rig=rig: state_of(site, rig) == "online" and fleet(site)[rig.name]["ram_total_bytes"], step=0.2)
    told = fleet(site)
    assert all(told[rig.name]["lmstudio"]["state"] == "server_down" for rig in rigs)  # by its agent's lms

    time.sleep(1)
    check_trips(site, one, two, 15)
    with watching(site):
        time.sleep(2)
        check_trips(site, two, one, 5)
    assert "Its agent" not in str(fleet(site)[one.name]["advice"])


def test_it_asks_each_daemon_once_however_many_pages_are_open(daemon, site):
    wait_for(lambda: site.rows("SELECT count(*) FROM fleet_node WHERE state = 'online'") == [(1,)])
    with watching(site), watching(site), watching(site), watching(site, "/ws/nodes/1/"):
        time.sleep(1)
        began, before = time.monotonic(), daemon.state()["requests"]
        time.sleep(6)
        wait_for(lambda: daemon.state()["requests"] >= before + 2)
        asked = daemon.state()["requests"] - before
        assert asked <= (time.monotonic() - began) / 2 + 1  # every 2 s
