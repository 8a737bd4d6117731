"""The worker process: django-q2's cluster, and beside it the watch (queue/watch.py)."""

import logging
import os
import signal
import time
from threading import Thread

from django.core.management.base import BaseCommand
from django.db import close_old_connections

from daemonpulse import lifeline, wakeup

from ... import stopping
from ...models import Runner
from ...snapshot import make_plan
from ...watch import STEP_SECONDS, Watch

log = logging.getLogger(__name__)

STUCK_SECONDS = 12.0
EXIT_STUCK = 70
CALL_SECONDS = 0.1


class Command(BaseCommand):
    requires_system_checks = []  # `prepare` and `make check` run them; here they would only import every page
    help = "Runs prompts (django-q2's cluster) and watches nodes. `up` starts it; alone it serves a worker host."

    def handle(self, *args, **options):
        import requests  # noqa: F401 - before the pool is forked, which shares its pages then
        from django_q.cluster import Cluster

        lifeline.end_children_with_this_process()
        stopping.prepare()
        self.is_told = False
        cluster = Cluster()  # takes over the signals, which must first reach the runner
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.told)
        cluster.start()
        is_stuck = self.watch_until_told_or_stuck()
        stopping.stop()
        wakeup.notify()
        if is_stuck:
            os._exit(EXIT_STUCK)  # without waiting for the pool, which dies with this process; `up` starts another
        end(cluster)

    def told(self, number, frame):
        self.is_told = True

    def watch_until_told_or_stuck(self) -> bool:
        """Do what must happen without anybody asking. True when a runner was called for and none came.

        A pool process that is killed while it waits for work takes the lock of the pool's queue with it, and
        then no other process of the pool ever gets a task.
        """
        watch, waiting_since = Watch(), None
        while not self.is_told:
            time.sleep(STEP_SECONDS)
            close_old_connections()
            try:
                watch.step()
                runner = Runner.row()
                is_waiting = not runner.is_alive and runner.called_at is not None and bool(make_plan().starts)
            except Exception:  # such as a database that is being restarted
                log.exception("watch.step_failed")
                continue
            waiting_since = (waiting_since or time.monotonic()) if is_waiting else None
            if waiting_since and time.monotonic() - waiting_since > STUCK_SECONDS:
                return True
        return False


def end(cluster) -> None:
    """Stop it. Its pusher sleeps in the broker until it is called, and only then sees that it is to end."""
    ending = Thread(target=cluster.stop)
    ending.start()
    while ending.is_alive():
        wakeup.notify()
        ending.join(CALL_SECONDS)
