"""What nodes were told to do: one line for people, the whole of it (encrypted) for an audit."""

import uuid
from datetime import timedelta

from django.conf import settings
from django.db import models
from django.utils import timezone
from django_cryptography.fields import encrypt

from daemonpulse.models.event import record, writing
from fleet.lms.actions import Action
from fleet.models.node import Node

# Beside what can be asked of any machine (Action): what an app above this one does (settings.COMMANDS).
PLAN = "plan_load"  # what would land where
LOAD = "load_model"  # with room made for it, laid out by its profile, and measured
UNLOAD = "unload_model"
LABELS = {action.value: action.label for action in Action} | {
    PLAN: "Plan a load",
    LOAD: "Load a model",
    UNLOAD: "Unload a model",
}

LEASE = timedelta(seconds=20)
MAX_OUTPUT = 100_000  # characters; the end is kept
SHOWN_OUTPUT = 6_000
KEPT_PER_NODE = 500
CANCELLED = "It was called off before it began."
UNFINISHED = "The process that ran it ended. Whether it took effect shows in the node's state."


class State(models.TextChoices):
    """One sentence each on how a command enters it."""

    WAITING = "waiting"  # asked for; a worker takes it within a second
    RUNNING = "running"  # taken, with a lease that its worker keeps renewing
    DONE = "done"  # it did what was asked
    FAILED = "failed"  # it did not, or was called off before; `problem` says why
    INTERRUPTED = "interrupted"  # its worker died, or the way to its machine broke; nobody knows


MOVES = {
    State.WAITING: {State.RUNNING, State.FAILED},
    State.RUNNING: {State.DONE, State.FAILED, State.INTERRUPTED},
}


class CommandQuerySet(models.QuerySet):
    def open(self):
        return self.filter(state__in=[State.WAITING, State.RUNNING])


class Command(models.Model):
    """Something a node was told to do. Only move() writes its state."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="commands")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL)
    action = models.CharField(max_length=30)  # of LABELS
    parameters = encrypt(models.JSONField(default=dict))
    state = models.CharField(max_length=12, choices=State, default=State.WAITING, editable=False)
    asked_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    beat_at = models.DateTimeField(null=True)
    progress = models.FloatField(null=True)  # 0..1 of what can tell, such as a load
    cancel_wanted_at = models.DateTimeField(null=True)  # somebody wants it to stop
    problem = models.CharField(max_length=500, blank=True, default="")
    output = encrypt(models.TextField(default=""))
    result = encrypt(models.JSONField(default=dict))
    envelope = encrypt(models.JSONField(default=dict))  # as it was signed and sent to an agent

    State = State
    objects = CommandQuerySet.as_manager()

    error: Exception | None = None  # what the run in this process ended with

    class Meta:
        ordering = ["-asked_at"]
        indexes = [models.Index(fields=["state", "asked_at"]), models.Index(fields=["node", "-asked_at"])]

    def __str__(self):
        return f"{self.action} on {self.node_id}: {self.state}"

    @property
    def label(self) -> str:
        return LABELS.get(self.action, self.action)

    @property
    def output_end(self) -> str:
        """As much of the output as a page shows."""
        return self.output if len(self.output) <= SHOWN_OUTPUT else f"…{self.output[-SHOWN_OUTPUT:]}"

    @property
    def is_open(self) -> bool:
        return self.state in {State.WAITING, State.RUNNING}

    @property
    def is_lost(self) -> bool:
        """It should run, but its worker has not renewed its lease."""
        return self.state == State.RUNNING and self.beat_at < timezone.now() - LEASE

    @classmethod
    def ask(cls, node: Node, action: str, user=None, **parameters) -> "Command":
        """Have something done; a worker takes it."""
        with writing():
            command = cls.objects.create(node=node, action=action, user=user, parameters=parameters)
            record("command.asked", node.pk, action=action)
        return command

    @classmethod
    def ask_once(cls, node: Node, action: str, user=None) -> "Command":
        """The same, unless it is asked for already: a second press of a button is not a second command."""
        waiting = cls.objects.open().filter(node=node, action=action).first()
        return waiting or cls.ask(node, action, user)

    def claim(self) -> bool:
        """Take it, to run it. False: somebody else has it, or something runs on its node: one at a time."""
        now = timezone.now()
        with writing():
            if Command.objects.filter(node=self.node_id, state=State.RUNNING).exists():
                return False
            return self.move(State.RUNNING, started_at=now, beat_at=now)

    def cancel(self) -> bool:
        """Take it back if it waits, else ask its worker to stop it; False when it has ended.

        Whether what runs can be stopped is up to it: it ends by itself, or as if it had failed.
        """
        with writing():
            if not Command.objects.open().filter(pk=self.pk).update(cancel_wanted_at=timezone.now()):
                return False
            self.refresh_from_db(fields=["state"])
            if self.state == State.WAITING:
                self.fail(CANCELLED)
        return True

    @property
    def is_cancel_wanted(self) -> bool:
        """Asked of the database: it is another process that wants it."""
        return Command.objects.filter(pk=self.pk, cancel_wanted_at__isnull=False).exists()

    def finish(self, result: dict) -> bool:
        return self.move(State.DONE, result=result, finished_at=timezone.now())

    def fail(self, problem: str, result: dict | None = None) -> bool:
        return self.move(State.FAILED, problem=problem[:500], result=result or {}, finished_at=timezone.now())

    def interrupt(self, problem: str) -> bool:
        """It was begun, and nobody will hear how it ended."""
        return self.move(State.INTERRUPTED, problem=problem[:500], finished_at=timezone.now())

    def move(self, to: State, **fields) -> bool:
        """Change the state; False when it was not where this object has it any more. Raises ValueError if illegal."""
        if to not in MOVES.get(State(self.state), ()):
            raise ValueError(f"a {self.state} command cannot become {to}")
        row = Command.objects.filter(pk=self.pk, state=self.state)
        with writing():
            if not row.update(state=to, **fields):
                return False
            record(f"command.{to}", self.node_id, action=self.action)
        for name, value in ({"state": to} | fields).items():
            setattr(self, name, value)
        return True

    def beat(self, output: str | None = None, progress: float | None = None) -> None:
        """Its worker lives; and, where given, what it has said so far and how far it is."""
        fields = {"beat_at": timezone.now()}
        if output is not None:
            fields["output"] = self.output = output[-MAX_OUTPUT:]
        if progress is not None:
            fields["progress"] = self.progress = progress
        with writing():
            is_there = Command.objects.filter(pk=self.pk).update(**fields)
            if is_there and len(fields) > 1:
                record("command.told", self.node_id, action=self.action)

    def keep_envelope(self, envelope: dict) -> None:
        self.envelope = envelope
        Command.objects.filter(pk=self.pk).update(envelope=envelope)

    @classmethod
    def rescue(cls) -> int:
        """End what dead workers left; what was never taken stays waiting."""
        ended = 0
        for command in cls.objects.filter(state=State.RUNNING, beat_at__lt=timezone.now() - LEASE):
            ended += command.move(State.INTERRUPTED, problem=UNFINISHED, finished_at=timezone.now())
        return ended

    @classmethod
    def forget_old(cls) -> None:
        """Keep the last KEPT_PER_NODE of each node."""
        for node_id in cls.objects.values_list("node_id", flat=True).distinct().order_by():
            kept = cls.objects.filter(node=node_id).values_list("pk", flat=True)[:KEPT_PER_NODE]
            cls.objects.filter(node=node_id).exclude(pk__in=list(kept)).exclude(state=State.RUNNING).delete()
