"""Wake-up calls between processes (SQLite: Unix sockets in the meeting folder)."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from django.db import transaction

from daemonpulse import paths, wakeup
from daemonpulse.models.event import record

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.django_db(transaction=True)

# A process of this installation with a database of its own: one commit for each line on its standard input.
COMMITTER = """
import sys, time
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "daemonpulse.sqlite", "NAME": sys.argv[1]}})
from django.db import connection, transaction
from daemonpulse import wakeup
with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE note (n)")
print("ready", flush=True)
for line in sys.stdin:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("INSERT INTO note VALUES (1)")
        wakeup.notify_on_commit()
    print(time.monotonic(), flush=True)
"""


@pytest.fixture
def listener():
    listener = wakeup.listen()
    yield listener
    listener.close()


@pytest.fixture
def committer(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMITTER, str(tmp_path / "other.sqlite3")],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def ask_for_commit(process):
    process.stdin.write("\n")
    process.stdin.flush()


def calls(listener):
    """What came since, each call by itself."""
    came = []
    try:
        while True:
            came.append(listener.socket.recv(16))
    except BlockingIOError:
        return came


def test_it_wakes_a_listener_of_another_process_at_once(listener, committer):
    late = []
    for _ in range(10):
        ask_for_commit(committer)
        assert listener.wait(60)
        woken_at = time.monotonic()
        late.append(woken_at - float(committer.stdout.readline()))
    assert statistics.median(late) < 0.05


def test_it_wakes_after_the_commit_and_not_before(listener):
    with transaction.atomic():
        record("test.made", 1)
        assert not listener.wait(0.02)
    assert listener.wait(1)


def test_it_wakes_nobody_for_what_is_rolled_back(listener):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        record("test.made", 1)
        raise ZeroDivisionError
    assert not listener.wait(0.02)


def test_it_wakes_for_the_rest_when_a_part_is_rolled_back(listener):
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            record("test.made", 1)
            raise ZeroDivisionError
        record("test.made", 2)
    assert listener.wait(1)


def test_it_calls_once_for_a_transaction(listener):
    with transaction.atomic():
        for n in range(20):
            record("test.made", n)
    assert calls(listener) == [wakeup.LASTING]


def test_it_tells_growing_output_from_a_change(listener):
    record("prompt.output", 1)
    assert calls(listener) == [wakeup.TRANSIENT]
    record("prompt.output", 1)
    assert listener.wait(1) is False
    with transaction.atomic():
        record("prompt.output", 1)
        record("prompt.finished", 1)
    assert listener.wait(1) is True


def test_it_takes_many_calls_for_one(listener):
    for _ in range(5):
        wakeup.notify()
    assert listener.wait(1)
    assert not listener.wait(0.01)
    assert listener.drain() is False


def test_it_waits_no_longer_than_told(listener):
    took = []
    for _ in range(3):
        started = time.monotonic()
        assert listener.wait(0.1) is False
        took.append(time.monotonic() - started)
    assert 0.09 < min(took) < 0.6
    assert listener.wait(-1) is False


def test_it_never_waits_for_a_listener_that_does_not_listen(listener):
    started = time.monotonic()
    for _ in range(2000):
        wakeup.notify()
    assert time.monotonic() - started < 5
    assert listener.wait(1)


def test_it_wakes_all_listeners():
    listeners = [wakeup.listen() for _ in range(3)]
    wakeup.notify()
    assert [listener.wait(1) for listener in listeners] == [True] * 3
    for listener in listeners:
        listener.close()


def test_it_leaves_no_socket_behind(listener):
    other = wakeup.listen()
    assert other.path.exists()
    other.close()
    assert not other.path.exists()
    wakeup.notify()
    assert listener.wait(1)


def test_it_removes_the_socket_of_a_dead_process(listener):
    code = "from daemonpulse.wakeup import SocketListener; import os; SocketListener(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    left = [path for path in paths.meeting_dir().glob("*.wake") if not path.name.startswith(f"{os.getpid()}-")]
    assert len(left) == 1
    wakeup.notify()
    assert not left[0].exists()
    assert listener.wait(1)


def test_it_can_be_deaf_to_its_own_process(committer):
    deaf = wakeup.listen(hear_self=False)
    try:
        record("test.made", 1)
        assert not deaf.wait(0.02)
        ask_for_commit(committer)
        assert deaf.wait(60)
    finally:
        deaf.close()
    again = wakeup.listen()
    wakeup.notify()
    assert again.wait(1)
    again.close()


def test_it_meets_in_a_private_folder_with_a_short_name():
    folder = paths.meeting_dir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(str(folder)) < 60


def test_it_meets_elsewhere_for_another_installation(monkeypatch, tmp_path):
    here = paths.meeting_dir()
    monkeypatch.setenv(paths.ENVIRONMENT_VARIABLE, str(tmp_path))
    other = paths.meeting_dir()
    assert other != here
    other.rmdir()
