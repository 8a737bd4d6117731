"""What nodes are told to do: states, leases, threads, output and what stays of it."""

import itertools
import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from daemonpulse.models import Event
from fleet import operations
from fleet.daemons.errors import DaemonError, Reason
from fleet.dispatch import Dispatcher
from fleet.lms.errors import LmsError, Problem
from fleet.models import Command, Node
from fleet.models.command import KEPT_PER_NODE, MOVES
from tests.conftest import wait_for

State = Command.State
pytestmark = pytest.mark.django_db


class StandInHost:
    """Does what the test wants when it is told to do something."""

    def __init__(self, does):
        self.does, self.told = does, []

    def execute(self, action, parameters, on_line, command_id, on_signed):
        self.told.append((action, parameters, command_id))
        return self.does(on_line)


@pytest.fixture
def host(monkeypatch):
    def use(does):
        made = StandInHost(does)
        monkeypatch.setattr(operations, "host_of", lambda node: made)
        return made

    return use


@pytest.fixture
def rig(db):
    return Node.objects.create(name="rig", base_url="http://127.0.0.1:9")


def kinds():
    """What the event log says of commands; that a command said something, several times in a row, counts once."""
    told = Event.objects.filter(kind__startswith="command").order_by("id").values_list("kind", flat=True)
    return [kind for kind, _ in itertools.groupby(told)]


# States


@pytest.mark.parametrize("to", State.values)
@pytest.mark.parametrize("old", State.values)
def test_it_allows_only_the_moves_of_its_table(rig, old, to):
    command = Command.objects.create(node=rig, action="server_stop", state=old)
    if to in MOVES.get(old, ()):
        assert command.move(to)
        assert Command.objects.get().state == to
    else:
        with pytest.raises(ValueError, match="cannot become"):
            command.move(to)
        assert Command.objects.get().state == old


@pytest.mark.django_db(transaction=True)
def test_it_is_taken_once_however_many_want_it(rig):
    command = Command.ask(rig, "server_stop")
    barrier, won = threading.Barrier(6), []

    def take():
        own = Command.objects.get(pk=command.pk)
        barrier.wait()
        won.append(own.claim())
        connection.close()

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]
    assert kinds() == ["command.asked", "command.running"]


def test_it_runs_one_at_a_time_on_a_node(rig):
    first, second = (Command.ask(rig, "server_stop") for _ in range(2))
    assert first.claim()
    assert not second.claim()
    first.finish({})
    assert second.claim()


def test_it_calls_off_what_waits_and_tells_what_runs(rig):
    running, waiting = (Command.ask(rig, "server_stop") for _ in range(2))
    running.claim()
    assert waiting.cancel()
    assert (waiting.state, waiting.problem) == ("failed", "It was called off before it began.")
    assert running.cancel()
    assert (running.state, running.is_cancel_wanted) == ("running", True)
    running.finish({})
    assert not running.cancel()


def test_it_ends_what_a_dead_worker_left_and_nothing_else(rig):
    other = Node.objects.create(name="other", base_url="http://127.0.0.1:8")
    dead, waiting = (Command.ask(rig, "server_stop") for _ in range(2))
    alive = Command.ask(other, "server_stop")
    assert dead.claim()
    assert alive.claim()
    Command.objects.filter(pk=dead.pk).update(beat_at=timezone.now() - timedelta(seconds=21))
    assert Command.rescue() == 1
    states = {command.pk: command.state for command in Command.objects.all()}
    assert (states[dead.pk], states[alive.pk], states[waiting.pk]) == ("interrupted", "running", "waiting")
    assert "process that ran it ended" in Command.objects.get(pk=dead.pk).problem
    assert not Command.objects.get(pk=dead.pk).is_open
    dead.state = State.RUNNING  # its worker was only slow, and now wants to end it
    assert dead.finish({}) is False


def test_it_keeps_the_last_commands_of_each_node(rig):
    now = timezone.now()
    Command.objects.bulk_create(
        Command(node=rig, action="server_stop", state="done", asked_at=now - timedelta(minutes=n))
        for n in range(KEPT_PER_NODE + 5)
    )
    Command.forget_old()
    assert Command.objects.count() == KEPT_PER_NODE
    assert Command.objects.order_by("asked_at").first().asked_at == now - timedelta(minutes=KEPT_PER_NODE - 1)


# Running


@pytest.mark.django_db(transaction=True)
def test_it_does_it_and_keeps_what_it_said(rig, host, alice):
    rig_host = host(lambda on_line: on_line("Success! Server is now running on port 1234") or {"server_running": True})
    command, late = Command.ask(rig, "server_start", alice), Command.objects.get()
    heard = []
    assert operations.run(command, heard.append)
    row = Command.objects.get()
    assert (row.state, row.result, row.problem) == ("done", {"server_running": True}, "")
    assert row.output == f"{heard[0]}\n" == "Success! Server is now running on port 1234\n"
    assert rig_host.told == [("server_start", {}, str(command.pk))]
    assert kinds() == ["command.asked", "command.running", "command.told", "command.done"]
    assert Node.objects.get().look_wanted_at is not None  # its new state is wanted at once
    assert operations.run(late) is False


@pytest.mark.django_db(transaction=True)
def test_its_output_is_there_while_it_runs(rig, host):
    go_on = threading.Event()

    def does(on_line):
        on_line("Shutting down llmster...")
        assert go_on.wait(10)
        return {}

    host(does)
    dispatcher = Dispatcher()
    Command.ask(rig, "daemon_down")
    dispatcher.step()
    wait_for(lambda: Command.objects.get().output == "Shutting down llmster...\n")
    assert Command.objects.get().state == "running"
    go_on.set()
    wait_for(lambda: Command.objects.get().state == "done")
    dispatcher.pool.shutdown()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            LmsError(Problem.TIMEOUT, "`lms server start` did not end within 60 s and was stopped."),
            "did not end within",
        ),
        (DaemonError(Reason.UNREACHABLE), "Nothing answers"),
        (ValueError("The model is missing."), "The model is missing."),
        (ZeroDivisionError("secret detail"), "not foreseen"),
    ],
)
def test_it_says_what_went_wrong(rig, host, error, sentence):
    def does(on_line):
        raise error

    host(does)
    operations.run(Command.ask(rig, "server_start"))
    row = Command.objects.get()
    assert row.state == "failed"
    assert sentence in row.problem
    assert "secret detail" not in row.problem


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("fields", [{"base_url": "http://192.0.2.1:1234"}, {"kind": "openai"}, {"is_simulated": True}])
def test_it_refuses_where_there_is_no_way_to_the_machine(rig, fields):
    Node.objects.update(**fields)
    operations.run(Command.ask(Node.objects.get(), "server_stop"))
    assert "no way to this node's machine" in Command.objects.get().problem


@pytest.mark.django_db(transaction=True)
def test_it_runs_one_at_a_time_on_a_node_and_several_on_several(rig, host):
    attic = Node.objects.create(name="attic", base_url="http://127.0.0.1:10")
    go_on, running, most = threading.Event(), [], []

    def does(on_line):
        running.append(1)
        most.append(len(running))
        assert go_on.wait(10)
        running.pop()
        return {}

    host(does)
    for node in (rig, rig, attic):
        Command.ask(node, "server_stop")
    dispatcher = Dispatcher()
    dispatcher.step()
    wait_for(lambda: len(running) == 2)
    dispatcher.step()
    assert sorted(Command.objects.values_list("state", flat=True)) == ["running", "running", "waiting"]
    go_on.set()
    wait_for(lambda: Command.objects.filter(state="done").count() == 2)
    dispatcher.step()
    wait_for(lambda: Command.objects.filter(state="done").count() == 3)
    dispatcher.pool.shutdown()
    assert max(most) == 2


@pytest.mark.django_db(transaction=True)
def test_it_ends_in_peace_when_its_node_is_removed_meanwhile(rig, host, caplog):
    host(lambda on_line: on_line("a line") or Node.objects.get().remove() or {})
    operations.run(Command.ask(rig, "daemon_down"))
    assert not Command.objects.exists()
    assert "Traceback" not in caplog.text


@pytest.mark.django_db(transaction=True)
def test_it_hands_a_command_to_one_thread_only(rig, host, monkeypatch):
    dispatcher, handed = Dispatcher(), []
    monkeypatch.setattr(dispatcher.pool, "submit", lambda function, command: handed.append(command.pk))
    Command.ask(rig, "server_stop")
    for _ in range(5):  # no thread is free
        dispatcher.step()
    assert len(handed) == 1


# What stays of it


@pytest.mark.django_db(transaction=True)
def test_its_payload_is_unreadable_on_the_disk_and_its_line_is_not(rig, host):
    host(lambda on_line: on_line("said-secret") or {"result": "result-secret"})
    operations.run(Command.ask(rig, "load", model="model-secret"))
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM fleet_command")
        row = cursor.fetchone()
    stored = b"|".join(bytes(value) if isinstance(value, bytes) else str(value).encode() for value in row)
    assert b"load" in stored
    assert b"secret" not in stored
    told = str(list(Event.objects.values_list("data", flat=True)))
    assert "secret" not in told
    row = Command.objects.get()
    assert (row.output, row.result, row.parameters) == (
        "said-secret\n", {"result": "result-secret"}, {"model": "model-secret"},
    )  # fmt: skip


def test_it_keeps_the_end_of_a_long_output(rig):
    command = Command.ask(rig, "daemon_update")
    command.claim()
    command.beat("a" * 100_000 + "the end")
    assert Command.objects.get().output.endswith("the end")
    assert len(Command.objects.get().output) == 100_000


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("reason", "state"), [(Reason.CUT, "interrupted"), (Reason.UNREACHABLE, "failed")])
def test_it_does_not_call_failed_what_it_cannot_know(rig, host, reason, state):
    def does(on_line):
        raise DaemonError(reason)

    rig.change(agent_url="http://127.0.0.1:9", agent_key="x")
    host(does)
    operations.run(Command.ask(rig, "daemon_update"))
    row = Command.objects.get()
    assert row.state == state
    assert ("Whether it took effect" in row.problem) is (state == "interrupted")
