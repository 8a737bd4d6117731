"""What happens to a prompt's state: the one door, and the verbs that go through it."""

from collections import defaultdict
from datetime import timedelta
from typing import NamedTuple

from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from daemonpulse.models.event import Event, record_many, writing
from fleet.daemons.errors import DaemonError, Reason
from fleet.models import Node
from forge.models import Instance, Model

from .. import retry
from ..states import EVENT_KINDS, MOVES, Outcome, State
from .attempt import LEASE, Attempt
from .lane import Lane
from .runner import Runner

SERVED_RESOLUTION = timedelta(seconds=1)


class Ending(NamedTuple):
    """An answer that is complete. `rest` are the pieces of (kind, text) that are not stored yet."""

    attempt: Attempt
    rest: list
    stats: dict
    response_id: str


class Running:
    """The part of Prompt (prompt.py) that moves it from state to state and through its attempts."""

    @classmethod
    def move_all(cls, prompts: list["Running"], to: State, new_attempt: bool = False, **fields) -> list["Running"]:
        """The only door through which a state changes; returns the prompts that went through.

        Matches for each the state *and* the attempt number that its object knows: who is missing from the
        answer was moved by somebody else, and nothing of it was written. Writes the events in the same
        transaction. Raises ValueError for a move that the table does not allow. `new_attempt` counts the
        attempt number up.
        """
        for prompt in prompts:
            if to not in MOVES[State(prompt.state)]:
                raise ValueError(f"a prompt cannot go from {prompt.state} to {to}")
        groups: dict[tuple[str, int], list[Running]] = defaultdict(list)
        for prompt in prompts:
            groups[prompt.state, prompt.attempt_number].append(prompt)
        moved: list[Running] = []
        with writing():
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
        return bool(type(self).move_all([self], to, **fields))

    def _event_of(self, state: State, attempt: int) -> Event:
        data = {"state": state, "attempt": attempt, "lane": self.lane_id}
        return Event(kind=EVENT_KINDS[state], subject=str(self.pk), owner_id=self.owner_id, data=data)

    @classmethod
    def claim(cls, lane_id: int, node_id: int, runner: str, count: int = 1, is_loaded: bool = False) -> list[Attempt]:
        """Claim the first due prompts of a lane for a node: queued → sending, attempt + 1, with a lease.

        Fewer than `count` when fewer are due, others are pinned to other nodes, or the lane is paused. `is_loaded`:
        none, if the model is not loaded there any more: it would be loaded just in time.
        """
        now = timezone.now()
        with writing():
            mine = Q(node_pin=None) | Q(node_pin=node_id)
            # Paused is asked again here: the plan that let the lane go on may be older than the pause.
            due = cls.objects.due(now).filter(mine, lane=lane_id, lane__is_paused=False).in_lane_order()
            if transaction.get_connection().features.has_select_for_update_skip_locked:
                due = due.select_for_update(skip_locked=True, of=("self",))
            # The plan may be old: the node removed or disabled since, the model chosen to be unloaded.
            lane_model = Lane.objects.filter(pk=lane_id).values("model")
            leaving = Instance.objects.filter(
                state=Instance.State.UNLOADING,
                model__node=OuterRef("pk"),
                model__key__in=lane_model,
            )
            away = Model.objects.filter(node=OuterRef("pk"), loaded=[], key__in=lane_model)
            can_serve = ~Exists(leaving) & ~Exists(away) if is_loaded else ~Exists(leaving)
            if not Node.objects.enabled().filter(can_serve, pk=node_id).exists():
                return []
            cleared = {"reason": "", "detail": "", "finished_at": None}
            prompts = list(due.select_related("lane")[:count])
            moved = (
                cls.move_all(prompts, State.SENDING, new_attempt=True, node_id=node_id, started_at=now, **cleared)
                if prompts
                else []
            )
            if moved and (moved[0].lane.served_at is None or now - moved[0].lane.served_at > SERVED_RESOLUTION):
                Lane.objects.filter(pk=lane_id).update(served_at=now)
                Instance.objects.filter(model__node=node_id, model__key__in=lane_model).update(used_at=now)
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
        with writing():
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
        return bool(type(self).finish_all([Ending(attempt, list(rest), stats or {}, response_id)]))

    def fail(self, attempt: Attempt, error: DaemonError, rest=()) -> bool:
        """The daemon could not: try again later, or give up, as the retry policy says."""
        tries = self.tries + 1
        told = {"reason": error.reason.value, "detail": error.detail}
        with writing():
            if retry.may_try_again(error.reason, tries):
                won = self.move(State.QUEUED, tries=tries, due_at=timezone.now() + retry.delay(tries), **told)
            else:
                won = self.move(State.FAILED, tries=tries, finished_at=timezone.now(), **told)
            if won:
                attempt.fold(Outcome.FAILED, rest, **told)
        return won

    def release(
        self,
        attempt: Attempt,
        outcome: Outcome,
        reason: Reason | None = None,
        rest=(),
        after: timedelta = timedelta(),
    ) -> bool:
        """Put it back, due at once or `after` a while, without holding the failure against it."""
        told = {"reason": reason.value if reason else ""}
        with writing():
            if outcome == Outcome.LOST and self.attempts.filter(outcome=Outcome.LOST).count() + 1 >= retry.MAX_LOST:
                told |= {"detail": f"The worker died {retry.MAX_LOST} times while it ran this prompt."}
                won = self.move(State.FAILED, finished_at=timezone.now(), **told)
            else:
                won = self.move(State.QUEUED, due_at=timezone.now() + after, **told)
            if won:
                attempt.fold(outcome, rest, **told)
        return won

    def requeue(self) -> bool:
        """An operator's way to start a running prompt over; a failed or cancelled one is retried."""
        if attempt := self.attempts.running().select_related("prompt__lane").first():
            return attempt.prompt.release(attempt, Outcome.RELEASED)
        return self.retry()

    @classmethod
    def wake_late(cls) -> int:
        """Have those tried at once that wait for longer than any pause is: the clock was set back; returns how many."""
        now = timezone.now()
        with writing():
            return cls.objects.queued().filter(due_at__gt=now + retry.LONGEST).update(due_at=now)

    @classmethod
    def rescue(cls) -> int:
        """Put back what dead workers held (they are gone, or their leases ran out); returns how many."""
        rescued = 0
        holders = Attempt.objects.running().order_by().values_list("runner", flat=True).distinct()
        gone = [name for name in holders if Runner.is_gone(name)]
        lost = Attempt.objects.running().filter(Q(leased_until__lt=timezone.now()) | Q(runner__in=gone))
        for attempt in lost.select_related("prompt__lane"):
            prompt = attempt.prompt
            with writing():
                is_still_lost = lost.filter(pk=attempt.pk).exists()
                if is_still_lost and prompt.is_running and prompt.attempt_number == attempt.number:
                    rescued += prompt.release(attempt, Outcome.LOST)
        if rescued:
            Runner.call()
        return rescued
