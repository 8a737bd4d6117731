"""Hands waiting commands to threads: several at a time, but one at a time for each node."""

import logging
from concurrent.futures import ThreadPoolExecutor

from django.db import close_old_connections

from fleet import operations
from fleet.models import Command

log = logging.getLogger(__name__)

MAX_RUNNING = 4


class Dispatcher:
    """`step()` starts what can start and returns."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(MAX_RUNNING, thread_name_prefix="command")
        self.handed: set = set()  # pks that have a thread, or wait for one

    def step(self) -> set[int]:
        """Start what can start; returns the ids of the nodes on which a command runs or waits."""
        open_ones = list(Command.objects.open().select_related("node").order_by("asked_at"))
        if any(command.is_lost for command in open_ones):
            Command.rescue()
        busy = {c.node_id for c in open_ones if c.state == Command.State.RUNNING or c.pk in self.handed}
        for command in open_ones:
            if command.state == Command.State.WAITING and command.node_id not in busy:
                busy.add(command.node_id)
                self.handed.add(command.pk)
                self.pool.submit(self._run, command)
        return busy

    def _run(self, command: Command) -> None:
        try:
            close_old_connections()
            operations.run(command)
        except Exception:
            log.exception("command.lost command=%s", command.pk)
        finally:
            self.handed.discard(command.pk)
