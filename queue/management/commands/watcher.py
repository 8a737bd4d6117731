"""The watcher process."""

import logging
import signal
import threading

from django.core.management.base import BaseCommand

from ...watch import STEP_SECONDS, Watch

log = logging.getLogger(__name__)


class Command(BaseCommand):
    requires_system_checks = []  # `prepare` and `make check` run them; here they would only import every page
    help = "Probes nodes, rescues prompts of dead workers, tidies up. `up` starts it."

    def handle(self, *args, **options):
        told = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: told.set())
        watch = Watch()
        while not told.wait(STEP_SECONDS):
            try:
                watch.step()
            except Exception:
                log.exception("watch.step_failed")
        watch.pool.shutdown(wait=False, cancel_futures=True)
