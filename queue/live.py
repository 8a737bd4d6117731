"""What viewers are sent while a prompt streams; made once for all of them (see daemonpulse/tail.py)."""

from collections import defaultdict

from django.template.loader import get_template
from django.utils.html import escape

from daemonpulse.models import Event
from pulse.thinking import Kind

from .models import Attempt, Chunk
from .states import Outcome

ELEMENT = {Kind.REASONING: "reasoning", Kind.MESSAGE: "answer"}


def output_message(events: list[Event]) -> dict[int, dict]:
    """event id → {"pieces": [...]} for "prompt.output" events, with one query for all of them.

    A piece: attempt (number), kind, offset, text, tokens and html, which appends the text on the prompt's page.
    Chunks that have been folded meanwhile are missing; the viewer then hears of the end and reads the whole.
    """
    wanted = {pk for event in events for pk in event.data["chunks"]}
    chunks = {chunk.pk: chunk for chunk in Chunk.objects.filter(pk__in=wanted)}
    return {
        event.id: {"pieces": [_piece(chunks[pk], event.data["attempt"]) for pk in event.data["chunks"] if pk in chunks]}
        for event in events
    }


def _piece(chunk: Chunk, number: int) -> dict:
    target = f"{ELEMENT[Kind(chunk.kind)]}-{chunk.attempt_id}"
    html = f'<div hx-swap-oob="beforeend:#{target}">{escape(chunk.text)}</div>'
    if chunk.kind == Kind.REASONING:
        html += f'<span id="reasoning-tokens-{chunk.attempt_id}">about {chunk.tokens} tokens</span>'
    return {
        "attempt": number,
        "kind": chunk.kind,
        "offset": chunk.offset,
        "text": chunk.text,
        "tokens": chunk.tokens,
        "html": html,
    }


def finished_message(events: list[Event]) -> dict[int, dict]:
    """event id → {"texts", "stats"} of the answer, for "prompt.finished" events, with one query for all of them."""
    ids = [event.subject for event in events]
    attempts = {str(a.prompt_id): a for a in Attempt.objects.filter(prompt__in=ids, outcome=Outcome.DONE)}
    return {
        event.id: {"texts": attempt.texts(), "stats": attempt.stats}
        for event in events
        if (attempt := attempts.get(event.subject)) and attempt.number == event.data["attempt"]
    }


def progress_message(events: list[Event]) -> dict[int, dict]:
    """event id → {"html": the progress bar} for "prompt.progress" events."""
    template = get_template("queue/_progress.html")
    return {
        event.id: {"html": template.render({"progress": event.data, "id": f"attempt-{event.data['attempt_id']}"})}
        for event in events
    }


class Position:
    """How much of which attempt a viewer has: characters of reasoning and of answer."""

    def __init__(self, attempt: int = 0, reasoning: int = 0, answer: int = 0):
        self.attempt = attempt  # number; 0 before the first
        self.lengths = defaultdict(int, {Kind.REASONING: reasoning, Kind.MESSAGE: answer})

    @classmethod
    def of(cls, attempt: Attempt | None, texts: dict[Kind, str]) -> "Position":
        if attempt is None:
            return cls()
        return cls(attempt.number, len(texts[Kind.REASONING]), len(texts[Kind.MESSAGE]))

    @property
    def is_empty(self) -> bool:
        return not any(self.lengths.values())

    def begin(self, attempt: int) -> None:
        """A new attempt: nothing of it yet."""
        self.attempt = attempt
        self.lengths.clear()

    def copy(self) -> "Position":
        return Position(self.attempt, self.lengths[Kind.REASONING], self.lengths[Kind.MESSAGE])

    def is_before_text_of(self, attempt: int) -> bool:
        return self.attempt == attempt and self.is_empty

    def knows_or_continues(self, pieces: list[dict]) -> bool:
        """Whether these pieces can be taken in order without missing anything in between."""
        trial = self.copy()
        return bool(pieces) and all(trial.accepts(piece) is not None for piece in pieces)

    def accepts(self, piece: dict) -> bool | None:
        """True: the piece is next (and is counted); False: it is known already; None: something is missing."""
        kind = Kind(piece["kind"])
        if piece["attempt"] != self.attempt or piece["offset"] > self.lengths[kind]:
            return None
        if piece["offset"] < self.lengths[kind]:
            return False
        self.lengths[kind] += len(piece["text"])
        return True


def last_attempt_with_texts(prompt_id) -> tuple[Attempt | None, dict[Kind, str]]:
    """The attempt to show for a prompt (with its prompt and its node) and its texts so far."""
    attempts = Attempt.objects.filter(prompt=prompt_id).select_related("prompt", "node")
    attempt = attempts.defer("prompt__text", "prompt__system_prompt", "prompt__detail").order_by("-number").first()
    return attempt, attempt.texts() if attempt else {Kind.REASONING: "", Kind.MESSAGE: ""}
