"""Looks at nodes: when each is due, and what a look keeps. The nodes are real servers, or nobody."""

import dataclasses
import threading
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from daemonpulse.models import Event
from fleet.daemons.errors import DaemonError, Reason
from fleet.models import Node, Reading, Sample
from fleet.telemetry.readings import Gpu, GpuProcess, Machine
from forge import heartbeat
from forge.heartbeat import Heartbeat, ask_daemon, keep_machine, keep_status
from forge.inventory import Answer
from forge.models import Model
from tests.conftest import wait_for
from tests.fleet.test_http import CannedServer

pytestmark = pytest.mark.django_db
GIB = 2**30
MACHINE = Machine(
    at=1.0, hostname="box", cpu_percent=12.5, ram_total_bytes=64 * GIB, ram_used_bytes=8 * GIB,
    gpus=(Gpu(0, "Card", memory_total_bytes=24 * GIB, memory_used_bytes=6 * GIB, utilization_percent=50,
              temperature_celsius=61, power_watts=200,
              processes=(GpuProcess(4711, "llmster", 6 * GIB, True), GpuProcess(1, "Xorg", GIB, False))),),
)  # fmt: skip


class StandInHost:
    """A machine that says what the test wants, or raises it."""

    def __init__(self, machine):
        self.answer, self.asked = machine, 0
        self.said = {"state": "ready"}

    def telemetry(self):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def status(self):
        return self.said


@pytest.fixture
def host(monkeypatch):
    made = StandInHost(MACHINE)
    monkeypatch.setattr(heartbeat, "host_of", lambda node: made)
    return made


@pytest.fixture
def looked(monkeypatch):
    """The names of the nodes that were looked at, in capitals where LM Studio itself was asked too; nothing is sent."""
    seen = []
    monkeypatch.setattr(heartbeat, "ask_daemon", lambda node: seen.append(node.name) or Answer())
    monkeypatch.setattr(heartbeat, "keep_machine", lambda node, answer: None)
    monkeypatch.setattr(heartbeat, "keep_status", lambda node: seen.__setitem__(-1, node.name.upper()))
    return seen


@pytest.fixture
def beat(monkeypatch, looked):
    """Its looks run at once, in the test's own thread and transaction."""
    made = Heartbeat()
    monkeypatch.setattr(made.pool, "submit", lambda function, *args: function(*args))
    return made


def look(node, with_status=False):
    """All of a look, one thing after the other."""
    node.looked()
    answer = ask_daemon(node)
    keep_machine(node, answer)
    if with_status:
        keep_status(node)
    return answer.error is None


def earlier(beat, seconds):
    """Pretend that so much time has passed."""
    for times in (beat.looked_at, beat.active_at, beat.status_at):
        times.update({pk: at - seconds for pk, at in times.items()})


# When


def test_it_looks_at_each_enabled_node_when_it_is_due(node, beat, looked):
    Node.objects.create(name="cellar", base_url="http://127.0.0.1:11", is_enabled=False)
    attic = Node.objects.create(name="attic", base_url="http://127.0.0.1:10", state="offline")
    beat.step(set(), is_awaited=False)
    beat.step(set(), is_awaited=False)
    assert sorted(looked) == ["ATTIC", "BOX"]
    del looked[:]

    earlier(beat, 5.1)  # away nodes are looked at sooner
    beat.step(set(), is_awaited=False)
    assert looked == ["attic"]

    earlier(beat, 0.6)
    beat.step(set(), is_awaited=True)  # prompts wait for one that is away
    assert looked == ["attic", "attic"]

    beat.step({attic.pk, node.pk}, is_awaited=False)  # work began on both
    assert looked == ["attic", "attic", "box"]


def test_it_looks_often_while_a_page_shows_it_and_for_a_moment_after(node, beat, looked):
    beat.step(set(), is_awaited=False)
    Node.watch([node.pk], seconds=9)
    earlier(beat, 2.1)
    beat.step(set(), is_awaited=False)
    assert looked == ["BOX", "box"]

    Node.objects.update(watched_until=timezone.now() - timedelta(seconds=1))
    for _ in range(6):
        earlier(beat, 2.1)
        beat.step(set(), is_awaited=False)
    assert looked[2:] == ["box"] * 6
    for _ in range(3):  # then it scouts again
        earlier(beat, 3)
        beat.step(set(), is_awaited=False)
    assert looked[8:] == []


def test_it_looks_at_once_when_somebody_asks(node, beat, looked):
    beat.step(set(), is_awaited=False)
    node.want_look()
    beat.step(set(), is_awaited=False)
    assert looked == ["BOX", "BOX"]


def test_it_does_not_let_a_slow_node_hold_up_the_others(node, beat, looked):
    attic = Node.objects.create(name="attic", base_url="http://127.0.0.1:10")
    beat.running["daemon", attic.pk] = time.monotonic()  # still at it
    beat.step(set(), is_awaited=False)
    assert looked == ["BOX"]


def test_it_says_that_a_node_is_late_before_it_gives_up_on_it(node, beat, looked):
    beat.running["daemon", node.pk] = time.monotonic() - 4.9
    beat.step(set(), is_awaited=False)
    assert Node.objects.get().state == "online"
    beat.running["daemon", node.pk] -= 0.2
    beat.step(set(), is_awaited=False)
    beat.step(set(), is_awaited=False)
    assert (Node.objects.get().state, looked) == ("stalled", [])
    assert Event.objects.filter(kind="node.stalled").count() == 1


def test_it_goes_on_after_a_look_that_crashed(node, beat, monkeypatch):
    monkeypatch.setattr(heartbeat, "ask_daemon", lambda node: 1 / 0)
    beat.step(set(), is_awaited=False)
    assert not beat.running


@pytest.mark.django_db(transaction=True)
def test_it_looks_in_threads_of_its_own(node, looked):
    beat = Heartbeat()
    try:
        beat.step(set(), is_awaited=False)
        wait_for(lambda: looked == ["BOX"] and not beat.running)
    finally:
        beat.pool.shutdown()


# What


def test_it_keeps_what_the_machine_told(node, host):
    node.want_look()
    assert look(node) is False  # nobody listens at its address
    node.refresh_from_db()
    assert (node.state, node.look_wanted_at) == ("offline", None)
    reading = node.reading
    assert reading.machine == MACHINE
    assert (reading.problem, reading.read_at is None) == ("", False)
    sample = Sample.objects.get()
    assert sample.latency_seconds is None
    assert sample.figures == {"cpu": 12.5, "ram": 8 * GIB, "gpus": [[6 * GIB, 50, 61, 200]]}


def test_it_keeps_the_last_reading_when_the_machine_is_silent(node, host):
    look(node)
    host.answer = DaemonError(Reason.TIMEOUT)
    look(node)
    reading = Reading.objects.get()
    assert reading.machine == MACHINE
    assert "silent" in reading.problem
    assert Sample.objects.order_by("at").last().figures == {}
    host.answer = dataclasses.replace(MACHINE, cpu_percent=None)
    look(node)
    assert (Reading.objects.get().problem, Reading.objects.get().machine.cpu_percent) == ("", None)


def test_it_asks_no_machine_where_there_is_no_way_to_it(node, host):
    Node.objects.update(base_url="http://192.0.2.1:9")
    keep_machine(Node.objects.get(), Answer())
    assert host.asked == 0
    assert not Reading.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_machine_that_hangs_holds_up_neither_its_daemon_nor_calls_it_late(node, host, monkeypatch):
    go_on, asked = threading.Event(), []
    monkeypatch.setattr(heartbeat, "ask_daemon", lambda node: asked.append(1) or Answer())
    monkeypatch.setattr(host, "telemetry", lambda: go_on.wait(10) and MACHINE)
    beat = Heartbeat()
    for count in (1, 2, 3):
        node.want_look()
        beat.step(set(), is_awaited=False)
        wait_for(lambda count=count: len(asked) == count and ("daemon", node.pk) not in beat.running)
    beat.running["machine", node.pk] -= 6
    beat.step(set(), is_awaited=False)
    assert Node.objects.get().state == "online"
    go_on.set()
    wait_for(lambda: not beat.running)
    beat.pool.shutdown()
    assert Sample.objects.count() == 3


def test_it_gives_up_a_wish_for_a_look_that_fails(node, beat, looked, monkeypatch):
    beat.step(set(), is_awaited=False)
    monkeypatch.setattr(heartbeat, "ask_daemon", lambda node: 1 / 0)
    node.want_look()
    beat.step(set(), is_awaited=False)
    assert Node.objects.get().look_wanted_at is None


def test_it_looks_at_a_switched_off_node_when_somebody_asks(node, beat, looked):
    node.disable()
    beat.step(set(), is_awaited=False)
    assert looked == []
    node.want_look()
    beat.step(set(), is_awaited=False)
    beat.step(set(), is_awaited=False)
    assert looked == ["BOX"]


def test_it_asks_for_the_state_of_lm_studio_when_that_is_due(node, host, monkeypatch):
    look(node)
    assert Reading.objects.get().status_json is None
    look(node, with_status=True)
    assert Reading.objects.get().status_json == {"state": "ready"}
    monkeypatch.setattr(host, "status", lambda: raises(DaemonError(Reason.UNREACHABLE)))
    look(node, with_status=True)
    assert Reading.objects.get().status_json is None  # what was true a while ago may not be


def raises(error):
    raise error


def test_it_asks_only_an_lm_studio_for_its_own_state(node, beat, looked):
    Node.objects.update(kind="openai")
    beat.step(set(), is_awaited=False)
    assert looked == ["box"]


def test_it_is_stalled_when_it_answers_late(node):
    node.seen(5.1)
    assert (node.state, node.is_online) == ("stalled", True)
    assert list(Node.objects.online()) == [node]
    node.seen(0.1)
    assert node.state == "online"


def test_it_calls_a_silent_node_offline_and_a_late_one_stalled(node, monkeypatch):
    body = b'{"models": []}'
    late = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    monkeypatch.setattr("fleet.models.node.STALLED_SECONDS", 0.2)
    with CannedServer(0.4, late) as server:
        Node.objects.update(base_url=server.url, kind="lmstudio")
        look(Node.objects.get())
    assert Node.objects.get().state == "stalled"


# Orphaned VRAM


@pytest.fixture
def answering(node, monkeypatch):
    """The daemon of `node` answers, with the models it has had before."""
    monkeypatch.setattr(heartbeat.inventory, "record", lambda node, answer: None)
    monkeypatch.setattr(heartbeat.inventory, "ask", lambda node: Answer())
    return monkeypatch


def test_it_tells_of_vram_that_is_held_for_nothing(node, host, answering):
    look(node)
    reading = Reading.objects.get()
    assert reading.orphans == [{"pid": 4711, "name": "llmster", "memory_bytes": 6 * GIB}]
    assert reading.orphaned_since is None  # it may be unloading right now
    Reading.objects.update(held_since=timezone.now() - timedelta(seconds=61))
    look(node)
    assert Reading.objects.get().orphaned_since is not None
    assert Event.objects.filter(kind="reading.orphaned").count() == 1
    look(node)
    assert Event.objects.filter(kind="reading.orphaned").count() == 1
    Model.objects.filter(key="otter").update(loaded=["otter"])
    look(node)
    assert (Reading.objects.get().orphaned_since, Reading.objects.get().orphans) == (None, [])
    assert Event.objects.filter(kind="reading.freed").count() == 1


@pytest.mark.parametrize("loaded", [["otter"], None])
def test_it_says_nothing_of_vram_while_something_is_loaded_or_may_be(node, host, answering, loaded):
    Model.objects.filter(key="otter").update(loaded=loaded)
    look(node)
    assert Reading.objects.get().orphans == []


def test_it_says_nothing_of_other_programs_and_of_small_contexts(node, host, answering):
    held = (
        GpuProcess(4711, "llmster", 200 * 2**20, True),
        GpuProcess(1, "Xorg", 8 * GIB, False),
        GpuProcess(2, "ollama", 8 * GIB, True),
    )
    host.answer = dataclasses.replace(MACHINE, gpus=(dataclasses.replace(MACHINE.gpus[0], processes=held),))
    look(node)
    assert Reading.objects.get().orphans == []


@pytest.mark.parametrize("fields", [{"kind": "openai"}, {"is_simulated": True}])
def test_it_says_nothing_of_vram_where_it_cannot_know(node, host, answering, fields):
    Node.objects.update(**fields)
    look(Node.objects.get())
    assert Reading.objects.get().orphans == []


def test_it_says_nothing_of_vram_of_a_daemon_that_does_not_answer_or_told_of_no_model(node, host, answering):
    answering.setattr(heartbeat.inventory, "ask", lambda node: Answer(error=DaemonError(Reason.TIMEOUT)))
    look(node)
    assert Reading.objects.get().orphans == []
    answering.setattr(heartbeat.inventory, "ask", lambda node: Answer())
    Model.objects.all().delete()
    look(node)
    assert Reading.objects.get().orphans == []


def test_it_takes_a_notice_back_when_the_machine_cannot_be_read_any_more(node, host, answering):
    look(node)
    Reading.objects.update(held_since=timezone.now() - timedelta(seconds=61))
    look(node)
    host.answer = DaemonError(Reason.UNREACHABLE)
    look(node)
    assert (Reading.objects.get().orphaned_since, Reading.objects.get().orphans) == (None, [])


# Samples


def test_it_marks_the_first_sample_of_each_period(node, monkeypatch):
    at = timezone.now().replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    grains = []
    for seconds in (0, 2, 58, 60, 62, 899, 900, 901):
        monkeypatch.setattr("fleet.models.reading.timezone.now", lambda s=seconds: at + timedelta(seconds=s))
        grains.append(Sample.take(node, 0.01, None).grain)
    assert grains == [900, 0, 0, 60, 0, 60, 900, 0]


def test_it_gives_columns_for_graphs_with_gaps_where_nothing_is_known(node, monkeypatch):
    now = timezone.now().replace(second=30, microsecond=0)  # both in one minute
    monkeypatch.setattr("fleet.models.reading.timezone.now", lambda: now)
    Sample.take(node, 0.01, MACHINE)
    Sample.take(node, None, None)
    series = Sample.series(node, 3600)
    assert series["at"] == [now.timestamp()] * 2
    assert series["latency"] == [0.01, None]
    assert series["cpu"] == [12.5, None]
    assert series["gpus"] == [
        {"vram": [6 * GIB, None], "utilization": [50, None], "temperature": [61, None], "power": [200, None]}
    ]
    assert Sample.series(node, 24 * 3600)["latency"] == [0.01]  # one of each minute
