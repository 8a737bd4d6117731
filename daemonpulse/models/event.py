"""The event log: every state change leaves a row here, in the transaction that made it."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from django.db import connection, models, transaction
from django.utils import timezone

from daemonpulse import wakeup

# Any number does, as long as every writer takes the same one.
POSTGRES_LOCK = 0x64706C73
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EventQuerySet(models.QuerySet):
    def after(self, event_id: int):
        """Events past a cursor, in the order in which they were committed."""
        return self.filter(id__gt=event_id).order_by("id")

    def lasting(self):
        """What is kept for days; see Event.TRANSIENT_KINDS."""
        return self.exclude(kind__in=Event.TRANSIENT_KINDS)

    def last_id(self) -> int:
        return self.order_by("-id").values_list("id", flat=True).first() or 0


class Event(models.Model):
    """Something happened to `subject`. The id is the cursor of live pages and of sync.

    `data` holds small facts only, never a prompt's text, a token or a key.
    """

    # Worth nothing once their moment is over: what they told is in the rows they told of.
    TRANSIENT_KINDS = (
        "prompt.output",
        "prompt.progress",
        "prompt.reclassified",
        "reading.taken",
        "command.told",
        "download.moved",
    )

    at = models.DateTimeField(default=timezone.now)
    kind = models.CharField(max_length=60)  # noun.past: prompt.claimed
    subject = models.CharField(max_length=64, db_index=True)
    owner = models.ForeignKey(
        "daemonpulse.User", null=True, blank=True, on_delete=models.SET_NULL, related_name="+", db_index=False
    )
    data = models.JSONField(default=dict, blank=True)

    objects = EventQuerySet.as_manager()

    def __str__(self):
        return f"{self.id} {self.kind} {self.subject}"

    @property
    def noun(self) -> str:
        return self.kind.split(".", 1)[0]

    @property
    def is_transient(self) -> bool:
        return self.kind in self.TRANSIENT_KINDS

    @property
    def mark(self) -> str:
        """Tells it from an event with the same id in a log that was put back to an earlier state and went on."""
        return f"{(self.at - EPOCH) // timedelta(microseconds=1):x}"

    @property
    def groups(self) -> list[str]:
        """The Channels groups that hear of it: its subject's, its owner's and its noun's."""
        subject = f"{self.noun}.{self.subject}"
        if self.kind == "prompt.output":  # many a second, and of interest on the prompt's own page only
            return [subject]
        owner = [f"user.{self.owner_id}"] if self.owner_id else []
        return [subject, *owner, f"all.{self.noun}"]


def record(kind: str, subject: object, *, owner_id: int | None = None, **data) -> Event:
    """Write an event in the current transaction and wake the listeners when it commits.

    On PostgreSQL inserts take turns, so that a lower id never commits after a higher one and no reader's
    cursor can pass over an event. SQLite has one writer at a time anyway.
    """
    _take_turn()
    event = Event.objects.create(kind=kind, subject=str(subject), owner_id=owner_id, data=data)
    wakeup.notify_on_commit(lasting=not event.is_transient)
    return event


def _take_turn() -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [POSTGRES_LOCK])


@contextmanager
def writing():
    """A transaction that will record events. On PostgreSQL it takes its turn before it locks any row: two that
    lock rows first and then wait for the turn would wait for each other."""
    with transaction.atomic(savepoint=False):
        _take_turn()
        yield


def record_many(events: list[Event]) -> None:
    """Several events in one insert; see record()."""
    if not events:
        return
    _take_turn()
    Event.objects.bulk_create(events)
    wakeup.notify_on_commit(lasting=not all(event.is_transient for event in events))
