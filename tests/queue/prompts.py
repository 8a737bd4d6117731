"""Prompts in the situations that tests need, and what their log says."""

from datetime import timedelta

from django.utils import timezone

from daemonpulse.models import Event
from daemonpulse.queue.models import Attempt, Prompt
from daemonpulse.queue.models.attempt import Chunk, append
from fleet.daemons.errors import DaemonError, Reason
from pulse.thinking import Kind

RUNNER = "runner/1"
CUT = DaemonError(Reason.CUT, "the wire was cut")
HOPELESS = DaemonError(Reason.BAD_REQUEST, "no such setting")


def submit(owner, text="Why is the sky blue?", model="otter", **fields) -> Prompt:
    return Prompt.submit(owner=owner, model=model, text=text, **fields)[0]


def claim(prompt: Prompt, node, runner: str = RUNNER) -> Attempt | None:
    """Claim the next prompt of this prompt's lane."""
    return Prompt.claim_next(prompt.lane_id, node.pk, runner)


def running(owner, node, **fields) -> tuple[Prompt, Attempt]:
    attempt = claim(submit(owner, **fields), node)
    return attempt.prompt, attempt


def stream(attempt: Attempt, *pieces: tuple[Kind, str]) -> None:
    """Store these pieces as one chunk each."""
    lengths = {Kind.REASONING: 0, Kind.MESSAGE: 0}
    for chunk in attempt.chunks.order_by("seq"):
        lengths[Kind(chunk.kind)] += len(chunk.text)
    chunks = []
    for seq, (kind, text) in enumerate(pieces, attempt.chunk_count + 1):
        chunks.append(Chunk(attempt=attempt, seq=seq, kind=kind, offset=lengths[kind], text=text, tokens=1))
        lengths[kind] += len(text)
    append([(attempt, chunks)])


def done(owner, node, answer="Because.", reasoning="", **fields) -> Prompt:
    prompt, attempt = running(owner, node, **fields)
    pieces = [(Kind.REASONING, reasoning)] if reasoning else []
    assert prompt.finish(attempt, [*pieces, (Kind.MESSAGE, answer)], {"output_tokens": 1}, "resp_1")
    return prompt


def failed(owner, node, **fields) -> Prompt:
    prompt, attempt = running(owner, node, **fields)
    assert prompt.fail(attempt, HOPELESS)
    return prompt


def cancelled(owner, **fields) -> Prompt:
    prompt = submit(owner, **fields)
    assert prompt.cancel()
    return prompt


def die(attempt: Attempt) -> None:
    """Its worker is gone: the lease has run out."""
    Attempt.objects.filter(pk=attempt.pk).update(leased_until=timezone.now() - timedelta(seconds=1))


def make_due(prompt: Prompt) -> None:
    Prompt.objects.filter(pk=prompt.pk).update(due_at=timezone.now())


def fresh(row):
    return type(row).objects.get(pk=row.pk)


def kinds_of(prompt: Prompt) -> list[str]:
    """The kinds of a prompt's events, in order, without those of its output."""
    events = Event.objects.filter(subject=str(prompt.pk)).order_by("id")
    return [event.kind for event in events if not event.is_transient]
