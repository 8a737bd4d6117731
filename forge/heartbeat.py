"""Looking at nodes, each as often as it matters: one prober for all who want to know.

A look asks the daemon for its models, and its machine (this one, or its agent) for GPUs and memory; now and then
also for the state of LM Studio itself.
"""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from django.db import DatabaseError, connections
from django.utils import timezone

from daemonpulse.models.event import writing
from fleet import orphans
from fleet.daemons.errors import DaemonError
from fleet.heartbeat import Interest, period, status_period
from fleet.hosts import host_of
from fleet.lms.cli import LmsError
from fleet.models import ANSWERING, Node, Reading, Sample, State
from fleet.models.node import STALLED_SECONDS
from fleet.telemetry.readings import Machine
from forge import inventory
from forge.models import Model

log = logging.getLogger(__name__)

MAX_LOOKS = 16  # at the same time; a silent node holds its place for seconds
NEVER = -1e9


class Heartbeat:
    """`step()` starts the looks that are due; they run in threads, so that a slow node holds up no other."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(MAX_LOOKS, thread_name_prefix="look")
        self.looked_at: dict[int, float] = {}
        self.active_at: dict[int, float] = {}
        self.status_at: dict[int, float] = {}
        self.looking: dict[int, float] = {}  # node → since when

    def step(self, working: set[int], is_awaited: bool) -> None:
        """`working`: ids of nodes on which something runs; `is_awaited`: prompts wait for some node."""
        now = time.monotonic()
        for node in Node.objects.enabled():
            interest = self._interest(node, now, node.pk in working, is_awaited)
            if (since := self.looking.get(node.pk)) is not None:
                if now - since > STALLED_SECONDS and node.state == State.ONLINE:
                    node.late()
            elif now - self.looked_at.get(node.pk, NEVER) >= period(interest):
                self._begin(node, interest, now)

    def _begin(self, node: Node, interest: Interest, now: float) -> None:
        self.looked_at[node.pk] = self.looking[node.pk] = now
        rest = status_period(interest.is_answering, interest.is_watched)
        with_status = interest.is_wanted or now - self.status_at.get(node.pk, NEVER) >= rest
        if with_status:
            self.status_at[node.pk] = now
        self.pool.submit(self._look, node, with_status)

    def _interest(self, node: Node, now: float, is_working: bool, is_awaited: bool) -> Interest:
        is_watched = node.watched_until is not None and node.watched_until > timezone.now()
        if is_watched or is_working:
            self.active_at[node.pk] = now
        return Interest(
            is_wanted=node.look_wanted_at is not None,
            is_watched=is_watched,
            is_working=is_working,
            is_awaited=is_awaited,
            is_answering=node.state in ANSWERING,
            since_active=now - self.active_at.get(node.pk, NEVER),
        )

    def _look(self, node: Node, with_status: bool) -> None:
        try:
            look(node, with_status)
        except DatabaseError:
            log.exception("node.look_failed node=%s", node.pk)
            connections.close_all()  # this thread's; a broken one would stay broken
        except Exception:
            log.exception("node.look_failed node=%s", node.pk)
        finally:
            self.looking.pop(node.pk, None)


def look(node: Node, with_status: bool = False) -> bool:
    """Look at a node and at its machine, and keep what they say. True when the daemon answered."""
    wanted_at = node.look_wanted_at
    answer = inventory.ask(node)
    inventory.record(node, answer)
    machine, problem = read_machine(node)
    with suppress(Node.DoesNotExist), writing():
        if wanted_at is not None:
            Node.objects.filter(pk=node.pk, look_wanted_at=wanted_at).update(look_wanted_at=None)
        if not Node.objects.filter(pk=node.pk).exists():
            return False  # it was removed meanwhile
        keep_machine(node, machine, problem)
        Sample.take(node, answer.latency_seconds if answer.error is None else None, machine)
    if with_status and node.can_be_managed:
        keep_status(node)
    return answer.error is None


def read_machine(node: Node) -> tuple[Machine | None, str]:
    """The machine's figures, or None and why there are none (nothing to say where it cannot be asked at all)."""
    if not node.has_host:
        return None, ""
    try:
        return host_of(node).telemetry(), ""
    except DaemonError as error:
        return None, f"Its agent: {error.reason.explanation}" if node.agent_url else error.reason.explanation


def keep_machine(node: Node, machine: Machine | None, problem: str) -> None:
    if machine is None and not problem:
        return
    reading = Reading.of(node)
    if machine is None:
        reading.missed(problem)
        return
    reading.keep(machine)
    loaded = list(Model.objects.present().filter(node=node).values_list("loaded", flat=True))
    reading.note_orphans(orphans.find(machine, loaded))


def keep_status(node: Node) -> None:
    """What LM Studio's own command line says of it; it is asked in a way that starts nothing."""
    try:
        status = host_of(node).status()
    except (DaemonError, LmsError) as error:
        log.info("node.status_unknown node=%s error=%s", node.pk, type(error).__name__)
        return
    Reading.of(node).keep_status(status)
