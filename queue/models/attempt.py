"""One execution of a prompt on one node, and the pieces of output that it streams."""

from datetime import timedelta

from django.db import models
from django.utils import timezone
from django_cryptography.fields import encrypt

from daemonpulse.models.event import Event, record, record_many, writing
from fleet.daemons.errors import Reason
from fleet.models import Node
from pulse.thinking import Kind

from ..states import Outcome

LEASE = timedelta(seconds=10)


class AttemptQuerySet(models.QuerySet):
    def running(self):
        return self.filter(outcome=Outcome.RUNNING)


class Attempt(models.Model):
    """While it runs, its text is in its chunks; when it ends they are folded into `reasoning` and `answer`.

    Partial text stays with the attempt that produced it, whatever became of it. `progress` is what happens
    before the first token: {"phase": "load"|"prompt", "fraction": 0..1 or null}.
    """

    prompt = models.ForeignKey("queue.Prompt", on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    node = models.ForeignKey(Node, null=True, on_delete=models.SET_NULL, related_name="+")
    outcome = models.CharField(max_length=20, choices=Outcome, default=Outcome.RUNNING)
    runner = models.CharField(max_length=120)
    leased_until = models.DateTimeField()
    started_at = models.DateTimeField()
    first_token_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    chunk_count = models.PositiveIntegerField(default=0)
    progress = models.JSONField(null=True)
    reason = models.CharField(max_length=40, blank=True, default="")
    stats = models.JSONField(default=dict)
    response_id = models.CharField(max_length=120, blank=True, default="")
    detail = encrypt(models.TextField(default=""))
    reasoning = encrypt(models.TextField(default=""))
    answer = encrypt(models.TextField(default=""))

    objects = AttemptQuerySet.as_manager()

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["prompt", "number"], name="one_attempt_per_number")]
        indexes = [models.Index(fields=["outcome", "leased_until"], name="attempts_by_lease")]

    def __str__(self):
        return f"attempt {self.number} of {self.prompt_id}"

    @property
    def dom_id(self) -> str:
        return f"attempt-{self.pk}"

    @property
    def is_running(self) -> bool:
        return self.outcome == Outcome.RUNNING

    @property
    def reason_explanation(self) -> str:
        return Reason(self.reason).explanation if self.reason else ""

    @property
    def duration(self) -> timedelta | None:
        return self.finished_at - self.started_at if self.finished_at else None

    def texts(self) -> dict[Kind, str]:
        """Reasoning and answer so far, wherever they are now."""
        if not self.is_running:
            return {Kind.REASONING: self.reasoning, Kind.MESSAGE: self.answer}
        chunks = list(self.chunks.order_by("seq"))
        if len(chunks) < self.chunk_count:  # it ended, and they were folded, since this row was read
            self.refresh_from_db()
            return self.texts()
        return joined(chunks)

    def reasoning_tokens_so_far(self) -> int:
        return self.chunks.filter(kind=Kind.REASONING).aggregate(most=models.Max("tokens"))["most"] or 0

    def fold(self, outcome: Outcome, rest=(), **fields) -> bool:
        """End the attempt and put its chunks, and `rest` (pieces not stored yet), into it as whole texts.

        Call it inside the transaction that moves the prompt. False when it had ended already.
        """
        stored = list(self.chunks.order_by("seq")) if self.chunk_count or outcome != Outcome.DONE else []
        texts = joined(stored)
        for kind, text in rest:
            texts[kind] += text
        fields |= {"reasoning": texts[Kind.REASONING], "answer": texts[Kind.MESSAGE]}
        fields |= {"outcome": outcome, "finished_at": timezone.now()}
        if not Attempt.objects.running().filter(pk=self.pk).update(**fields):
            return False
        if stored:
            self.chunks.all().delete()
        for name, value in fields.items():
            setattr(self, name, value)
        return True


def joined(chunks) -> dict[Kind, str]:
    texts: dict[Kind, list[str]] = {Kind.REASONING: [], Kind.MESSAGE: []}
    for chunk in chunks:
        texts[Kind(chunk.kind)].append(chunk.text)
    return {kind: "".join(pieces) for kind, pieces in texts.items()}


class Chunk(models.Model):
    """A piece of output as it came. `offset` counts the characters of its kind before it, so that a viewer
    who knows how much it has sees at once whether a piece is next, known or too far ahead. `tokens` counts
    the deltas of its kind up to here."""

    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="chunks")
    seq = models.PositiveIntegerField()
    kind = models.CharField(max_length=20)
    offset = models.PositiveIntegerField()
    tokens = models.PositiveIntegerField(default=0)
    text = encrypt(models.TextField())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["attempt", "seq"], name="one_chunk_per_seq")]

    def __str__(self):
        return f"chunk {self.seq} of attempt {self.attempt_id}"


def append(batches: list[tuple[Attempt, list[Chunk]]]) -> list[Attempt]:
    """Store the new chunks of several attempts in one transaction, with an event each.

    Returns the attempts that turned out to be stale; nothing of theirs is stored.
    """
    stale, chunks, events = [], [], []
    with writing():
        for attempt, new in batches:
            fields = {"chunk_count": attempt.chunk_count + len(new)}
            if attempt.first_token_at is None:
                fields["first_token_at"] = attempt.first_token_at = timezone.now()
            if not Attempt.objects.running().filter(pk=attempt.pk).update(**fields):
                stale.append(attempt)
                continue
            attempt.chunk_count += len(new)
            chunks += new
        Chunk.objects.bulk_create(chunks)
        for attempt, new in batches:
            if attempt not in stale:
                ids = [chunk.pk for chunk in new]
                events.append(
                    Event(
                        kind="prompt.output",
                        subject=str(attempt.prompt_id),
                        data={"chunks": ids, "attempt": attempt.number},
                    )
                )
        record_many(events)
    return stale


def note_progress(attempt: Attempt, progress: dict) -> None:
    """Keep what happens before the first token, unless the attempt has ended."""
    with writing():
        if Attempt.objects.running().filter(pk=attempt.pk).update(progress=progress):
            ids = {"attempt": attempt.number, "attempt_id": attempt.pk}
            record("prompt.progress", attempt.prompt_id, **progress, **ids)


def reclassify(attempt: Attempt, up_to: int) -> None:
    """All that was stored as answer, up to the chunk with this `seq`, was reasoning: its closing tag came without
    an opening one. What is behind may be stored already and stays as it is."""
    with writing():
        if not Attempt.objects.running().filter(pk=attempt.pk).exists():
            return
        length = 0
        for chunk in attempt.chunks.filter(seq__lte=up_to).order_by("seq"):
            Chunk.objects.filter(pk=chunk.pk).update(kind=Kind.REASONING, offset=length)
            length += len(chunk.text)
        record("prompt.reclassified", attempt.prompt_id)
