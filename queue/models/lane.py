"""A lane: the queue of one model tag."""

from datetime import timedelta

from django.core.exceptions import ValidationError
from django.db import models

from daemonpulse.models.event import record, writing
from pulse.thinking import ThinkSeparator

SMOOTHING = 0.2  # weight of the newest prompt in the lane's mean duration


class Lane(models.Model):
    """`limit` caps the prompts that run at once; None = as many as the model's instance serves.

    The tags are what this model writes around reasoning inside its text.
    `mean_seconds` is the smoothed duration of its prompts, None until one is done. `served_at` is the last claim.
    """

    model = models.CharField(max_length=300, unique=True)
    is_paused = models.BooleanField(default=False)
    limit = models.PositiveSmallIntegerField(null=True, blank=True)
    opening_tag = models.CharField(max_length=60, default="<think>")
    closing_tag = models.CharField(max_length=60, default="</think>")
    mean_seconds = models.FloatField(null=True, editable=False)
    served_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["model"]

    def __str__(self):
        return self.model

    def clean(self):
        if self.limit == 0:
            raise ValidationError({"limit": "At least 1. To stop the lane, pause it."})
        try:
            ThinkSeparator(self.opening_tag, self.closing_tag)
        except ValueError as error:
            raise ValidationError(f"These tags cannot be told apart: {error}") from error

    @property
    def dom_id(self) -> str:
        return f"lane-{self.pk}"

    @classmethod
    def for_model(cls, model: str) -> "Lane":
        return cls.objects.filter(model=model).first() or cls.objects.get_or_create(model=model)[0]

    def pause(self) -> None:
        """Start no more of its prompts; what runs goes on."""
        self._set_paused(True)

    def resume(self) -> None:
        self._set_paused(False)
        from .runner import Runner

        Runner.call_on_commit()

    def _set_paused(self, is_paused: bool) -> None:
        with writing():
            if Lane.objects.filter(pk=self.pk, is_paused=not is_paused).update(is_paused=is_paused):
                record("lane.paused" if is_paused else "lane.resumed", self.pk)
        self.is_paused = is_paused

    def was_not_served(self, at) -> None:
        """What was claimed then found no room: it has waited all the time."""
        Lane.objects.filter(pk=self.pk, served_at=at).update(served_at=self.served_at)

    def measure(self, durations: list[timedelta]) -> None:
        """Take the durations of prompts that finished into the mean."""
        mean = self.mean_seconds
        for took in durations:
            seconds = took.total_seconds()
            mean = seconds if mean is None else mean + SMOOTHING * (seconds - mean)
        Lane.objects.filter(pk=self.pk).update(mean_seconds=mean)
        self.mean_seconds = mean
