"""The tail of the event log as a task."""

import asyncio
import socket

import pytest

from daemonpulse import wakeup
from daemonpulse.tail import Tail


class Listener:
    """Hears what is sent through a pair of sockets."""

    def __init__(self):
        self.ours, self.theirs = socket.socketpair()

    def fileno(self) -> int:
        return self.ours.fileno()

    def drain(self) -> bool:
        return bool(self.ours.recv(16))


@pytest.mark.parametrize("steps", range(8))
def test_it_ends_when_it_is_told_to_however_close_to_a_call(monkeypatch, steps):
    listener = Listener()
    monkeypatch.setattr(wakeup, "listen", lambda: listener)

    async def is_over() -> bool:
        tail = Tail()
        await tail.start()
        await asyncio.sleep(0.03)  # it waits for a call now
        listener.theirs.send(b"!")
        for _ in range(steps):
            await asyncio.sleep(0)
        tail.task.cancel()
        await asyncio.wait([tail.task], timeout=0.3)
        is_over = tail.task.done()
        tail.task.cancel()
        return is_over

    assert asyncio.run(is_over())
