"""A client's prompts as its server has them: the one door through which the server's word gets in, and how a prompt
looks that is here, there or on its way (docs/sync.md, "States on the device")."""

import uuid

from django.conf import settings
from django.db import transaction
from django.db.models import Prefetch, QuerySet

from daemonpulse.models.event import Event, record_many, writing
from pulse.thinking import Kind

from .. import outbox
from ..states import Outcome, State
from .attempt import Attempt, note_progress
from .mirroring import Page, continue_attempt, edited
from .remote import Mirror, Mutation, Remote

FEW = 500  # ids in one query
PHASES = frozenset({"load", "prompt"})
LOST = {
    "code": "lost",
    "message": "The server was put back to an earlier state, perhaps from a backup. Send it again, or discard it: it "
    "may have run there before.",
}


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
    def carried(self) -> list[str]:
        """The kinds of what is still to be done with it there, in order; without its submit."""
        return [each.kind for each in self.on_its_way if not each.is_submit]

    @property
    def is_changing(self) -> bool:
        return bool(self.carried)

    @property
    def change_words(self) -> str:
        """What is on its way, as people read it: the last of it decides."""
        return f"{Mutation.Kind(self.carried[-1]).label.lower()} on its way" if self.carried else ""

    @property
    def shows_the_change(self) -> bool:
        """Whether it stands here as its last edit has it, and not as the server told."""
        here = {"system_prompt": ""} | outbox.submission(self)
        return all(here.get(name) == value for name, value in self.wanted.items())

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
    def mirror_page(cls, remote: Remote, changes: list[dict], removed: list[str]) -> int:
        """Take over what the server told, as docs/sync.md has a change; the caller's transaction has the cursor too.

        The only door for states on a client. Telling the same again changes nothing and is no event. Returns how many
        prompts were done and are told otherwise, so that what was known of them was kept beside.
        """
        with writing():
            page = Page(cls, remote, changes)
            page.take_over()
            cls._forget(remote, [uuid.UUID(text) for text in removed])
        return page.put_aside

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
            record_many([edited(prompt)])

    @classmethod
    def forget_unlisted(cls, remote: Remote) -> None:
        """At the end of a listing: what this server did not list, it does not have."""
        gone = Mirror.objects.filter(server=remote.server, listing__lt=remote.listing)
        cls._forget(remote, list(gone.values_list("prompt_id", flat=True)))

    @classmethod
    def _forget(cls, remote: Remote, ids: list[uuid.UUID]) -> None:
        for start in range(0, len(ids), FEW):
            gone = cls.objects.filter(pk__in=ids[start : start + FEW], mirror__server=remote.server)
            record_many([_gone(remote, pk, lane) for pk, lane in gone.values_list("pk", "lane_id")])
            gone.delete()

    @classmethod
    def ask_about_lost(cls, remote: Remote) -> int:
        """What waited on a server that was put back to an earlier state and does not have it any more: a person
        says whether it is sent again, because it may have run there. Returns how many these are."""
        with writing():
            lost = list(cls.objects.open().filter(mirror__server=Mirror.earlier(remote.server)))
            ids = [prompt.pk for prompt in lost]
            Mirror.objects.filter(pk__in=ids).delete()
            cls.objects.filter(pk__in=ids).update(state=State.QUEUED, started_at=None)
            for running in Attempt.objects.running().filter(prompt__in=ids):
                running.fold(Outcome.LOST)
            outbox.ask(lost, LOST)
            record_many([edited(prompt) for prompt in lost])
        return len(lost)


def _gone(remote: Remote, pk: uuid.UUID, lane_id: int) -> Event:
    return Event(kind="prompt.removed", subject=str(pk), owner_id=remote.owner_id, data={"lane": lane_id})


def take_pieces(pieces: list[dict]) -> set[str]:
    """Pieces of output as the socket brings them; returns the prompts of those that do not continue what is here."""
    strangers = set()
    with transaction.atomic():
        for piece in pieces:
            if not _take_piece(piece):
                strangers.add(piece["prompt"])
    return strangers


def take_progress(told: dict) -> bool:
    """How far the server is before the first word, for viewers as on the server; False where that is of no use here."""
    phase, fraction = told.get("phase"), told.get("fraction")
    is_number = isinstance(fraction, int | float) and not isinstance(fraction, bool) and 0 <= fraction <= 1
    try:
        pk = uuid.UUID(str(told.get("prompt")))
    except ValueError:
        return False
    attempt = Attempt.objects.running().filter(prompt=pk, first_token_at=None).order_by("-number").first()
    if attempt is None or phase not in PHASES or not (is_number or fraction is None):
        return False
    note_progress(attempt, {"phase": phase, "fraction": fraction})
    return True


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
