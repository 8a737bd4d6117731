"""Loads that a prompt needs before it can run: the same command as a person's, run where the prompt is."""

import threading
from collections.abc import Callable

from django.db import connections

from fleet import operations
from fleet.daemons.errors import DaemonError, LoadCancelled, Reason
from fleet.models import Command, Node
from fleet.models.command import LOAD
from forge.eviction import Why
from forge.loading import NoRoom
from forge.wishes import FOR_QUEUE


class QueueLoad:
    """`run()` in a thread of its own, `call_off()` from any other."""

    def __init__(self, node: Node, model: str, may_take_wanted: bool = False):
        self.node, self.model, self.may_take_wanted = node, model, may_take_wanted
        self.command: Command | None = None
        self.called_off = threading.Event()

    def run(self, on_progress: Callable[[float], None]) -> None:
        """Load the model with its saved profile. Raises DaemonError, with the engine's own line where there is one.

        1. Ask for it, as a row that everybody sees. 2. Do it, unless the worker was faster. 3. While the node is busy
        with another command, wait for its end.
        """
        try:
            wish = {"model": self.model, "for": FOR_QUEUE, "may_take_wanted": self.may_take_wanted}
            self.command = Command.ask(self.node, LOAD, **wish)  # 1
            while self.command.is_open:
                if self.called_off.is_set():
                    self.command.cancel()
                elif operations.run(self.command, on_progress=on_progress, cancelled=self.called_off):  # 2
                    break
                operations.wait(self.command)  # 3
            self._check()
        finally:
            connections.close_all()  # this thread's

    def call_off(self) -> None:
        """It is not wanted any more; a channel that cannot be called off loads to the end."""
        self.called_off.set()

    def _check(self) -> None:
        command = self.command
        if isinstance(command.error, DaemonError):
            raise command.error
        if command.state == Command.State.DONE:
            return
        command.refresh_from_db()
        if self.called_off.is_set() or command.cancel_wanted_at is not None:
            raise LoadCancelled
        if command.result.get("can_pass"):
            raise NoRoom(command.result["detail"], (("", Why.BUSY),))
        if "reason" in command.result:  # the worker ran it
            raise DaemonError(Reason(command.result["reason"]), command.result["detail"])
        raise DaemonError(Reason.LOAD_FAILED, command.problem)
