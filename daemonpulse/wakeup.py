"""Wake-up calls between the processes of an installation.

The database is the truth; this only says "look again, now". A call that is lost costs a moment, because every
listener also looks by itself after its time-out.

On SQLite each listener is a Unix datagram socket in the meeting folder and `notify()` sends a byte to each:
0.1 ms from commit to awake, and nothing to do while nothing happens (polling `PRAGMA data_version` costs 5 ms
in the middle and wakes an idle machine a hundred times a second). On PostgreSQL it is LISTEN/NOTIFY, which
also reaches other hosts. Where neither exists (Windows with SQLite) listeners look 50 times a second.
"""

import contextlib
import os
import secrets
import select
import socket
import time
from pathlib import Path

from django.db import connection, transaction

from daemonpulse import paths

CHANNEL = "daemonpulse"
POLL_SECONDS = 0.02


# What a call says: a state changed, or only output grew (which nobody but viewers needs to look at).
LASTING, TRANSIENT = b"!", b"."


def notify_on_commit(lasting: bool = True) -> None:
    """Wake every listener once the current transaction has committed (once per transaction and kind of call)."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:  # delivered by the server at commit
            cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, "!" if lasting else "."])
        return
    call = notify if lasting else notify_output
    if not any(entry[1] is call for entry in connection.run_on_commit):
        transaction.on_commit(call, robust=True)  # what is committed is accepted, whatever becomes of the call


def notify_output() -> None:
    notify(TRANSIENT)


def notify(call: bytes = LASTING) -> None:
    """Send a byte to every listening socket of this installation; remove those whose process is gone."""
    if not hasattr(socket, "AF_UNIX"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, os.scandir(paths.meeting_dir()) as entries:
        sender.setblocking(False)
        for entry in entries:
            if not entry.name.endswith(".wake") or entry.name in _deaf_to_self:
                continue
            try:
                sender.sendto(call, entry.path)
            except (ConnectionRefusedError, FileNotFoundError):
                with contextlib.suppress(FileNotFoundError):
                    Path(entry.path).unlink()
            except BlockingIOError:
                pass  # its buffer is full of calls: it will look anyway


# Listeners of this process that need not hear of its own changes.
_deaf_to_self: set[str] = set()


def listen(hear_self: bool = True):
    """A listener for this database; close it when done. `hear_self=False` spares it this process's own calls
    where that can be told.

    `wait(seconds)` returns at the first call or after the time; `drain()` takes what has come without
    waiting. Both say whether a call was of a lasting change.
    """
    if connection.vendor == "postgresql":
        return PostgresListener()
    return SocketListener(hear_self) if hasattr(socket, "AF_UNIX") else PollingListener()


class SocketListener:
    def __init__(self, hear_self: bool = True):
        self.path = paths.meeting_dir() / f"{os.getpid()}-{secrets.token_hex(4)}.wake"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.setblocking(False)
        if not hear_self:
            _deaf_to_self.add(self.path.name)

    def fileno(self) -> int:
        return self.socket.fileno()

    def wait(self, seconds: float) -> bool:
        ready, _, _ = select.select([self.socket], [], [], max(0.0, seconds))
        return self.drain() if ready else False

    def drain(self) -> bool:
        """Take all calls at once: ten commits are one reason to look."""
        is_lasting = False
        with contextlib.suppress(BlockingIOError):
            while call := self.socket.recv(16):
                is_lasting |= call == LASTING
        return is_lasting

    def close(self) -> None:
        self.socket.close()
        _deaf_to_self.discard(self.path.name)
        self.path.unlink(missing_ok=True)


class PostgresListener:
    """A connection of its own that LISTENs; pooled connections would lose calls between queries."""

    def __init__(self):
        import psycopg

        parameters = connection.get_connection_params()
        keep = {key: parameters[key] for key in ("dbname", "user", "password", "host", "port") if parameters.get(key)}
        self.connection = psycopg.connect(**keep, autocommit=True)
        self.connection.execute(f"LISTEN {CHANNEL}")

    def fileno(self) -> int:
        return self.connection.fileno()

    def wait(self, seconds: float) -> bool:
        calls = list(self.connection.notifies(timeout=max(0.0, seconds), stop_after=1))
        return any(call.payload == "!" for call in calls) | self.drain()

    def drain(self) -> bool:
        calls = list(self.connection.notifies(timeout=0))  # all of them, not up to the first
        return any(call.payload == "!" for call in calls)

    def close(self) -> None:
        self.connection.close()


class PollingListener:
    """No sockets to wait on: pretend a call came after a short sleep."""

    def fileno(self) -> None:
        return None

    def wait(self, seconds: float) -> bool:
        time.sleep(min(POLL_SECONDS, max(0.0, seconds)))
        return True

    def drain(self) -> bool:
        return True

    def close(self) -> None:
        pass
