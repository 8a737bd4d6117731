"""A prompt: what somebody wants answered by a model, from submission to its end."""

import uuid

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.utils import timezone
from django_cryptography.fields import encrypt

from daemonpulse.models.event import record, record_many, writing
from fleet.daemons.errors import Reason
from fleet.models import Node

from .. import outbox
from ..states import ENDED, MOVES, OPEN, PRIORITIES, Outcome, State
from .attempt import Attempt
from .lane import Lane
from .mirrored import Mirrored, with_whereabouts
from .remote import Mutation
from .runner import Runner
from .running import Running
from .waiting import Waiting


class PromptQuerySet(models.QuerySet):
    def of(self, user):
        """What this user may see: their own."""
        return self.filter(owner=user)

    def open(self):
        return self.filter(state__in=OPEN)

    def queued(self):
        return self.filter(state=State.QUEUED)

    def due(self, now=None):
        """Queued and not waiting for the time of a next try."""
        return self.queued().filter(due_at__lte=now or timezone.now())

    def in_lane_order(self):
        return self.order_by("-priority", "position")

    def without_texts(self):
        """For lists: the long encrypted columns stay where they are."""
        return with_whereabouts(self.defer("system_prompt", "detail"))


class Prompt(Waiting, Running, Mirrored, models.Model):
    """`tries` counts failures that are held against the prompt; `attempt_number` counts all attempts.

    `position` orders a lane's prompts of one priority; it starts as the time of submission. `due_at` is when
    a queued prompt may run. `node_pin` ties it to one node. `follows` is the prompt whose chat it continues.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="prompts")
    lane = models.ForeignKey(Lane, on_delete=models.PROTECT, related_name="prompts")
    node_pin = models.ForeignKey(Node, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    follows = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="followers")
    settings = models.JSONField(default=dict, blank=True)
    priority = models.SmallIntegerField(
        default=0, choices=[(value, name.capitalize()) for name, value in PRIORITIES.items()]
    )
    position = models.FloatField()
    state = models.CharField(max_length=20, choices=State, default=State.QUEUED, editable=False)
    attempt_number = models.PositiveIntegerField(default=0, editable=False)
    tries = models.PositiveSmallIntegerField(default=0, editable=False)
    node = models.ForeignKey(Node, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    reason = models.CharField(max_length=40, blank=True, default="", editable=False)
    enqueued_at = models.DateTimeField(default=timezone.now, editable=False)
    due_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True, editable=False)
    finished_at = models.DateTimeField(null=True, editable=False)
    # Long columns last: SQLite walks over all of a row's pages to reach what stands behind them.
    text = encrypt(models.TextField())
    system_prompt = encrypt(models.TextField(blank=True, default=""))
    detail = encrypt(models.TextField(default="", editable=False))

    objects = PromptQuerySet.as_manager()
    submitted_as: int  # the id of the event of its submission; only on the object that submit() made

    class Meta:
        ordering = ["-enqueued_at", "-id"]
        permissions = [("view_prompt_text", "Can read the texts of other people's prompts")]
        indexes = [
            models.Index(fields=["state", "lane", "-priority", "position"], name="prompts_in_lane_order"),
            models.Index(fields=["state", "due_at", "lane", "node_pin", "priority"], name="prompts_due"),
            models.Index(fields=["finished_at", "lane", "state"], name="prompts_by_end"),
            models.Index(fields=["owner", "-enqueued_at"], name="prompts_of_owner"),
            models.Index(fields=["lane", "-enqueued_at"], name="prompts_of_lane"),
        ]  # fmt: skip

    def __str__(self):
        return f"prompt {self.id}"

    @property
    def dom_id(self) -> str:
        return f"prompt-{self.pk}"

    @property
    def model(self) -> str:
        return self.lane.model

    @property
    def is_queued(self) -> bool:
        return self.state == State.QUEUED

    @property
    def is_running(self) -> bool:
        return self.state == State.SENDING

    @property
    def is_done(self) -> bool:
        return self.state == State.DONE

    @property
    def is_ended(self) -> bool:
        return self.state in ENDED

    @property
    def can_cancel(self) -> bool:
        return State.CANCELLED in MOVES[State(self.state)]

    @property
    def can_retry(self) -> bool:
        return self.is_ended and State.QUEUED in MOVES[State(self.state)]

    @property
    def waits_for_next_try(self) -> bool:
        return self.is_queued and self.due_at > timezone.now()

    @property
    def reason_explanation(self) -> str:
        return Reason(self.reason).explanation if self.reason else ""

    @property
    def excerpt(self) -> str:
        """The beginning of the text, on one line."""
        return " ".join(self.text[:400].split())[:160]

    def attempt(self) -> Attempt | None:
        """The attempt that runs it, or the last one."""
        return self.attempts.select_related("node").order_by("-number").first()

    # Submission

    @classmethod
    def submit(cls, *, owner, model: str, text: str, id=None, **fields) -> tuple["Prompt", bool]:
        """Put a prompt into its model's lane. With an `id` that this owner has used before, nothing is
        added and the earlier prompt is returned: (prompt, was it new). Raises PermissionError when the
        id is another owner's.
        """
        try:
            with transaction.atomic(), writing():
                if id is not None and (known := cls._known([id], owner)):
                    return known[0], False
                prompt = cls._new(owner=owner, model=model, text=text, **({"id": id} if id else {}), **fields)
                cls._put_last([prompt])
                prompt.save(force_insert=True)
                cls._log_submissions([prompt])
        except IntegrityError:  # somebody submitted this id between our look and our insert (PostgreSQL)
            if id is not None and (known := cls._known([id], owner)):
                return known[0], False
            raise
        return prompt, True

    @classmethod
    def submit_many(cls, *, owner, drafts: list[dict]) -> list["Prompt"]:
        """All of them or, when anything fails, none; returns those that were new. `drafts` are submit()'s fields.

        Raises PermissionError when an id is another owner's.
        """
        with writing():
            ids = [draft["id"] for draft in drafts if draft.get("id")]
            known = {prompt.pk for prompt in cls._known(ids, owner)}
            new = {draft.get("id") or uuid.uuid4(): draft for draft in drafts if draft.get("id") not in known}
            prompts = [cls._new(owner=owner, **draft | {"id": id}) for id, draft in new.items()]
            cls._put_last(prompts)
            cls.objects.bulk_create(prompts)
            cls._log_submissions(prompts)
        return prompts

    @classmethod
    def _known(cls, ids: list, owner) -> list["Prompt"]:
        """The owner's prompts with these ids. Raises PermissionError when one is another owner's."""
        known = list(cls.objects.select_related("lane").filter(pk__in=ids)) if ids else []
        if any(prompt.owner_id != owner.pk for prompt in known):
            raise PermissionError("this id is taken")
        return known

    @classmethod
    def _new(cls, *, owner, model: str, **fields) -> "Prompt":
        now = timezone.now()
        fields = {"enqueued_at": now, "due_at": now, "position": now.timestamp()} | fields
        return cls(owner=owner, lane=Lane.for_model(model), **fields)

    @classmethod
    def _put_last(cls, prompts: list["Prompt"]) -> None:
        """In this order behind what waits in their lanes with their priority, also where the clock was set back since
        that came. The index has the last one at hand, however many wait."""
        last: dict[tuple, float] = {}
        for prompt in prompts:
            among = (prompt.lane_id, prompt.priority)
            if among not in last:
                waiting = cls.objects.queued().filter(lane=prompt.lane_id, priority=prompt.priority)
                last[among] = waiting.order_by("-position").values_list("position", flat=True).first() or 0.0
            last[among] = prompt.position = max(prompt.position, last[among] + 1e-6)

    @staticmethod
    def _log_submissions(prompts: list["Prompt"]) -> None:
        events = [prompt._event_of(State.QUEUED, 0) for prompt in prompts]
        record_many(events)
        for prompt, event in zip(prompts, events, strict=True):
            prompt.submitted_as = event.id
        outbox.submit(prompts)
        Runner.call_on_commit()

    @outbox.carried(Mutation.Kind.CANCEL)
    def cancel(self) -> bool:
        """Stop it, waiting or running; the worker closes its stream when it sees this. False when it had ended."""
        for _ in range(10):  # each turn lost means that the prompt moved on in between
            self.refresh_from_db(fields=["state", "attempt_number"])
            if not self.can_cancel:
                return False
            with writing():
                if self.move(State.CANCELLED, finished_at=timezone.now()):
                    if attempt := self.attempts.running().first():
                        attempt.fold(Outcome.CANCELLED)
                    return True
        return False

    @outbox.carried(Mutation.Kind.RETRY)
    def retry(self) -> bool:
        """Queue a failed or cancelled prompt again, with all its tries; False in any other state."""
        if not self.can_retry:
            return False
        now = timezone.now()
        cleared = {"tries": 0, "reason": "", "detail": "", "finished_at": None}
        with writing():
            won = self.move(State.QUEUED, due_at=now, position=now.timestamp(), **cleared)
            if won:
                Runner.call_on_commit()
        return won

    @outbox.carried(Mutation.Kind.DELETE)
    def remove(self) -> None:
        """Forget it and all its attempts, everywhere; what runs is stopped first."""
        try:
            self.cancel()
        except type(self).DoesNotExist:  # somebody else was quicker
            return
        with writing():
            record("prompt.removed", self.pk, owner_id=self.owner_id, lane=self.lane_id)
            self.delete()

    def repeat(self) -> "Prompt":
        """The same again as a new prompt."""
        same = {
            name: getattr(self, name)
            for name in ("text", "system_prompt", "settings", "priority", "node_pin", "follows")
        }
        return Prompt.submit(owner=self.owner, model=self.model, **same)[0]
