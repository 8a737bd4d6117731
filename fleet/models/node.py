"""Nodes: the daemons we talk to."""

from contextlib import suppress
from datetime import timedelta
from urllib.parse import urlsplit

from django.core.exceptions import ObjectDoesNotExist
from django.db import models
from django.utils import timezone
from django_cryptography.fields import encrypt

from daemonpulse.addresses import is_loopback
from daemonpulse.models.event import record, writing
from fleet.daemons import kinds
from fleet.daemons.base import Daemon
from fleet.daemons.errors import DaemonError, Reason

STALLED_SECONDS = 5.0  # a node that takes longer to answer is stalled


class Kind(models.TextChoices):
    LMSTUDIO = "lmstudio", "LM Studio"
    OPENAI = "openai", "OpenAI-compatible"


class State(models.TextChoices):
    """What the last look at a node found."""

    UNKNOWN = "unknown", "Not looked at yet"  # just added, changed or enabled again
    ONLINE = "online", "Online"  # answered as its kind does
    STALLED = "stalled", "Stalled"  # the same, but only after STALLED_SECONDS; or it still has not
    OFFLINE = "offline", "Offline"  # did not answer, or not in a way we understand
    UNAUTHORIZED = "unauthorized", "Refuses our token"


ANSWERING = frozenset({State.ONLINE, State.STALLED})  # late is not away: prompts may go there


class NodeQuerySet(models.QuerySet):
    def enabled(self):
        return self.filter(is_enabled=True)

    def online(self):
        return self.enabled().filter(state__in=ANSWERING)


class Node(models.Model):
    """One daemon, by its base URL. `state` is what the last look found; only seen() and lost() write it.

    Its machine is reached through an agent, or directly when the address is this machine's own (fleet/hosts.py).
    """

    name = models.CharField(max_length=80, unique=True)
    kind = models.CharField(max_length=20, choices=Kind, default=Kind.LMSTUDIO)
    base_url = models.CharField(max_length=300, unique=True, verbose_name="address")
    token = encrypt(models.CharField(max_length=300, blank=True, default=""))
    tags = models.JSONField(default=list, blank=True)  # short words
    notes = encrypt(models.TextField(blank=True, default=""))
    agent_url = models.CharField(max_length=300, blank=True, default="", verbose_name="agent's address")
    agent_key = encrypt(models.CharField(max_length=300, blank=True, default=""))
    starts_with_up = models.BooleanField(default=False)  # `daemonpulse up` starts its server when it is down
    is_enabled = models.BooleanField(default=True)
    is_simulated = models.BooleanField(default=False)  # it says of itself that it is not real
    is_demo = models.BooleanField(default=False, editable=False)  # the one that `up` starts while there is no other
    state = models.CharField(max_length=20, choices=State, default=State.UNKNOWN, editable=False)
    reason = models.CharField(max_length=40, blank=True, default="", editable=False)
    latency_seconds = models.FloatField(null=True, editable=False)
    added_at = models.DateTimeField(auto_now_add=True)
    checked_at = models.DateTimeField(null=True, editable=False)
    last_seen_at = models.DateTimeField(null=True, editable=False)
    watched_until = models.DateTimeField(null=True, editable=False)  # a page that shows it keeps pushing this
    models_asked_at = models.DateTimeField(null=True, editable=False)  # its last answer's time of asking
    look_wanted_at = models.DateTimeField(null=True, editable=False)  # somebody wants to know now

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
        return self.is_enabled and self.state in ANSWERING

    @property
    def is_here(self) -> bool:
        """Its address is this machine's own."""
        return is_loopback(urlsplit(self.base_url).hostname or "")

    @property
    def has_host(self) -> bool:
        """Its machine can be asked for GPUs and memory."""
        return bool(self.agent_url) or self.is_here

    @property
    def can_be_managed(self) -> bool:
        """Its LM Studio can be started and stopped from here."""
        return self.has_host and self.kind == Kind.LMSTUDIO and not self.has_simulated_machine

    @property
    def has_simulated_machine(self) -> bool:
        """Its cards do not exist either. An agent tells of a real machine, whatever runs there."""
        return self.is_simulated and not self.agent_url

    @property
    def reason_explanation(self) -> str:
        return Reason(self.reason).explanation if self.reason else ""

    def connect(self) -> Daemon:
        """The daemon behind this node; nothing is sent yet."""
        return kinds.connect(self.kind, self.base_url, self.token)

    def seen(self, latency_seconds: float) -> bool:
        """The node answered. True when that is news."""
        state = State.ONLINE if latency_seconds <= STALLED_SECONDS else State.STALLED
        return self._look(state, "", latency_seconds=latency_seconds, last_seen_at=timezone.now())

    def late(self) -> bool:
        """It has been asked and should have answered by now. True when that is news."""
        return self._look(State.STALLED, "", latency_seconds=None)

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

    def want_look(self) -> None:
        """Have it looked at now, and not when its turn comes."""
        self.look_wanted_at = timezone.now()
        Node.objects.filter(pk=self.pk).update(look_wanted_at=self.look_wanted_at)

    def looked(self) -> None:
        """The look that was wanted begins; done first, so that one that fails is not tried for ever."""
        if self.look_wanted_at is not None:
            Node.objects.filter(pk=self.pk, look_wanted_at=self.look_wanted_at).update(look_wanted_at=None)

    @classmethod
    def watch(cls, pks: list[int] | None, seconds: float) -> None:
        """Somebody looks at these nodes (None: at all) for the next seconds."""
        nodes = cls.objects.enabled() if pks is None else cls.objects.filter(pk__in=pks)
        nodes.update(watched_until=timezone.now() + timedelta(seconds=seconds))

    def change(self, **fields) -> None:
        """Change what a person may; where it is reached otherwise, its state is unknown until the next look."""
        if {"base_url", "kind", "token"} & set(fields):
            fields |= {"state": State.UNKNOWN, "reason": ""}
        fields |= {"look_wanted_at": timezone.now()}
        for name, value in fields.items():
            setattr(self, name, value)
        with writing():
            self.save(update_fields=list(fields))
            if {"base_url", "agent_url"} & set(fields):
                self.forget_machine()
            record("node.changed", self.pk)

    def forget_machine(self) -> None:
        """It is another machine from now on: what was read of the old one is not true of it."""
        with suppress(ObjectDoesNotExist):
            self.reading.delete()

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
