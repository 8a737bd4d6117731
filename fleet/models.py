"""Nodes: the daemons we talk to."""

from django.db import models
from django.utils import timezone
from django_cryptography.fields import encrypt

from daemonpulse.models.event import record, writing
from fleet.daemons import kinds
from fleet.daemons.base import Daemon
from fleet.daemons.errors import DaemonError, Reason


class Kind(models.TextChoices):
    LMSTUDIO = "lmstudio", "LM Studio"
    OPENAI = "openai", "OpenAI-compatible"


class State(models.TextChoices):
    """What the last look at a node found."""

    UNKNOWN = "unknown", "Not looked at yet"  # just added or enabled again
    ONLINE = "online", "Online"  # answered as its kind does
    OFFLINE = "offline", "Offline"  # did not answer, or not in a way we understand
    UNAUTHORIZED = "unauthorized", "Refuses our token"


class NodeQuerySet(models.QuerySet):
    def enabled(self):
        return self.filter(is_enabled=True)

    def online(self):
        return self.enabled().filter(state=State.ONLINE)


class Node(models.Model):
    """One daemon, by its base URL. `state` is what the last look found; only seen() and lost() write it."""

    name = models.CharField(max_length=80, unique=True)
    kind = models.CharField(max_length=20, choices=Kind, default=Kind.LMSTUDIO)
    base_url = models.CharField(max_length=300, unique=True, verbose_name="address")
    token = encrypt(models.CharField(max_length=300, blank=True, default=""))
    is_enabled = models.BooleanField(default=True)
    is_simulated = models.BooleanField(default=False)
    state = models.CharField(max_length=20, choices=State, default=State.UNKNOWN, editable=False)
    reason = models.CharField(max_length=40, blank=True, default="", editable=False)
    latency_seconds = models.FloatField(null=True, editable=False)
    added_at = models.DateTimeField(auto_now_add=True)
    checked_at = models.DateTimeField(null=True, editable=False)
    last_seen_at = models.DateTimeField(null=True, editable=False)

    objects = NodeQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self):
        return self.name

    @property
    def dom_id(self) -> str:
        return f"node-{self.pk}"

    @property
    def is_online(self) -> bool:
        return self.is_enabled and self.state == State.ONLINE

    @property
    def reason_explanation(self) -> str:
        return Reason(self.reason).explanation if self.reason else ""

    def connect(self) -> Daemon:
        """The daemon behind this node; nothing is sent yet."""
        return kinds.connect(self.kind, self.base_url, self.token)

    def seen(self, latency_seconds: float) -> bool:
        """The node answered. True when that is news."""
        return self._look(State.ONLINE, "", latency_seconds=latency_seconds, last_seen_at=timezone.now())

    def lost(self, error: DaemonError) -> bool:
        """The node did not answer as it should. True when that is news."""
        state = State.UNAUTHORIZED if error.reason is Reason.UNAUTHORIZED else State.OFFLINE
        return self._look(state, error.reason.value, latency_seconds=None)

    def _look(self, state: State, reason: str, **fields) -> bool:
        fields |= {"state": state, "reason": reason, "checked_at": timezone.now()}
        with writing():
            changed = Node.objects.filter(pk=self.pk).exclude(state=state, reason=reason).update(**fields)
            if changed:
                record(f"node.{state}", self.pk)
            else:
                Node.objects.filter(pk=self.pk).update(**fields)
        for name, value in fields.items():
            setattr(self, name, value)
        return bool(changed)

    def set_token(self, token: str) -> None:
        """Use another token from now on; the state is unknown until the next look."""
        with writing():
            Node.objects.filter(pk=self.pk).update(token=token, state=State.UNKNOWN, reason="")
            record("node.changed", self.pk)
        self.token, self.state, self.reason = token, State.UNKNOWN, ""

    def enable(self) -> None:
        self._switch(True)

    def disable(self) -> None:
        """Give it no more prompts; what runs there goes on to its end."""
        self._switch(False)

    def _switch(self, is_enabled: bool) -> None:
        with writing():
            if Node.objects.filter(pk=self.pk, is_enabled=not is_enabled).update(is_enabled=is_enabled):
                record("node.enabled" if is_enabled else "node.disabled", self.pk)
        self.is_enabled = is_enabled

    def remove(self) -> None:
        """Forget it and its models; prompts it ran stay."""
        with writing():
            record("node.removed", self.pk)
            self.delete()
