"""What must happen without anybody asking: probe nodes, rescue prompts of dead workers, call a runner, tidy up.

`Watch.step()` does what is due and returns; the worker sleeps between steps, so that a test needs no clock.
"""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from django.core.management import call_command
from django.db import DatabaseError, connections
from django.utils import timezone

from daemonpulse.models import Event, SignInLink
from fleet.models import Node
from fleet.models import State as NodeState
from forge import inventory

from .models import Prompt, Runner
from .snapshot import make_plan

log = logging.getLogger(__name__)

STEP_SECONDS = 0.5
QUIET_SECONDS = 10.0  # between two looks at a node that nothing waits for
BUSY_SECONDS = 3.0  # while prompts run or wait
AWAITED_SECONDS = 0.5  # a node that is down and has prompts waiting for it
TIDY_SECONDS = 60.0
KEEP_EVENTS = timedelta(days=7)
KEEP_TRANSIENT_EVENTS = timedelta(minutes=2)
MAX_PROBES = 8


class Watch:
    def __init__(self):
        self.looked_at: dict[int, float] = {}
        self.tidied_at = 0.0
        self.pool = ThreadPoolExecutor(MAX_PROBES, thread_name_prefix="probe")
        self.probing: set[int] = set()

    def step(self) -> None:
        Prompt.rescue()
        self.probe_due()
        if not Runner.row().is_alive and make_plan().starts:
            Runner.call()
        if time.monotonic() - self.tidied_at > TIDY_SECONDS:
            self.tidied_at = time.monotonic()
            tidy()

    def probe_due(self) -> None:
        """Look at each node as often as it matters; a slow one does not hold up the others."""
        is_busy = Prompt.objects.open().exists()
        now = time.monotonic()
        for node in Node.objects.enabled():
            if node.pk in self.probing or now - self.looked_at.get(node.pk, -1e9) < interval(node, is_busy):
                continue
            self.looked_at[node.pk] = now
            self.probing.add(node.pk)
            self.pool.submit(self._probe, node)

    def _probe(self, node: Node) -> None:
        try:
            inventory.look(node)
        except DatabaseError:
            log.exception("node.probe_failed node=%s", node.pk)
            connections.close_all()  # this thread's; a broken one would stay broken
        except Exception:
            log.exception("node.probe_failed node=%s", node.pk)
        finally:
            self.probing.discard(node.pk)


def interval(node: Node, is_busy: bool) -> float:
    """Seconds between two looks at a node."""
    if not is_busy:
        return QUIET_SECONDS
    return BUSY_SECONDS if node.state == NodeState.ONLINE else AWAITED_SECONDS


def tidy() -> None:
    """Remove what nobody reads any more."""
    now = timezone.now()
    transient = Event.objects.filter(kind__in=Event.TRANSIENT_KINDS, at__lt=now - KEEP_TRANSIENT_EVENTS)
    transient.delete()
    Event.objects.filter(at__lt=now - KEEP_EVENTS).delete()
    SignInLink.objects.filter(expires_at__lt=now - KEEP_EVENTS).delete()
    call_command("clearsessions")
