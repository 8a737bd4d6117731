"""Downloads: owned by this server, done by a node."""

from datetime import timedelta

from django.conf import settings
from django.db import models
from django.utils import timezone

from daemonpulse.models.event import record, writing
from fleet.models import ANSWERING, Node

STALLED_AFTER = timedelta(seconds=60)  # without a byte
ASKED_LEASE = timedelta(seconds=30)


class State(models.TextChoices):
    """One sentence each on how a download enters it."""

    WAITING = "waiting"  # asked for; it starts when its node has fewer than its limit under way
    ASKED = "asked"  # the node is being told; a worker that dies here leaves it to the next one
    DOWNLOADING = "downloading"  # the node took it
    PAUSED = "paused"  # the node says so: somebody paused it in LM Studio
    DONE = "done"  # the node has it, from now or from before
    FAILED = "failed"  # `problem` says why
    CANCELLED = "cancelled"  # taken back before the node was told


OPEN = (State.WAITING, State.ASKED, State.DOWNLOADING, State.PAUSED)
UNDER_WAY = (State.ASKED, State.DOWNLOADING)  # what counts against a node's limit
AT_THE_NODE = (State.DOWNLOADING, State.PAUSED)  # it has a job for it
# What is said of a download that the node has no job for.
NOT_BEGUN = {"job_id": ""} | dict.fromkeys(
    ("downloaded_bytes", "bytes_per_second", "finishes_at", "moved_at", "checked_at")
)
MOVES = {
    State.WAITING: {State.ASKED, State.CANCELLED, State.FAILED},
    State.ASKED: {State.WAITING, State.DOWNLOADING, State.PAUSED, State.DONE, State.FAILED},
    State.DOWNLOADING: {State.WAITING, State.PAUSED, State.DONE, State.FAILED},
    State.PAUSED: {State.WAITING, State.DOWNLOADING, State.DONE, State.FAILED},
    State.FAILED: {State.WAITING},
    State.CANCELLED: {State.WAITING},
    State.DONE: set(),
}


class DownloadQuerySet(models.QuerySet):
    def open(self):
        return self.filter(state__in=OPEN)

    def ended(self):
        return self.exclude(state__in=OPEN)

    def under_way(self):
        return self.filter(state__in=UNDER_WAY)


class Download(models.Model):
    """One model for one node. Only move() writes its state; `source` is a catalogue name or a repository's address.

    What the node has not told is None. `problem` says why it failed, and while it is open why the node could not be
    asked the last time; `caution` that its disk may be too small.
    """

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="downloads")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL)
    source = models.CharField(max_length=500)
    quantization = models.CharField(max_length=40, blank=True, default="")
    state = models.CharField(max_length=12, choices=State, default=State.WAITING, editable=False)
    job_id = models.CharField(max_length=200, blank=True, default="", editable=False)
    total_bytes = models.BigIntegerField(null=True)
    downloaded_bytes = models.BigIntegerField(null=True)
    bytes_per_second = models.FloatField(null=True)
    finishes_at = models.DateTimeField(null=True)
    moved_at = models.DateTimeField(null=True)  # when it was first seen to have as many bytes as it has
    checked_at = models.DateTimeField(null=True)  # when the node last said how far it is; while it is asked: a beat
    asked_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)  # when the node was told, the last time
    finished_at = models.DateTimeField(null=True)
    problem = models.CharField(max_length=500, blank=True, default="")
    caution = models.CharField(max_length=300, blank=True, default="")
    restarts = models.PositiveSmallIntegerField(default=0)  # how often it had to be begun anew by itself

    State = State
    objects = DownloadQuerySet.as_manager()

    class Meta:
        ordering = ["-asked_at"]
        indexes = [models.Index(fields=["state", "asked_at"], name="downloads_by_state")]
        constraints = [
            models.UniqueConstraint(
                fields=["node", "source", "quantization"],
                condition=models.Q(state__in=OPEN),
                name="one_open_download_of_each",
            )
        ]

    def __str__(self):
        return f"{self.name} for {self.node}"

    @property
    def dom_id(self) -> str:
        return f"download-{self.pk}"

    @property
    def name(self) -> str:
        """The source as people call it: "owner/name"."""
        return "/".join(self.source.rstrip("/").split("://")[-1].split("/")[-2:])

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def is_answered(self) -> bool:
        """Its node answers, also where it is switched off."""
        return self.node.state in ANSWERING

    @property
    def is_at_the_node(self) -> bool:
        """The node has a job for it; this server cannot take it back (contract §2.5)."""
        return self.state in AT_THE_NODE

    @property
    def is_lost(self) -> bool:
        """The node was to be told of it, but whoever did that has not been heard of since."""
        last = self.checked_at or self.started_at
        return self.state == State.ASKED and last < timezone.now() - ASKED_LEASE

    @property
    def can_be_retried(self) -> bool:
        return self.state in (State.FAILED, State.CANCELLED)

    @property
    def fraction(self) -> float | None:
        if self.downloaded_bytes is None or not self.total_bytes:
            return None
        return min(self.downloaded_bytes / self.total_bytes, 1.0)

    @property
    def percent(self) -> int | None:
        """Whole percent, rounded down: 100 is said of what is complete alone."""
        return None if self.fraction is None else int(100 * self.fraction)

    @property
    def time_left(self) -> timedelta | None:
        return None if self.finishes_at is None else max(self.finishes_at - timezone.now(), timedelta())

    @property
    def is_stalled(self) -> bool:
        """No byte had come for a minute when the node last answered; False where it does not tell how many have."""
        if self.state != State.DOWNLOADING or None in (self.downloaded_bytes, self.moved_at, self.checked_at):
            return False
        return self.checked_at - self.moved_at >= STALLED_AFTER

    @classmethod
    def ask(cls, node: Node, source: str, quantization: str = "", user=None, size_bytes: int | None = None):
        """Have a node download a model; the same one that is open already is not asked for twice.

        `size_bytes`: its size, where that is known beforehand.
        """
        with writing():
            same = cls.objects.open().filter(node=node, source=source, quantization=quantization).first()
            if same is not None:
                return same
            wish = {"source": source, "quantization": quantization, "total_bytes": size_bytes}
            row = cls.objects.create(node=node, user=user, **wish)
            record("download.asked", row.pk, node=node.pk)
        return row

    def claim(self, limit: int) -> bool:
        """Take it, to tell the node of it. False: somebody else has it, or the node has its limit under way."""
        with writing():
            if Download.objects.under_way().filter(node=self.node_id).count() >= limit:
                return False
            return self.move(State.ASKED, started_at=timezone.now(), problem="")

    def give_back(self, problem: str = "", is_restart: bool = False) -> bool:
        """The node has no job for it: it waits again, to be begun anew."""
        return self.move(State.WAITING, problem=problem[:500], restarts=self.restarts + is_restart, **NOT_BEGUN)

    def finish(self, total_bytes: int | None = None) -> bool:
        """The node has it, and its models are looked at anew."""
        now = timezone.now()
        total = total_bytes or self.total_bytes
        got = {"total_bytes": total, "downloaded_bytes": self.downloaded_bytes if total is None else total}
        ended = {"bytes_per_second": None, "finishes_at": None, "checked_at": now, "finished_at": now}
        if not self.move(State.DONE, problem="", caution="", **got, **ended):
            return False
        self.node.want_look()
        return True

    def fail(self, problem: str) -> bool:
        ended = {"bytes_per_second": None, "finishes_at": None, "finished_at": timezone.now()}
        return self.move(State.FAILED, problem=problem[:500], **ended)

    def cancel(self) -> bool:
        """Take it back before the node was told; False when it is too late for that."""
        return self.state == State.WAITING and self.move(State.CANCELLED, finished_at=timezone.now())

    def retry(self) -> bool:
        """Ask for it again, with its tries counted anew; False when it has not failed, or the same one is open."""
        if not self.can_be_retried:
            return False
        fresh = {"asked_at": timezone.now(), "started_at": None, "finished_at": None, "caution": "", "problem": ""}
        with writing():
            same = Download.objects.open().filter(node=self.node_id, source=self.source, quantization=self.quantization)
            return not same.exists() and self.move(State.WAITING, restarts=0, **fresh, **NOT_BEGUN)

    def forget(self) -> bool:
        """Remove one that has ended from the list; what it brought stays on the node."""
        with writing():
            if not Download.objects.ended().filter(pk=self.pk).delete()[0]:
                return False
            record("download.forgotten", self.pk, node=self.node_id)
        return True

    def tell(self, **fields) -> bool:
        """Keep what is known of it while its state stays; False when that has changed meanwhile."""
        return self._update(Download.objects.filter(pk=self.pk, state=self.state), fields)

    def move(self, to: State, **fields) -> bool:
        """Change the state; False when it was not where this object has it any more. Raises ValueError if illegal."""
        if to not in MOVES[State(self.state)]:
            raise ValueError(f"a download that is {self.state} cannot become {to}")
        with writing():
            if not self._update(Download.objects.filter(pk=self.pk, state=self.state), {"state": to} | fields):
                return False
            record(f"download.{to}", self.pk, node=self.node_id)
        return True

    def _update(self, rows: DownloadQuerySet, fields: dict) -> bool:
        if not rows.update(**fields):
            return False
        for name, value in fields.items():
            setattr(self, name, value)
        return True
