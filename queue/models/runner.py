"""Who works the lanes right now: one row, held by a lease."""

import contextlib
import os
import secrets
import socket
from datetime import timedelta
from functools import cache
from pathlib import Path

from django.conf import settings
from django.db import models, transaction
from django.utils import timezone
from django_q.tasks import async_task

LEASE = timedelta(seconds=6)
REQUEST_LIFETIME = timedelta(seconds=5)
WATCHED_FOR = timedelta(seconds=12)
TASK = "daemonpulse.queue.tasks.work"


@cache
def machine() -> str:
    """This machine since it was last started; containers of one host differ by their host name."""
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return f"{socket.gethostname()}:{boot}"


class Runner(models.Model):
    """The runner that may claim prompts (queue/runner.py), and the last time one was called for.

    A convenience, not a guard: two runners at once would do no harm, because every claim is a
    compare-and-swap. It keeps the wake-up of a busy lane free of a trip through the task broker.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    name = models.CharField(max_length=120, blank=True, default="")
    seen_at = models.DateTimeField(null=True)
    called_at = models.DateTimeField(null=True)
    watched_at = models.DateTimeField(null=True)  # a worker's watch was here

    def __str__(self):
        return self.name or "nobody"

    @classmethod
    def row(cls) -> "Runner":
        return cls.objects.first() or cls.objects.get_or_create(id=1)[0]

    @property
    def is_alive(self) -> bool:
        is_fresh = self.seen_at is not None and timezone.now() - self.seen_at < LEASE
        return bool(self.name) and is_fresh and not self.is_gone(self.name)

    @classmethod
    def has_worker(cls) -> bool:
        """Whether a worker process runs somewhere, so that prompts get executed."""
        watched_at = cls.objects.values_list("watched_at", flat=True).first()
        return watched_at is not None and timezone.now() - watched_at < WATCHED_FOR

    @classmethod
    def note_watch(cls) -> None:
        """A worker is here; say it every few seconds."""
        cls.objects.filter(pk=cls.row().pk).update(watched_at=timezone.now())

    @staticmethod
    def name_of_this_process() -> str:
        return f"{machine()}/{os.getpid()}/{secrets.token_hex(4)}"

    @staticmethod
    def is_gone(name: str) -> bool:
        """Whether this runner certainly lives no more: a process of this machine that is not there. Of another
        machine's only its lease tells."""
        host, _, rest = name.partition("/")
        pid = rest.partition("/")[0]
        if host != machine() or not pid.isdigit():
            return False
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False

    @classmethod
    def call(cls) -> bool:
        """See to it that somebody works the lanes. True when a task was queued for it.

        A runner that is alive hears of every commit by itself; and before it leaves it looks once more, in
        the transaction in which it leaves, so nothing committed before can be overlooked.
        """
        if settings.IS_CLIENT:  # nothing is executed here
            return False
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
    def call_on_commit(cls) -> None:
        """call() once the current transaction has committed."""
        transaction.on_commit(cls.call, robust=True)

    @classmethod
    def take(cls, name: str) -> bool:
        """Become the runner; False while another one is alive."""
        now = timezone.now()
        free = models.Q(name="") | models.Q(seen_at=None) | models.Q(seen_at__lt=now - LEASE)
        holder = cls.row().name
        if cls.is_gone(holder):
            free |= models.Q(name=holder)
        return bool(cls.objects.filter(free, id=1).update(name=name, seen_at=now, called_at=None))

    @classmethod
    def beat(cls, name: str) -> bool:
        """Prolong the lease; False when another one has taken over."""
        return bool(cls.objects.filter(id=1, name=name).update(seen_at=timezone.now()))

    @classmethod
    def leave(cls, name: str) -> None:
        cls.objects.filter(id=1, name=name).update(name="", seen_at=None)
