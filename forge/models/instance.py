"""Loaded copies of models, and who may unload them."""

from datetime import timedelta

from django.db import models
from django.db.models import Exists, OuterRef
from django.utils import timezone

from daemonpulse.models.event import record, writing
from fleet.models import Command, Node
from forge.eviction import Resident
from forge.models.model import Model

UNLOAD_LEASE = timedelta(seconds=5)  # after that an unload without a command was left by a worker that died
SEEN_BUSY_LASTS = timedelta(seconds=10)  # somebody else's work, seen at the daemon a moment ago


class Origin(models.TextChoices):
    """Who had it loaded, as far as that can be known."""

    PERSON = "person", "by hand"  # from a page, a terminal or a script
    QUEUE = "queue", "by the queue"
    JUST_IN_TIME = "jit", "just in time"  # somebody's request made LM Studio load it: it has an idle time of its own
    LINK = "link", "on another device"  # LM Link
    ELSEWHERE = "elsewhere", "elsewhere"  # LM Studio's own window, `lms load`, another program


OURS = frozenset({Origin.PERSON, Origin.QUEUE})


class State(models.TextChoices):
    """One sentence each on how a copy enters it. A copy that is gone has no row."""

    LOADED = "loaded"  # its node told of it
    UNLOADING = "unloading"  # chosen to go: it gets no more prompts


MOVES = {State.LOADED: {State.UNLOADING}, State.UNLOADING: {State.LOADED}}


class InstanceQuerySet(models.QuerySet):
    def of(self, node):
        return self.filter(model__node=node)

    def due(self):
        """Those whose idle time seems to be over, on nodes that can be told."""
        return self.filter(unload_at__lte=timezone.now(), state=State.LOADED, model__node__in=Node.objects.online())


class Instance(models.Model):
    """What we know of one loaded copy. The node's list says that it is there; only move() writes `state`.

    `used_at`: when it last worked, or was loaded. `bytes_by_gpu`: {"0": bytes}, measured when we loaded it, else
    estimated. `ttl_seconds`: it is unloaded after being idle for so long, None = stays.
    """

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="instances")
    identifier = models.CharField(max_length=300)
    origin = models.CharField(max_length=12, choices=Origin, default=Origin.ELSEWHERE)
    state = models.CharField(max_length=12, choices=State, default=State.LOADED, editable=False)
    context_length = models.PositiveIntegerField(null=True)
    parallel = models.PositiveSmallIntegerField(null=True)
    options = models.JSONField(default=dict)  # as the node told: "flash_attention" …
    bytes_by_gpu = models.JSONField(null=True)
    is_measured = models.BooleanField(default=False)
    loaded_at = models.DateTimeField(default=timezone.now)  # or first seen
    used_at = models.DateTimeField(default=timezone.now)
    busy_seen_at = models.DateTimeField(null=True)  # when its daemon last said that it works
    ttl_seconds = models.PositiveIntegerField(null=True)  # ours
    told_ttl_seconds = models.PositiveIntegerField(null=True)  # its daemon's own
    unload_at = models.DateTimeField(null=True, db_index=True)  # when to look whether its idle time is over
    state_since = models.DateTimeField(default=timezone.now)

    State = State
    objects = InstanceQuerySet.as_manager()

    class Meta:
        ordering = ["identifier"]
        constraints = [models.UniqueConstraint(fields=["model", "identifier"], name="one_row_per_instance")]

    def __str__(self):
        return self.identifier

    @property
    def dom_id(self) -> str:
        return f"instance-{self.pk}"

    @property
    def total_bytes(self) -> int | None:
        return None if self.bytes_by_gpu is None else sum(self.bytes_by_gpu.values())

    @property
    def is_ours(self) -> bool:
        return self.origin in OURS

    @property
    def daemon_lets_go_at(self):
        """When its own daemon will unload it unless it is used; None = never, or not known."""
        return None if self.told_ttl_seconds is None else self.used_at + timedelta(seconds=self.told_ttl_seconds)

    @property
    def was_seen_busy(self) -> bool:
        """At work for somebody else, a moment ago."""
        return self.busy_seen_at is not None and timezone.now() - self.busy_seen_at < SEEN_BUSY_LASTS

    def resident(self, *, is_working: bool, is_pinned: bool, is_wanted: bool = False) -> Resident:
        """As the eviction policy sees it."""
        told = self.bytes_by_gpu
        return Resident(
            id=self.identifier,
            model=self.model.key,
            bytes_by_gpu=None if told is None else {int(index): count for index, count in told.items()},
            used_at=self.used_at.timestamp(),
            is_busy=is_working or self.was_seen_busy or self.state == State.UNLOADING,
            is_pinned=is_pinned,
            is_wanted=is_wanted,
            ttl_seconds=self.ttl_seconds,
        )

    def move(self, to: State) -> bool:
        """Change the state; False when it is gone, or not where this object has it. Raises ValueError if illegal."""
        if to not in MOVES[State(self.state)]:
            raise ValueError(f"a copy that is {self.state} cannot become {to}")
        now = timezone.now()
        with writing():
            row = Instance.objects.filter(pk=self.pk, state=self.state)
            if not row.update(state=to, state_since=now):
                return False
            record("model.changed", self.model.node_id, keys=[self.model.key])
        self.state, self.state_since = to, now
        return True

    def keep_for(self, ttl_seconds: int | None) -> None:
        """From now on it may be idle for so long; None: it stays."""
        self.ttl_seconds = ttl_seconds
        self.touch(self.used_at)

    def touch(self, used_at, *, seen_busy: bool = False) -> None:
        """It worked until then."""
        self.used_at = max(self.used_at, used_at)
        self.unload_at = None if self.ttl_seconds is None else self.used_at + timedelta(seconds=self.ttl_seconds)
        if seen_busy:
            self.busy_seen_at = timezone.now()
        fields = ["used_at", "unload_at", "ttl_seconds", "busy_seen_at"]
        with writing():
            Instance.objects.filter(pk=self.pk).update(**{name: getattr(self, name) for name in fields})
            record("model.changed", self.model.node_id, keys=[self.model.key])

    @classmethod
    def rescue(cls) -> int:
        """Give back what a worker that died had chosen to unload: no command runs on its node; returns how many."""
        chosen = cls.objects.filter(state=State.UNLOADING, state_since__lt=timezone.now() - UNLOAD_LEASE)
        working = Command.objects.filter(node=OuterRef("model__node"), state=Command.State.RUNNING)
        left = chosen.filter(~Exists(working)).select_related("model")
        return sum(instance.move(State.LOADED) for instance in left)
