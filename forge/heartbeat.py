"""Looking at nodes, each as often as it matters: one prober for all who want to know.

A look asks the daemon for its models, and its machine (this one, or its agent) for GPUs and memory; now and then
also for the state of LM Studio itself.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from django.db import DatabaseError, connections
from django.db.models import Q
from django.utils import timezone

from daemonpulse.models.event import writing
from fleet import orphans
from fleet.daemons.errors import DaemonError
from fleet.heartbeat import Interest, period, status_period
from fleet.hosts import explain, host_of
from fleet.lms.cli import LmsError
from fleet.models import ANSWERING, Kind, Node, Reading, Sample, State
from fleet.models.node import STALLED_SECONDS
from fleet.telemetry.readings import Machine
from forge import files, inventory, states
from forge.models import Instance, Model, Origin

log = logging.getLogger(__name__)

MAX_THREADS = 16  # a silent node holds one for seconds
NEVER = -1e9
NEW_SECONDS = 30.0  # a copy that somebody else loaded: who it was is asked for so long


class Heartbeat:
    """`step()` starts the looks that are due. They run in threads: a slow node or machine holds up no other."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="look")
        self.looked_at: dict[int, float] = {}
        self.active_at: dict[int, float] = {}
        self.status_at: dict[int, float] = {}
        # (what is asked, node) → since when, None while it waits for a thread
        self.running: dict[tuple[str, int], float | None] = {}

    def step(self, working: set[int], is_awaited: bool) -> None:
        """`working`: ids of nodes on which something runs; `is_awaited`: prompts wait for some node."""
        now = time.monotonic()
        nodes = Node.objects.filter(Q(is_enabled=True) | Q(look_wanted_at__isnull=False))
        for node in nodes.defer("token", "agent_key", "notes"):  # decrypted only when they are needed
            interest = self._interest(node, now, node.pk in working, is_awaited)
            if ("daemon", node.pk) in self.running:
                since = self.running["daemon", node.pk]
                if since is not None and now - since > STALLED_SECONDS and node.state == State.ONLINE:
                    node.late()
            elif now - self.looked_at.get(node.pk, NEVER) >= period(interest):
                self._look(node, interest, now)

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

    def _look(self, node: Node, interest: Interest, now: float) -> None:
        self.looked_at[node.pk] = now
        node.looked()
        self._start("daemon", node, self._ask)
        rest = status_period(interest.is_answering, interest.is_watched)
        is_due = interest.is_wanted or now - self.status_at.get(node.pk, NEVER) >= rest
        if is_due and node.can_be_managed:
            self.status_at[node.pk] = now
            self._start("status", node, keep_status)

    def _ask(self, node: Node) -> None:
        answer = ask_daemon(node)
        if answer.error is None:
            self._look_closer(node)
        if not self._start("machine", node, keep_machine, answer):
            Sample.take(node, answer.latency_or_none, None)  # its machine has not answered the last time yet

    def _look_closer(self, node: Node) -> None:
        """What its copies do for others, while somebody looks or one of them is new; what its models take, once."""
        if not states.can_tell(node):
            return
        copies = Instance.objects.of(node)
        is_watched = node.watched_until is not None and node.watched_until > timezone.now()
        if copies.exists() if is_watched else copies.filter(origin=Origin.ELSEWHERE, loaded_at__gt=recently()).exists():
            self._start("states", node, states.refresh)
        if files.unsized(node).exists() or files.has_unguessed(node):
            self._start("files", node, files.fill)

    def _start(self, what: str, node: Node, function: Callable, *args) -> bool:
        """Run it in a thread, unless it still runs for this node."""
        if (what, node.pk) in self.running:
            return False
        self.running[what, node.pk] = None
        self.pool.submit(self._run, what, node, function, *args)
        return True

    def _run(self, what: str, node: Node, function: Callable, *args) -> None:
        self.running[what, node.pk] = time.monotonic()
        try:
            function(node, *args)
        except DatabaseError:
            log.exception("node.look_failed what=%s node=%s", what, node.pk)
            connections.close_all()  # this thread's; a broken one would stay broken
        except Exception:
            log.exception("node.look_failed what=%s node=%s", what, node.pk)
        finally:
            del self.running[what, node.pk]


def recently():
    """A copy that was first seen after this is new."""
    return timezone.now() - timedelta(seconds=NEW_SECONDS)


def ask_daemon(node: Node) -> inventory.Answer:
    """Ask the daemon for its models, and keep what it says."""
    answer = inventory.ask(node)
    inventory.record(node, answer)
    return answer


def keep_machine(node: Node, answer: inventory.Answer) -> None:
    """Ask the machine for its figures, and keep them with how fast the daemon has just answered."""
    machine, problem = read_machine(node)
    with writing():
        if not Node.objects.filter(pk=node.pk).exists():
            return  # it was removed meanwhile
        if machine is not None or problem:
            _keep(Reading.of(node), node, machine, problem, answer)
        Sample.take(node, answer.latency_or_none, machine)


def read_machine(node: Node) -> tuple[Machine | None, str]:
    """The machine's figures, or None and why there are none (nothing to say where it cannot be asked at all)."""
    if not node.has_host:
        return None, ""
    try:
        return host_of(node).telemetry(), ""
    except DaemonError as error:
        return None, explain(error, node)


def _keep(reading: Reading, node: Node, machine: Machine | None, problem: str, answer: inventory.Answer) -> None:
    if machine is None:
        reading.missed(problem)
        return
    reading.keep(machine)
    knows_loaded = answer.error is None and node.kind == Kind.LMSTUDIO and not node.has_simulated_machine
    loaded = Model.objects.present().filter(node=node).values_list("loaded", flat=True) if knows_loaded else []
    reading.note_orphans(orphans.find(machine, list(loaded)))


def keep_status(node: Node) -> None:
    """What LM Studio's own command line says of it; it is asked in a way that starts nothing."""
    try:
        status = host_of(node).status()
    except (DaemonError, LmsError) as error:
        log.info("node.status_unknown node=%s error=%s", node.pk, type(error).__name__)
        status = None
    if Node.objects.filter(pk=node.pk).exists():
        Reading.of(node).keep_status(status)
