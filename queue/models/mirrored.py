"""A client's prompts as its server has them: the one door through which the server's word gets in, and how a prompt
looks that is here, there or on its way (docs/sync.md, "States on the device")."""

import logging
import uuid
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.db.models import Prefetch, QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from daemonpulse.models.event import Event, record, record_many, writing
from fleet.daemons.errors import Reason
from pulse.thinking import Kind

from ..states import ENDED, PRIORITIES, Outcome, State
from .attempt import Attempt, Chunk, append
from .lane import Lane
from .remote import Mirror, Mutation, Remote

log = logging.getLogger(__name__)

RUNNER = "server"
FEW = 500  # ids in one query
OUTCOMES = {State.DONE: Outcome.DONE, State.FAILED: Outcome.FAILED, State.CANCELLED: Outcome.CANCELLED}


def with_whereabouts(prompts: QuerySet) -> QuerySet:
    """For lists on a client: what the properties below look at, in one query more for all of them."""
    if not settings.IS_CLIENT:
        return prompts
    return prompts.select_related("mirror").prefetch_related(Prefetch("mutations", Mutation.objects.without_texts()))


class Mirrored:
    """The part of Prompt (prompt.py) that knows of a server."""

    @property
    def is_on_server(self) -> bool:
        """Whether a server has told of it; always false on the server itself."""
        return settings.IS_CLIENT and getattr(self, "mirror", None) is not None

    @property
    def on_its_way(self) -> list[Mutation]:
        """What is still to be sent about it, in order."""
        return [each for each in self.mutations.all() if not each.is_refused] if settings.IS_CLIENT else []

    @property
    def refused(self) -> list[Mutation]:
        """What the server did not accept, until somebody changes or discards it."""
        return [each for each in self.mutations.all() if each.is_refused] if settings.IS_CLIENT else []

    @property
    def is_changing(self) -> bool:
        return any(not each.is_submit for each in self.on_its_way)

    @property
    def wanted(self) -> dict:
        """The fields of the last edit that the server has not taken; empty without one."""
        edits = [each for each in self.mutations.all() if each.kind == Mutation.Kind.EDIT] if settings.IS_CLIENT else []
        return edits[-1].fields if edits else {}

    @property
    def state_words(self) -> str:
        """The state as people read it; on a client also where a waiting prompt waits."""
        words = self.get_state_display().lower()
        if not settings.IS_CLIENT or self.state != State.QUEUED:
            return words
        if any(each.is_submit for each in self.refused):
            return "not accepted"
        return "queued there" if self.is_on_server else "queued here"

    @classmethod
    def mirror_page(cls, remote: Remote, changes: list[dict], removed: list[str]) -> None:
        """Take over what the server told, as docs/sync.md has a change; the caller's transaction has the cursor too.

        The only door for states on a client. Telling the same again changes nothing and is no event.
        """
        with writing():
            leaving = set(Mutation.objects.filter(kind=Mutation.Kind.DELETE).values_list("prompt_id", flat=True))
            ids = [uuid.UUID(change["id"]) for change in changes]
            known = {row.pk: row for row in cls.objects.filter(pk__in=ids).select_related("mirror", "lane")}
            events = []
            for pk, change in zip(ids, changes, strict=True):
                if pk not in leaving:
                    events += cls._mirror(remote, known.get(pk), pk, change)
            record_many(events)
            cls._forget(remote, [uuid.UUID(text) for text in removed])
            cls._link(remote)

    @classmethod
    def _mirror(cls, remote: Remote, prompt, pk: uuid.UUID, change: dict) -> list[Event]:
        try:
            state = State(change["state"])
        except ValueError:
            log.warning("mirror.state_unknown prompt=%s", pk)
            return []
        values = _values(change, state)
        is_new = prompt is None
        before = None if is_new else {name: getattr(prompt, name) for name in values}
        if is_new:
            prompt = cls(pk=pk, owner_id=remote.owner_id, position=values["enqueued_at"].timestamp())
        was_there = not is_new and getattr(prompt, "mirror", None) is not None
        for name, value in values.items():
            setattr(prompt, name, value)
        if is_new or before != values:
            prompt.save(force_insert=is_new)
        follows = uuid.UUID(change["follows"]) if change.get("follows") else None
        there = {"server": remote.server, "listing": remote.listing, "follows": follows}
        Mirror.objects.update_or_create(prompt=prompt, defaults=there)
        has_news = _mirror_attempt(prompt, change) | (not was_there)
        if is_new or before["state"] != state or before["attempt_number"] != prompt.attempt_number:
            return [prompt._event_of(state, prompt.attempt_number)]
        return [_edited(prompt)] if has_news or before != values else []

    @classmethod
    def confirm(cls, remote: Remote, pk: uuid.UUID, state: str | None) -> None:
        """The server has taken a submit: it is there now; the next pull tells how."""
        prompt = cls.objects.filter(pk=pk).first()
        if prompt is None:  # deleted here meanwhile
            return
        _, is_new = Mirror.objects.get_or_create(
            prompt=prompt, defaults={"server": remote.server, "listing": remote.listing, "follows": prompt.follows_id}
        )
        if is_new and state == prompt.state:
            record_many([_edited(prompt)])

    @classmethod
    def forget_unlisted(cls, remote: Remote) -> None:
        """At the end of a listing: what this server did not list, it does not have."""
        gone = Mirror.objects.filter(server=remote.server, listing__lt=remote.listing)
        cls._forget(remote, list(gone.values_list("prompt_id", flat=True)))

    @classmethod
    def _forget(cls, remote: Remote, ids: list[uuid.UUID]) -> None:
        for start in range(0, len(ids), FEW):
            gone = cls.objects.filter(pk__in=ids[start : start + FEW], mirror__server=remote.server)
            for pk, lane in gone.values_list("pk", "lane_id"):
                record("prompt.removed", pk, owner_id=remote.owner_id, lane=lane)
            gone.delete()

    @classmethod
    def _link(cls, remote: Remote) -> None:
        """A listing tells the newest first, so what a prompt follows may come after it."""
        loose = Mirror.objects.filter(server=remote.server, prompt__follows=None).exclude(follows=None)
        wanted = dict(loose.values_list("prompt_id", "follows"))
        there = set(cls.objects.filter(pk__in=set(wanted.values())).values_list("pk", flat=True)) if wanted else set()
        for pk, earlier in wanted.items():
            if earlier in there:
                cls.objects.filter(pk=pk).update(follows=earlier)


def _values(change: dict, state: State) -> dict:
    """The columns of a prompt from a change."""
    reason = change.get("reason") or ""
    detail = change.get("detail") or ""
    if reason not in set(Reason):  # of a newer server: its words are all we have
        detail = "\n".join(filter(None, [change.get("explanation"), detail]))
        reason = ""
    at = _time(change["enqueued_at"]) or timezone.now()
    return {
        "lane": Lane.for_model(change["model"]),
        "text": change["text"],
        "system_prompt": change.get("system_prompt") or "",
        "settings": change.get("settings") or {},
        "priority": PRIORITIES.get(change.get("priority"), 0),
        "state": state,
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


def _edited(prompt) -> Event:
    lane = {"lane": prompt.lane_id}
    return Event(kind="prompt.edited", subject=str(prompt.pk), owner_id=prompt.owner_id, data=lane)


def _mirror_attempt(prompt, change: dict) -> bool:
    """The attempt that the change tells of; whether anything of it is new."""
    if not prompt.attempt_number:
        return False
    for older in prompt.attempts.running().filter(number__lt=prompt.attempt_number):
        older.fold(Outcome.RELEASED)
    started = {"runner": RUNNER, "leased_until": timezone.now(), "started_at": prompt.started_at or timezone.now()}
    attempt, is_new = prompt.attempts.get_or_create(number=prompt.attempt_number, defaults=started)
    texts = {Kind.REASONING: change.get("reasoning") or "", Kind.MESSAGE: change.get("answer") or ""}
    if prompt.state == State.SENDING:
        return _go_on(attempt, texts) | is_new
    return _end(attempt, prompt, texts, change.get("stats") or {}) | is_new


def _end(attempt: Attempt, prompt, texts: dict[Kind, str], stats: dict) -> bool:
    outcome = OUTCOMES.get(prompt.state, Outcome.FAILED if prompt.reason else Outcome.RELEASED)
    values = {
        "outcome": outcome, "reasoning": texts[Kind.REASONING], "answer": texts[Kind.MESSAGE], "stats": stats,
        "finished_at": prompt.finished_at, "reason": prompt.reason, "detail": prompt.detail,
    }  # fmt: skip
    if prompt.started_at and prompt.state in ENDED:
        values["started_at"] = prompt.started_at
    if values == {name: getattr(attempt, name) for name in values}:
        return False
    Attempt.objects.filter(pk=attempt.pk).update(**values)
    attempt.chunks.all().delete()
    return True


def _go_on(attempt: Attempt, texts: dict[Kind, str]) -> bool:
    """While it runs its text is in chunks: append what is new, or begin again where it was sorted anew."""
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


def continue_attempt(attempt: Attempt, pieces: list[tuple[Kind, int, str]]) -> bool:
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


def take_pieces(pieces: list[dict]) -> set[str]:
    """Pieces of output as the socket brings them; returns the prompts of those that do not continue what is here."""
    strangers = set()
    with transaction.atomic():
        for piece in pieces:
            if not _take_piece(piece):
                strangers.add(piece["prompt"])
    return strangers


def _take_piece(piece: dict) -> bool:
    attempt = Attempt.objects.running().filter(prompt=piece["prompt"], number=piece["attempt"]).first()
    if attempt is None:
        return False
    kind = Kind.REASONING if piece["kind"] == "reasoning" else Kind.MESSAGE
    last = attempt.chunks.filter(kind=kind).order_by("-offset").first()
    length = last.offset + len(last.text) if last else 0
    if piece["offset"] > length:
        return False
    rest = piece["text"][length - piece["offset"] :]
    continue_attempt(attempt, [(kind, length, rest)])
    return True
