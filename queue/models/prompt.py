"""A prompt: what somebody wants answered by a model, from submission to its end."""

import uuid
from collections import defaultdict
from datetime import timedelta
from itertools import pairwise
from typing import NamedTuple

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.utils import timezone
from django_cryptography.fields import encrypt

from daemonpulse.models.event import Event, record, record_many
from fleet.daemons.errors import DaemonError, Reason
from fleet.models import Node

from .. import retry
from ..states import ENDED, EVENT_KINDS, MOVES, OPEN, Outcome, State
from .attempt import LEASE, Attempt
from .lane import Lane
from .runner import Runner

SERVED_RESOLUTION = timedelta(seconds=1)
PRIORITIES = ((-10, "Low"), (0, "Normal"), (10, "High"))


class Ending(NamedTuple):
    """An answer that is complete. `rest` are the pieces of (kind, text) that are not stored yet."""

    attempt: Attempt
    rest: list
    stats: dict
    response_id: str


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
        return self.defer("system_prompt", "detail")


class Prompt(models.Model):
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
    priority = models.SmallIntegerField(default=0, choices=PRIORITIES)
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

    # Submission and what may change while it waits

    @classmethod
    def submit(cls, *, owner, model: str, text: str, id=None, **fields) -> tuple["Prompt", bool]:
        """Put a prompt into its model's lane. With an `id` that this owner has used before, nothing is
        added and the earlier prompt is returned: (prompt, was it new). Raises PermissionError when the
        id is another owner's.
        """
        try:
            with transaction.atomic():
                if id is not None and (known := cls._known([id], owner)):
                    return known[0], False
                prompt = cls._new(owner=owner, model=model, text=text, **({"id": id} if id else {}), **fields)
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
        with transaction.atomic(savepoint=False):
            ids = [draft["id"] for draft in drafts if draft.get("id")]
            known = {prompt.pk for prompt in cls._known(ids, owner)}
            new = {draft.get("id") or uuid.uuid4(): draft for draft in drafts if draft.get("id") not in known}
            prompts = [cls._new(owner=owner, **draft | {"id": id}) for id, draft in new.items()]
            for earlier, later in pairwise(prompts):
                later.position = max(later.position, earlier.position + 1e-6)
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

    @staticmethod
    def _log_submissions(prompts: list["Prompt"]) -> None:
        events = [prompt._event_of(State.QUEUED, 0) for prompt in prompts]
        record_many(events)
        for prompt, event in zip(prompts, events, strict=True):
            prompt.submitted_as = event.id
        _call_runner_on_commit()

    def edit(self, **fields) -> bool:
        """Change a waiting prompt; False when it waits no more. `model` moves it to another lane."""
        if "model" in fields:
            fields["lane"] = Lane.for_model(fields.pop("model"))
        draft = Prompt(**fields)
        values = {name: getattr(draft, name) for name in fields}
        with transaction.atomic(savepoint=False):
            if not Prompt.objects.queued().filter(pk=self.pk).update(**values):
                return False
            record("prompt.edited", self.pk, owner_id=self.owner_id, lane=self.lane_id)
            _call_runner_on_commit()
        for name, value in values.items():
            setattr(self, name, value)
        return True

    def reorder(self, where: str) -> bool:
        """Move a waiting prompt within its lane and priority: "first", "up", "down" or "last"."""
        with transaction.atomic(savepoint=False):
            waiting = Prompt.objects.queued().filter(lane=self.lane_id, priority=self.priority).only("position")
            own = waiting.filter(pk=self.pk).first()
            if own is None:
                return False
            ahead = waiting.filter(position__lt=own.position).order_by("-position")
            behind = waiting.filter(position__gt=own.position).order_by("position")
            passed = ahead if where in {"first", "up"} else behind
            nearest, farthest = passed.first(), passed.last()
            if nearest is None:
                return False
            if where in {"up", "down"}:  # they swap: the room between two positions would run out
                position = nearest.position
                waiting.filter(pk=nearest.pk).update(position=own.position)
            else:
                position = farthest.position + (1 if where == "last" else -1)
            waiting.filter(pk=self.pk).update(position=position)
            record("prompt.reordered", self.pk, owner_id=self.owner_id, lane=self.lane_id)
        self.position = position
        return True

    # The state machine

    @classmethod
    def move_all(cls, prompts: list["Prompt"], to: State, new_attempt: bool = False, **fields) -> list["Prompt"]:
        """The only door through which a state changes; returns the prompts that went through.

        Matches for each the state *and* the attempt number that its object knows: who is missing from the
        answer was moved by somebody else, and nothing of it was written. Writes the events in the same
        transaction. Raises ValueError for a move that the table does not allow. `new_attempt` counts the
        attempt number up.
        """
        for prompt in prompts:
            if to not in MOVES[State(prompt.state)]:
                raise ValueError(f"a prompt cannot go from {prompt.state} to {to}")
        groups: dict[tuple[str, int], list[Prompt]] = defaultdict(list)
        for prompt in prompts:
            groups[prompt.state, prompt.attempt_number].append(prompt)
        moved: list[Prompt] = []
        with transaction.atomic(savepoint=False):
            for (state, number), group in groups.items():
                current = cls.objects.filter(state=state, attempt_number=number)
                if len(group) > 1:  # which of them still match must be known before the update
                    unchanged = current.filter(pk__in=[prompt.pk for prompt in group]).select_for_update()
                    matching = set(unchanged.order_by().values_list("pk", flat=True))
                    group = [prompt for prompt in group if prompt.pk in matching]
                values = fields | ({"attempt_number": number + 1} if new_attempt else {})
                pks = [prompt.pk for prompt in group]
                if pks and current.filter(pk__in=pks).update(state=to, **values) == len(pks):
                    moved += group
            record_many([prompt._event_of(to, prompt.attempt_number + new_attempt) for prompt in moved])
        for prompt in moved:
            prompt.state = to
            prompt.attempt_number += new_attempt
            for name, value in fields.items():
                setattr(prompt, name, value)
        return moved

    def move(self, to: State, **fields) -> bool:
        """move_all() for one; False when somebody else won."""
        return bool(Prompt.move_all([self], to, **fields))

    def _event_of(self, state: State, attempt: int) -> Event:
        data = {"state": state, "attempt": attempt, "lane": self.lane_id}
        return Event(kind=EVENT_KINDS[state], subject=str(self.pk), owner_id=self.owner_id, data=data)

    @classmethod
    def claim(cls, lane_id: int, node_id: int, runner: str, count: int = 1) -> list[Attempt]:
        """Claim the first due prompts of a lane for a node: queued → sending, attempt + 1, with a lease.

        Fewer than `count` when fewer are due, others are pinned to other nodes, or the lane is paused.
        """
        now = timezone.now()
        with transaction.atomic(savepoint=False):
            mine = Q(node_pin=None) | Q(node_pin=node_id)
            # Paused is asked again here: the plan that let the lane go on may be older than the pause.
            due = cls.objects.due(now).filter(mine, lane=lane_id, lane__is_paused=False).in_lane_order()
            if transaction.get_connection().features.has_select_for_update_skip_locked:
                due = due.select_for_update(skip_locked=True, of=("self",))
            cleared = {"reason": "", "detail": "", "finished_at": None}
            prompts = list(due.select_related("lane")[:count])
            moved = (
                cls.move_all(prompts, State.SENDING, new_attempt=True, node_id=node_id, started_at=now, **cleared)
                if prompts
                else []
            )
            if moved and (moved[0].lane.served_at is None or now - moved[0].lane.served_at > SERVED_RESOLUTION):
                Lane.objects.filter(pk=lane_id).update(served_at=now)
            return Attempt.objects.bulk_create(
                Attempt(prompt=prompt, number=prompt.attempt_number, node_id=node_id, runner=runner, started_at=now,
                        leased_until=now + LEASE)
                for prompt in moved
            )  # fmt: skip

    @classmethod
    def claim_next(cls, lane_id: int, node_id: int, runner: str) -> Attempt | None:
        """claim() for one; None when there is none."""
        return next(iter(cls.claim(lane_id, node_id, runner)), None)

    @classmethod
    def finish_all(cls, endings: list[Ending]) -> int:
        """These answers are complete; returns how many of the prompts had not been ended meanwhile."""
        # By the object, not the row: a stale attempt of a prompt may end beside the one that runs it now.
        by_prompt = {id(ending.attempt.prompt): ending for ending in endings}
        durations: dict[Lane, list[timedelta]] = defaultdict(list)
        with transaction.atomic(savepoint=False):
            prompts = [ending.attempt.prompt for ending in endings]
            moved = cls.move_all(prompts, State.DONE, finished_at=timezone.now())
            for prompt in moved:
                attempt, rest, stats, response_id = by_prompt[id(prompt)]
                attempt.fold(Outcome.DONE, rest, stats=stats, response_id=response_id)
                durations[prompt.lane].append(attempt.duration)
            for lane, took in durations.items():
                lane.measure(took)
        return len(moved)

    def finish(self, attempt: Attempt, rest=(), stats: dict | None = None, response_id: str = "") -> bool:
        """finish_all() for one. `rest` are the pieces that are not stored yet."""
        attempt.prompt = self
        return bool(Prompt.finish_all([Ending(attempt, list(rest), stats or {}, response_id)]))

    def fail(self, attempt: Attempt, error: DaemonError, rest=()) -> bool:
        """The daemon could not: try again later, or give up, as the retry policy says."""
        tries = self.tries + 1
        told = {"reason": error.reason.value, "detail": error.detail}
        with transaction.atomic(savepoint=False):
            if retry.may_try_again(error.reason, tries):
                won = self.move(State.QUEUED, tries=tries, due_at=timezone.now() + retry.delay(tries), **told)
            else:
                won = self.move(State.FAILED, tries=tries, finished_at=timezone.now(), **told)
            if won:
                attempt.fold(Outcome.FAILED, rest, **told)
        return won

    def release(self, attempt: Attempt, outcome: Outcome, reason: Reason | None = None, rest=()) -> bool:
        """Put it back, due at once, without holding the failure against it."""
        told = {"reason": reason.value if reason else ""}
        with transaction.atomic(savepoint=False):
            if outcome == Outcome.LOST and self.attempts.filter(outcome=Outcome.LOST).count() + 1 >= retry.MAX_LOST:
                told |= {"detail": f"The worker died {retry.MAX_LOST} times while it ran this prompt."}
                won = self.move(State.FAILED, finished_at=timezone.now(), **told)
            else:
                won = self.move(State.QUEUED, due_at=timezone.now(), **told)
            if won:
                attempt.fold(outcome, rest, **told)
        return won

    def requeue(self) -> bool:
        """An operator's way to start a running prompt over; a failed or cancelled one is retried."""
        if attempt := self.attempts.running().select_related("prompt__lane").first():
            return attempt.prompt.release(attempt, Outcome.RELEASED)
        return self.retry()

    def cancel(self) -> bool:
        """Stop it, waiting or running; the worker closes its stream when it sees this. False when it had ended."""
        for _ in range(10):  # each turn lost means that the prompt moved on in between
            self.refresh_from_db(fields=["state", "attempt_number"])
            if not self.can_cancel:
                return False
            with transaction.atomic(savepoint=False):
                if self.move(State.CANCELLED, finished_at=timezone.now()):
                    if attempt := self.attempts.running().first():
                        attempt.fold(Outcome.CANCELLED)
                    return True
        return False

    def retry(self) -> bool:
        """Queue a failed or cancelled prompt again, with all its tries; False in any other state."""
        if not self.can_retry:
            return False
        now = timezone.now()
        cleared = {"tries": 0, "reason": "", "detail": "", "finished_at": None}
        with transaction.atomic(savepoint=False):
            won = self.move(State.QUEUED, due_at=now, position=now.timestamp(), **cleared)
            if won:
                _call_runner_on_commit()
        return won

    def repeat(self) -> "Prompt":
        """The same again as a new prompt."""
        same = {
            name: getattr(self, name)
            for name in ("text", "system_prompt", "settings", "priority", "node_pin", "follows")
        }
        return Prompt.submit(owner=self.owner, model=self.model, **same)[0]

    @classmethod
    def rescue(cls) -> int:
        """Put back what dead workers held (they are gone, or their leases ran out); returns how many."""
        rescued = 0
        holders = Attempt.objects.running().order_by().values_list("runner", flat=True).distinct()
        gone = [name for name in holders if Runner.is_gone(name)]
        lost = Attempt.objects.running().filter(Q(leased_until__lt=timezone.now()) | Q(runner__in=gone))
        for attempt in lost.select_related("prompt__lane"):
            prompt = attempt.prompt
            with transaction.atomic(savepoint=False):
                is_still_lost = lost.filter(pk=attempt.pk).exists()
                if is_still_lost and prompt.is_running and prompt.attempt_number == attempt.number:
                    rescued += prompt.release(attempt, Outcome.LOST)
        if rescued:
            Runner.call()
        return rescued

    # Waiting

    def place(self) -> int | None:
        """Its place among the queued prompts of its lane, from 1; None when it does not wait."""
        if not self.is_queued:
            return None
        ahead = Q(priority__gt=self.priority) | Q(priority=self.priority, position__lt=self.position)
        return Prompt.objects.queued().filter(ahead, lane=self.lane_id).count() + 1

    def expected_wait(self, place: int, slots: int) -> timedelta | None:
        """How long until it starts, by the lane's measured speed; None when nothing was measured yet."""
        if self.lane.mean_seconds is None:
            return None
        return timedelta(
            seconds=self.lane.mean_seconds * max(place - 1, 0) / max(slots, 1) + self.lane.mean_seconds / 2
        )


def _call_runner_on_commit() -> None:
    transaction.on_commit(Runner.call)
