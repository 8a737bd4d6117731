"""A page of what the server told becomes rows, with a few queries for all of it (docs/sync.md, "A change")."""

import logging
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from daemonpulse.models.event import Event, record, record_many
from fleet.daemons.errors import Reason
from pulse.thinking import Kind

from ..states import ENDED, PRIORITIES, Outcome, State
from .attempt import Attempt, Chunk, append
from .lane import Lane
from .remote import Mirror, Mutation, Remote

log = logging.getLogger(__name__)

RUNNER = "server"
OUTCOMES = {State.DONE: Outcome.DONE, State.FAILED: Outcome.FAILED, State.CANCELLED: Outcome.CANCELLED}
ATTEMPT_FIELDS = ("outcome", "reasoning", "answer", "stats", "started_at", "finished_at", "reason", "detail")


@dataclass(slots=True)
class Row:
    """One change: what is told, the prompt that gets it, and its columns before (None for a new prompt)."""

    told: dict
    prompt: object
    values: dict
    before: dict | None
    mirror: Mirror | None

    @property
    def is_moved(self) -> bool:
        return self.before is None or self._differs("state", "attempt_number")

    @property
    def follows(self) -> uuid.UUID | None:
        return uuid.UUID(self.told["follows"]) if self.told.get("follows") else None

    @property
    def is_told_otherwise(self) -> bool:
        """It was done, and is not, or in another way: only a server that was put back to an earlier state says so."""
        if self.before is None or self.mirror is None or self.before["state"] != State.DONE:
            return False
        return self._differs("state", "attempt_number", "finished_at")

    def _differs(self, *names: str) -> bool:
        return any(self.before[name] != self.values[name] for name in names)


class Page:
    """`prompts` is the class Prompt. Belongs in the transaction that stores the cursor."""

    def __init__(self, prompts, remote: Remote, changes: list[dict]):
        self.prompts, self.remote = prompts, remote
        told = {uuid.UUID(change["id"]): change for change in changes if _is_understood(change)}
        deletions = Mutation.objects.filter(kind=Mutation.Kind.DELETE, prompt__in=list(told))
        for pk in set(deletions.values_list("prompt_id", flat=True)):
            del told[pk]
        known = prompts.objects.filter(pk__in=list(told)).select_related("mirror").in_bulk()
        lanes = _lanes({change["model"] for change in told.values()})
        self.rows = [self._row(known.get(pk), pk, change, lanes) for pk, change in told.items()]
        self.attempts = _attempts(self.rows)
        self.put_aside = 0

    def _row(self, prompt, pk: uuid.UUID, change: dict, lanes: dict[str, Lane]) -> Row:
        values = _values(change, lanes[change["model"]])
        before = {name: getattr(prompt, name) for name in values if name != "lane"} if prompt is not None else None
        if before is not None:
            before["lane"] = next((lane for lane in lanes.values() if lane.pk == prompt.lane_id), None)
        mirror = getattr(prompt, "mirror", None)
        if prompt is None:
            prompt = self.prompts(pk=pk, owner_id=self.remote.owner_id, position=values["enqueued_at"].timestamp())
        return Row(change, prompt, values, before, mirror)

    def take_over(self) -> None:
        """1. What was done and is told otherwise is kept beside. 2. The prompts. 3. That the server has them.
        4. Their attempts. 5. What viewers hear of it. 6. Who follows whom."""
        self._put_aside()  # 1
        self._store_prompts()  # 2
        self._store_mirrors()  # 3
        news = self._store_attempts()  # 4
        record_many([event for row in self.rows for event in self._events(row, row.prompt.pk in news)])  # 5
        self._link()  # 6

    def _put_aside(self) -> None:
        for row in self.rows:
            pk, number = row.prompt.pk, row.values["attempt_number"]
            if row.is_told_otherwise:
                _keep_beside(row.prompt, self.remote)
                self.attempts.pop(pk, None)
                self.put_aside += 1
            elif row.before and number < row.before["attempt_number"]:
                Attempt.objects.filter(prompt=pk, number__gt=number).delete()
                self.attempts[pk] = {n: one for n, one in self.attempts.get(pk, {}).items() if n <= number}

    def _store_prompts(self) -> None:
        for row in self.rows:
            for name, value in row.values.items():
                setattr(row.prompt, name, value)
        self.prompts.objects.bulk_create(row.prompt for row in self.rows if row.before is None)
        changed = [row for row in self.rows if row.before is not None and row.before != row.values]
        if changed:
            self.prompts.objects.bulk_update([row.prompt for row in changed], list(changed[0].values))

    def _store_mirrors(self) -> None:
        there = {"server": self.remote.server, "listing": self.remote.listing}
        known = [row.mirror for row in self.rows if row.mirror is not None]
        Mirror.objects.filter(pk__in=[mirror.pk for mirror in known]).update(**there)
        new = [row for row in self.rows if row.mirror is None]
        Mirror.objects.bulk_create(Mirror(prompt=row.prompt, follows=row.follows, **there) for row in new)
        # What was not accepted came there in another way, such as from another device: nobody has to see to it.
        refused = Mutation.objects.refused().filter(prompt__in=[row.prompt.pk for row in new])
        refused.filter(kind=Mutation.Kind.SUBMIT).delete()
        for row in self.rows:
            if row.mirror is not None and row.mirror.follows != row.follows:
                Mirror.objects.filter(pk=row.mirror.pk).update(follows=row.follows)

    def _events(self, row: Row, has_news: bool) -> list[Event]:
        if row.is_moved:
            return [row.prompt._event_of(row.values["state"], row.values["attempt_number"])]
        return [edited(row.prompt)] if has_news or row.mirror is None or row.before != row.values else []

    def _link(self) -> None:
        """A listing tells the newest first, so what a prompt follows may come after it."""
        page = [row.prompt.pk for row in self.rows]
        loose = Mirror.objects.filter(server=self.remote.server, prompt__follows=None).exclude(follows=None)
        wanted = dict(loose.filter(Q(prompt__in=page) | Q(follows__in=page)).values_list("prompt_id", "follows"))
        if not wanted:
            return
        there = set(self.prompts.objects.filter(pk__in=set(wanted.values())).values_list("pk", flat=True))
        linked = [self.prompts(pk=pk, follows_id=earlier) for pk, earlier in wanted.items() if earlier in there]
        self.prompts.objects.bulk_update(linked, ["follows"])

    # Attempts

    def _store_attempts(self) -> set[uuid.UUID]:
        """The attempts that the changes tell of; returns the prompts of which anything of it is new."""
        news, new, changed = set(), [], []
        for row in self.rows:
            prompt, number = row.prompt, row.values["attempt_number"]
            if not number:
                continue
            known = self.attempts.get(prompt.pk, {})
            for older in [each for each in known.values() if each.is_running and each.number < number]:
                older.fold(Outcome.RELEASED)
            attempt = known.get(number) or _new_attempt(prompt)
            if prompt.state == State.SENDING:
                has_news = _go_on(attempt, _texts(row.told)) | (number not in known)
            elif has_news := _end(attempt, prompt, row.told):
                (changed if number in known else new).append(attempt)
            news |= {prompt.pk} if has_news else set()
        Attempt.objects.bulk_create(new)
        if changed:
            Attempt.objects.bulk_update(changed, ATTEMPT_FIELDS)
            Chunk.objects.filter(attempt__in=changed).delete()
        return news


def _is_understood(change: dict) -> bool:
    if change["state"] in set(State):
        return True
    log.warning("mirror.state_unknown prompt=%s", uuid.UUID(change["id"]))
    return False


def _lanes(models: set[str]) -> dict[str, Lane]:
    known = {lane.model: lane for lane in Lane.objects.filter(model__in=models)}
    return known | {model: Lane.for_model(model) for model in models - known.keys()}


def _attempts(rows: list[Row]) -> dict[uuid.UUID, dict[int, Attempt]]:
    """Of prompts that were here before: the attempts that run or that are told of, by prompt and number."""
    numbers = {row.values["attempt_number"] for row in rows}
    known = [row.prompt.pk for row in rows if row.before is not None]
    found: dict[uuid.UUID, dict[int, Attempt]] = {}
    attempts = Attempt.objects.filter(prompt__in=known)
    for attempt in attempts.filter(Q(outcome=Outcome.RUNNING) | Q(number__in=numbers)):
        found.setdefault(attempt.prompt_id, {})[attempt.number] = attempt
    return found


def _new_attempt(prompt) -> Attempt:
    now = timezone.now()
    started = {"runner": RUNNER, "leased_until": now, "started_at": prompt.started_at or now}
    return Attempt(prompt_id=prompt.pk, number=prompt.attempt_number, **started)


def _texts(change: dict) -> dict[Kind, str]:
    return {Kind.REASONING: change.get("reasoning") or "", Kind.MESSAGE: change.get("answer") or ""}


def _keep_beside(prompt, remote: Remote) -> None:
    """As a prompt of its own, with its answer: the server does not know of that any more."""
    copy = type(prompt).objects.get(pk=prompt.pk)
    copy.pk = uuid.uuid4()
    copy.save(force_insert=True)
    Attempt.objects.filter(prompt=prompt.pk).update(prompt=copy)
    Mirror.objects.create(prompt=copy, server=Mirror.earlier(remote.server))
    record_many([copy._event_of(copy.state, copy.attempt_number)])


def _values(change: dict, lane: Lane) -> dict:
    """The columns of a prompt from a change."""
    reason = change.get("reason") or ""
    detail = change.get("detail") or ""
    if reason not in set(Reason):  # of a newer server: its words are all we have
        detail = "\n".join(filter(None, [change.get("explanation"), detail]))
        reason = ""
    at = _time(change["enqueued_at"]) or timezone.now()
    return {
        "lane": lane,
        "text": change["text"],
        "system_prompt": change.get("system_prompt") or "",
        "settings": change.get("settings") or {},
        "priority": PRIORITIES.get(change.get("priority"), 0),
        "state": State(change["state"]),
        "attempt_number": change["attempts"],
        "reason": reason,
        "detail": detail,
        "enqueued_at": at,
        "due_at": at,
        "started_at": _time(change.get("started_at")),
        "finished_at": _time(change.get("finished_at")),
    }


def _time(text: str | None) -> datetime | None:
    return parse_datetime(text) if text else None


def edited(prompt) -> Event:
    lane = {"lane": prompt.lane_id}
    return Event(kind="prompt.edited", subject=str(prompt.pk), owner_id=prompt.owner_id, data=lane)


def _end(attempt: Attempt, prompt, told: dict) -> bool:
    """Give it what is told of its end; whether anything of it is new. The caller stores it."""
    texts = _texts(told)
    values = {
        "outcome": OUTCOMES.get(prompt.state, Outcome.FAILED if prompt.reason else Outcome.RELEASED),
        "reasoning": texts[Kind.REASONING], "answer": texts[Kind.MESSAGE], "stats": told.get("stats") or {},
        "finished_at": prompt.finished_at, "reason": prompt.reason, "detail": prompt.detail,
    }  # fmt: skip
    if prompt.started_at and prompt.state in ENDED:
        values["started_at"] = prompt.started_at
    if attempt.pk is not None and values == {name: getattr(attempt, name) for name in values}:
        return False
    for name, value in values.items():
        setattr(attempt, name, value)
    return True


def _go_on(attempt: Attempt, texts: dict[Kind, str]) -> bool:
    """While it runs its text is in chunks: append what is new, or begin again where it was sorted anew."""
    if attempt.pk is None:
        attempt.save()
    if not attempt.is_running:  # an older page of the same pull told of its end, or it was put back
        Attempt.objects.filter(pk=attempt.pk).update(outcome=Outcome.RUNNING, chunk_count=0, finished_at=None)
        attempt.refresh_from_db()
    have = attempt.texts()
    if any(not texts[kind].startswith(have[kind]) and not have[kind].startswith(texts[kind]) for kind in texts):
        attempt.chunks.all().delete()
        Attempt.objects.filter(pk=attempt.pk).update(chunk_count=0)
        attempt.chunk_count, have = 0, dict.fromkeys(texts, "")
        record("prompt.reclassified", attempt.prompt_id)
    return continue_attempt(attempt, [(kind, len(have[kind]), texts[kind][len(have[kind]) :]) for kind in texts])


def continue_attempt(attempt: Attempt, pieces: Iterable[tuple[Kind, int, str]]) -> bool:
    """Store pieces (kind, offset, text) that continue what is there, with the event that viewers wait for."""
    new = [(kind, offset, text) for kind, offset, text in pieces if text]
    seqs = range(attempt.chunk_count + 1, attempt.chunk_count + 1 + len(new))
    chunks = [
        Chunk(attempt=attempt, seq=seq, kind=kind, offset=offset, text=text)
        for seq, (kind, offset, text) in zip(seqs, new, strict=True)
    ]
    if chunks:
        append([(attempt, chunks)])
    return bool(chunks)
