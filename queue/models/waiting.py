"""What may change while a prompt waits, and how long it still has to."""

from datetime import timedelta

from django.db.models import Q

from daemonpulse.models.event import record, writing

from ..outbox import carried
from .lane import Lane
from .remote import Mutation
from .runner import Runner


class Waiting:
    """The part of Prompt (prompt.py) for its time in the lane."""

    @carried(Mutation.Kind.EDIT)
    def edit(self, **fields) -> bool:
        """Change a waiting prompt; False when it waits no more. `model` moves it to another lane."""
        if "model" in fields:
            fields["lane"] = Lane.for_model(fields.pop("model"))
        draft = type(self)(**fields)
        values = {name: getattr(draft, name) for name in fields}
        with writing():
            if not type(self).objects.queued().filter(pk=self.pk).update(**values):
                return False
            record("prompt.edited", self.pk, owner_id=self.owner_id, lane=self.lane_id)
            Runner.call_on_commit()
        for name, value in values.items():
            setattr(self, name, value)
        return True

    def reorder(self, where: str) -> bool:
        """Move a waiting prompt within its lane and priority: "first", "up", "down" or "last"."""
        with writing():
            waiting = type(self).objects.queued().filter(lane=self.lane_id, priority=self.priority).only("position")
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

    def place(self) -> int | None:
        """Its place among the queued prompts of its lane, from 1; None when it does not wait."""
        if not self.is_queued:
            return None
        ahead = Q(priority__gt=self.priority) | Q(priority=self.priority, position__lt=self.position)
        return type(self).objects.queued().filter(ahead, lane=self.lane_id).count() + 1

    def expected_wait(self, place: int, slots: int) -> timedelta | None:
        """How long until it starts, by the lane's measured speed; None when nothing was measured yet."""
        if self.lane.mean_seconds is None:
            return None
        return timedelta(
            seconds=self.lane.mean_seconds * max(place - 1, 0) / max(slots, 1) + self.lane.mean_seconds / 2
        )
