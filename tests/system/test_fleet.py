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


def seconds_until(site, rig, state, limit) -> float:
    started = time.monotonic()
    wait_for(lambda: state_of(site, rig) == state, limit, step=0.05)
    return time.monotonic() - started


@contextmanager
def watching(site, path="/ws/nodes/"):
    """A page that shows the fleet is open."""
    headers = {"Cookie": site.session(), "Origin": site.url}
    with connect(site.url.replace("http", "ws") + path, additional_headers=headers, proxy=None) as socket:
        socket.recv(timeout=10)
        yield socket


def test_it_notices_that_machines_go_and_come_back(site, rigs):
    one, two = rigs
    for rig in rigs:
        rig.add_to(site)
    for rig in rigs:
        wait_for(lambda rig=rig: state_of(site, rig) == "online" and fleet(site)[rig.name]["ram_total_bytes"], 20, 0.2)
    told = fleet(site)
    assert all(told[rig.name]["lmstudio"]["state"] == "server_down" for rig in rigs)  # by its agent's lms

    time.sleep(1)
    one.unplug()
    assert seconds_until(site, one, "offline", 20) <= 15
    assert state_of(site, two) == "online"
    one.plug()
    assert seconds_until(site, one, "online", 20) <= 10

    with watching(site):
        time.sleep(2)
        two.unplug()
        assert seconds_until(site, two, "offline", 10) <= 5
        two.plug()
        assert seconds_until(site, two, "online", 10) <= 10
    assert "Its agent" not in str(fleet(site)[one.name]["advice"])


def test_it_asks_each_daemon_once_however_many_pages_are_open(daemon, site):
    wait_for(lambda: site.rows("SELECT count(*) FROM fleet_node WHERE state = 'online'") == [(1,)])
    with watching(site), watching(site), watching(site), watching(site, "/ws/nodes/1/"):
        time.sleep(1)
        before = daemon.state()["requests"]
        time.sleep(6)
        asked = daemon.state()["requests"] - before
    assert 2 <= asked <= 4  # every 2 s
