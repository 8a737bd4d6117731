"""What viewers are sent while a prompt streams; made once for all of them (see daemonpulse/tail.py)."""

from collections import defaultdict

from django.utils.html import escape

from daemonpulse.models import Event
from pulse.thinking import Kind

from .models import Attempt, Chunk, Prompt

ELEMENT = {Kind.REASONING: "reasoning", Kind.MESSAGE: "answer"}


def output_message(events: list[Event]) -> dict[int, dict]:
    """event id → {"pieces": [...]} for "prompt.output" events, with one query for all of them.

    A piece: attempt (pk), kind, offset, text, tokens and html, which appends the text on the prompt's page.
    Chunks that have been folded meanwhile are missing; the viewer then hears of the end and reads the whole.
    """
    wanted = {pk for event in events for pk in event.data.get("chunks", ())}
    chunks = {chunk.pk: chunk for chunk in Chunk.objects.filter(pk__in=wanted)}
    return {
        event.id: {"pieces": [_piece(chunks[pk]) for pk in event.data.get("chunks", ()) if pk in chunks]}
        for event in events
    }


def _piece(chunk: Chunk) -> dict:
    target = f"{ELEMENT[Kind(chunk.kind)]}-{chunk.attempt_id}"
    return {
        "attempt": chunk.attempt_id,
        "kind": chunk.kind,
        "offset": chunk.offset,
        "text": chunk.text,
        "tokens": chunk.tokens,
        "html": f'<div hx-swap-oob="beforeend:#{target}">{escape(chunk.text)}</div>',
    }


class Position:
    """How much of which attempt a viewer has: characters of reasoning and of answer."""

    def __init__(self, attempt_id: int | None = None, reasoning: int = 0, answer: int = 0):
        self.attempt_id = attempt_id
        self.lengths = defaultdict(int, {Kind.REASONING: reasoning, Kind.MESSAGE: answer})

    @classmethod
    def of(cls, attempt: Attempt | None, texts: dict[Kind, str]) -> "Position":
        if attempt is None:
            return cls()
        return cls(attempt.pk, len(texts[Kind.REASONING]), len(texts[Kind.MESSAGE]))

    def knows_or_continues(self, pieces: list[dict]) -> bool:
        """Whether these pieces can be taken in order without missing anything in between."""
        trial = Position(self.attempt_id, self.lengths[Kind.REASONING], self.lengths[Kind.MESSAGE])
        return all(trial.accepts(piece) is not None for piece in pieces)

    def accepts(self, piece: dict) -> bool | None:
        """True: the piece is next (and is counted); False: it is known already; None: something is missing."""
        kind = Kind(piece["kind"])
        if piece["attempt"] != self.attempt_id or piece["offset"] > self.lengths[kind]:
            return None
        if piece["offset"] < self.lengths[kind]:
            return False
        self.lengths[kind] += len(piece["text"])
        return True


def texts_of(prompt: Prompt) -> tuple[Attempt | None, dict[Kind, str]]:
    """The attempt to show for a prompt, and its texts so far."""
    attempt = prompt.attempt()
    return attempt, attempt.texts() if attempt else {Kind.REASONING: "", Kind.MESSAGE: ""}
