"""Writers take turns: between transactions, threads and processes, whatever becomes of them."""

import fcntl
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from daemonpulse.models import ApiToken, Event
from tests.conftest import wait_for

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 30

# SQLite itself does not wait here: without turns a second writer fails at once.
WRITER = """
import os, sys, threading, time
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "daemonpulse.sqlite", "NAME": sys.argv[1], "OPTIONS": {
    "transaction_mode": "IMMEDIATE", "timeout": 0, "init_command": "PRAGMA synchronous=OFF"}}})
from django.db import connection, transaction

def add():
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT n FROM counter")
        n = cursor.fetchone()[0]
        cursor.execute("UPDATE counter SET n = %s", [n + 1])

def hold(wait):
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE counter SET n = n + 1")
        print("holding", flush=True)
        wait()
    connection.close()
"""


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "counter.sqlite3"
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("CREATE TABLE counter (n INTEGER)")
        file.execute("INSERT INTO counter VALUES (0)")
    file.close()
    return path


@pytest.fixture
def start(database):
    """start(code) runs it after WRITER in a process of its own."""
    started = []

    def start(code):
        command = [sys.executable, "-c", WRITER + code, str(database)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def counted(database):
    file = sqlite3.connect(database)
    try:
        return file.execute("SELECT n FROM counter").fetchone()[0]
    finally:
        file.close()


def is_free(database):
    """Nobody holds the turn to write."""
    with Path(f"{database}.turn").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# Between processes and threads


def test_it_counts_every_transaction_of_four_processes(start, database):
    writers = [start("for _ in range(250): add()") for _ in range(4)]
    assert [writer.wait(LIMIT_SECONDS) for writer in writers] == [0, 0, 0, 0]
    assert counted(database) == 1000


def test_it_counts_every_transaction_of_four_threads(start, database):
    writer = start(
        "failed = []\n"
        "threading.excepthook = failed.append\n"
        "threads = [threading.Thread(target=lambda: [add() for _ in range(100)]) for _ in range(4)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "sys.exit(len(failed))"
    )
    assert writer.wait(LIMIT_SECONDS) == 0
    assert counted(database) == 400


def test_it_waits_for_a_writer_of_another_process(start, database):
    holder = start("hold(sys.stdin.read)")
    assert holder.stdout.readline() == "holding\n"
    assert not is_free(database)
    waiting = start("print('asks', flush=True); add()")
    assert waiting.stdout.readline() == "asks\n"
    time.sleep(0.5)
    assert waiting.poll() is None
    holder.stdin.close()
    assert waiting.wait(LIMIT_SECONDS) == 0
    assert counted(database) == 2


def test_it_takes_the_turn_back_from_a_writer_that_was_killed(start, database):
    holder = start("hold(sys.stdin.read)")
    assert holder.stdout.readline() == "holding\n"
    waiting = start("print('asks', flush=True); add()")
    assert waiting.stdout.readline() == "asks\n"
    time.sleep(0.5)
    assert waiting.poll() is None
    holder.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    assert waiting.wait(LIMIT_SECONDS) == 0
    assert time.monotonic() - killed_at < 3
    assert counted(database) == 1


def test_it_lets_a_forked_child_write_that_was_born_in_the_turn_of_another_thread(start, database):
    """Only the turn is held at the fork: SQLite itself bears no fork while its own locks are held."""
    parent = start(
        "from daemonpulse.sqlite.turns import turns_of\n"
        "turns = turns_of(sys.argv[1])\n"
        "def hold_turn(): turns.take(); time.sleep(0.5); turns.give_back()\n"
        "thread = threading.Thread(target=hold_turn); thread.start()\n"
        "time.sleep(0.2)\n"
        "if (child := os.fork()) == 0:\n"
        "    add(); os._exit(0)\n"
        "thread.join(); add()\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert parent.wait(LIMIT_SECONDS) == 0
    assert counted(database) == 2


def test_it_lets_no_forked_child_keep_the_turn_of_its_parent(start, database):
    """The child inherits the parent's open lock file; its life must not prolong the turn."""
    parent = start(
        "add()\n"
        "thread = threading.Thread(target=hold, args=(lambda: time.sleep(0.4),)); thread.start()\n"
        "time.sleep(0.2)\n"
        "if (child := os.fork()) == 0:\n"
        "    time.sleep(30); os._exit(0)\n"
        "thread.join()\n"
        "add(); print('added', flush=True); os.kill(child, 9)"
    )
    assert parent.stdout.readline() == "holding\n"
    assert parent.stdout.readline() == "added\n"
    assert counted(database) == 3


def test_it_does_not_keep_readers_waiting(start, database):
    holder = start("hold(sys.stdin.read)")
    assert holder.stdout.readline() == "holding\n"
    reader = start("cursor = connection.cursor(); cursor.execute('SELECT n FROM counter'); print(cursor.fetchone()[0])")
    assert reader.stdout.readline() == "0\n"


# Within one process, on the project's own database


@pytest.fixture
def own(transactional_db):
    """Is the turn of the project's database free?"""
    path = connection.settings_dict["NAME"]
    Event.objects.all().delete()
    return lambda: is_free(path)


def write():
    Event.objects.create(kind="test.made", subject="1")


def test_it_holds_the_turn_for_as_long_as_the_outermost_transaction(own):
    with transaction.atomic():
        assert not own()
        with transaction.atomic():
            write()
        assert not own()
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            write()
            raise ZeroDivisionError
        assert not own()
        write()
    assert own()
    assert Event.objects.count() == 2


def test_it_gives_the_turn_back_after_an_exception(own):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        write()
        raise ZeroDivisionError
    assert own()
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")
    assert own()
    assert not Event.objects.exists()
    with transaction.atomic():
        write()
    assert own()


def test_it_gives_the_turn_back_after_a_commit_that_failed(own):
    """Foreign keys are checked at the commit."""
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiToken.objects.create(user_id=999_999, name="x", secret_hash="x", hint="x")
    assert own()
    with transaction.atomic():
        write()
    assert own()


def test_it_gives_the_turn_back_when_the_connection_is_closed(own):
    with pytest.raises(DatabaseError), transaction.atomic():
        write()
        connection.close()
        write()
    assert wait_for(own, 1)
    with transaction.atomic():
        write()
    assert Event.objects.count() == 1


def test_it_gives_the_turn_back_when_the_transaction_cannot_begin(own, monkeypatch):
    """Another program, which knows of no turns, holds the database."""
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 50")
    with pytest.raises(DatabaseError, match="locked"), transaction.atomic():
        pass
    assert own()
    other.execute("ROLLBACK")
    other.close()
    with transaction.atomic():
        write()
    connection.close()


def test_it_gives_the_turn_back_after_an_explicit_rollback(own):
    with transaction.atomic():
        write()
        transaction.set_rollback(True)
    assert own()
    assert not Event.objects.exists()
