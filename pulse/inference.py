"""Run one request on a daemon: the answer as pieces with a kind, and what it measured."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from fleet.daemons.base import ChatStream
from fleet.daemons.types import Finished, Message, Progress, Reasoning, Started, ToolCall
from pulse.thinking import Kind, ThinkSeparator

DEFAULT_TAGS = ("<think>", "</think>")


@dataclass(slots=True)
class Step:
    """What arrived together. `pieces` are (kind, text) in order, neighbours of one kind joined.

    `tokens` counts the deltas behind the pieces by kind; most servers send one for each token.
    `reclassify`: all message text of this answer before these pieces was reasoning after all.
    """

    pieces: list[tuple[Kind, str]] = field(default_factory=list)
    tokens: Counter = field(default_factory=Counter)
    progress: Progress | None = None
    reclassify: bool = False
    finished: Finished | None = None


class Inference:
    """One running request. Iterate it once; raises DaemonError; `close()` from any thread ends it.

    `tags` are the model's opening and closing tag of reasoning inside text.
    """

    def __init__(self, stream: ChatStream, tags: tuple[str, str] = DEFAULT_TAGS):
        self.stream = stream
        self.tags = tags
        self.separator: ThinkSeparator | None = None
        self.measured = Measured()
        self.held = 0
        self.message_text, self.reasoning_text = Surrogates(), Surrogates()

    def close(self) -> None:
        self.stream.close()

    @property
    def is_closed(self) -> bool:
        return self.stream.is_closed

    def __iter__(self) -> Iterator[Step]:
        for events in self.stream:
            step = Step()
            for event in events:
                self._take(event, step)
            if step.pieces or step.progress or step.finished or step.reclassify:
                yield step

    def _take(self, event, step: Step) -> None:
        match event:
            case Message(text, is_raw):
                text = self.message_text.feed(text)
                self._add_all(self._separator(None).feed(text) if is_raw else [(Kind.MESSAGE, text)], step)
                self._count(step)
            case Reasoning(text):
                self._separator(False)  # a daemon that tells reasoning apart leaves no closing tag alone
                _add(step, Kind.REASONING, self.reasoning_text.feed(text))
                self._count(step)
            case Progress():
                step.progress = event
            case Finished():
                _add(step, Kind.REASONING, self.reasoning_text.close())
                self._add_all(self._separator(None).feed(self.message_text.close()), step)
                self._add_all(self._separator(None).close(), step)
                step.finished = Finished(self.measured.stats() | plain(event.stats), event.response_id[:120])
            case Started() | ToolCall():
                pass  # prompts offer no tools yet, so a call has nobody to answer it

    def _count(self, step: Step) -> None:
        """A delta that is held back, because it may become a tag, counts with the next one."""
        self.held += 1
        if step.pieces:
            kind = step.pieces[-1][0]
            step.tokens[kind] += self.held
            self.measured.count(kind, self.held)
            self.held = 0

    def _separator(self, starts_inside: bool | None) -> ThinkSeparator:
        if self.separator is None:
            self.separator = ThinkSeparator(*self.tags, starts_inside=starts_inside)
        return self.separator

    def _add_all(self, pieces, step: Step) -> None:
        for kind, text in pieces:
            if kind == Kind.RECLASSIFY:
                step.reclassify = True
                step.tokens = Counter({Kind.REASONING: step.tokens.total()})
                self.measured.reclassify()
                step.pieces = [(Kind.REASONING, earlier) for _, earlier in step.pieces]
            else:
                _add(step, kind, text)


def plain(stats: dict) -> dict:
    """Without what no database or page can hold: NaN, infinities and odd types. A daemon's JSON may carry them."""
    return {
        name: value
        for name, value in stats.items()
        if (isinstance(value, int | float) and math.isfinite(value)) or (isinstance(value, str) and value.isprintable())
    }


class Surrogates:
    """JSON can carry half of a character, and a daemon that counts UTF-16 cuts one in two between deltas. Joins the
    halves; a half that stays alone becomes U+FFFD, because no page or file could hold it."""

    def __init__(self):
        self.high = ""

    def feed(self, text: str) -> str:
        if not self.high and text.isascii():
            return text
        text, self.high = self.high + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self.high = text[:-1], text[-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def close(self) -> str:
        rest, self.high = self.high, ""
        return "\ufffd" if rest else ""


def _add(step: Step, kind: Kind, text: str) -> None:
    if not text:
        return
    if step.pieces and step.pieces[-1][0] == kind:
        step.pieces[-1] = (kind, step.pieces[-1][1] + text)
    else:
        step.pieces.append((kind, text))


class Measured:
    """What we see ourselves, for daemons that tell less. A delta counts as a token."""

    def __init__(self):
        self.started_at = self.last_at = time.monotonic()
        self.first_at: float | None = None
        self.answer_at: float | None = None
        self.tokens: Counter = Counter()

    def count(self, kind: Kind, tokens: int) -> None:
        self.last_at = time.monotonic()
        self.tokens[kind] += tokens
        if self.first_at is None:
            self.first_at = self.last_at
        if kind == Kind.MESSAGE and self.answer_at is None:
            self.answer_at = self.last_at

    def reclassify(self) -> None:
        self.tokens = Counter({Kind.REASONING: self.tokens.total()})
        self.answer_at = None

    def stats(self) -> dict:
        """Seconds, rates and counts as seen here; the daemon's own figures go over these."""
        if self.first_at is None:
            return {}
        stats = {"first_token_seconds": round(self.first_at - self.started_at, 4)}
        seconds = self.last_at - self.first_at
        if self.tokens.total() > 1 and seconds > 0.05:  # below that it tells of our buffers, not of the model
            stats["tokens_per_second"] = round((self.tokens.total() - 1) / seconds, 2)
        if self.tokens[Kind.REASONING]:
            stats["reasoning_pieces"] = self.tokens[Kind.REASONING]
            stats["reasoning_seconds"] = round((self.answer_at or self.last_at) - self.first_at, 2)
        return stats
