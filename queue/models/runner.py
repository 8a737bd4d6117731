"""Who works the lanes right now: one row, held by a lease."""

from datetime import timedelta

from django.db import models, transaction
from django.utils import timezone
from django_q.tasks import async_task

LEASE = timedelta(seconds=6)
REQUEST_LIFETIME = timedelta(seconds=5)
TASK = "daemonpulse.queue.tasks.work"


class Runner(models.Model):
    """The runner that may claim prompts (queue/runner.py), and the last time one was called for.

    A convenience, not a guard: two runners at once would do no harm, because every claim is a
    compare-and-swap. It keeps the wake-up of a busy lane free of a trip through the task broker.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    name = models.CharField(max_length=120, blank=True, default="")
    seen_at = models.DateTimeField(null=True)
    called_at = models.DateTimeField(null=True)

    def __str__(self):
        return self.name or "nobody"

    @classmethod
    def row(cls) -> "Runner":
        return cls.objects.first() or cls.objects.get_or_create(id=1)[0]

    @property
    def is_alive(self) -> bool:
        return bool(self.name) and self.seen_at is not None and timezone.now() - self.seen_at < LEASE

    @classmethod
    def call(cls) -> bool:
        """See to it that somebody works the lanes. True when a task was queued for it.

        A runner that is alive hears of every commit by itself; and before it leaves it looks once more, in
        the transaction in which it leaves, so nothing committed before can be overlooked.
        """
        runner = cls.row()
        if runner.is_alive:
            return False
        now = timezone.now()
        unclaimed = models.Q(called_at=None) | models.Q(called_at__lt=now - REQUEST_LIFETIME)
        with transaction.atomic():
            if not cls.objects.filter(unclaimed, id=1).update(called_at=now):
                return False
            async_task(TASK)
        return True

    @classmethod
    def take(cls, name: str) -> bool:
        """Become the runner; False while another one is alive."""
        now = timezone.now()
        free = models.Q(name="") | models.Q(seen_at=None) | models.Q(seen_at__lt=now - LEASE)
        cls.row()
        return bool(cls.objects.filter(free, id=1).update(name=name, seen_at=now, called_at=None))

    @classmethod
    def beat(cls, name: str) -> bool:
        """Prolong the lease; False when another one has taken over."""
        return bool(cls.objects.filter(id=1, name=name).update(seen_at=timezone.now()))

    @classmethod
    def leave(cls, name: str) -> None:
        cls.objects.filter(id=1, name=name).update(name="", seen_at=None)
