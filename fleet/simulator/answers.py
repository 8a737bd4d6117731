"""What a scripted model says: deterministic Markdown, cut or stretched to an exact number of tokens.

Marks in a prompt steer the answer: `[[tokens=200]]` makes it exactly 200 tokens, `[[echo]]` makes it contain the
whole prompt, and `[[stamps]]` makes each streamed token of the native chat the time at which it was sent
(milliseconds), to measure how long it takes to a viewer.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count, islice

from fleet.simulator.models import Model

# Pieces about as long as those of real tokenizers; joined again they give the text back unchanged.
TOKEN = re.compile(r"[^\S\n]*(?:\w{1,7}|[^\w\s])|\n+|[^\S\n]+")
EXACT_TOKENS = re.compile(r"\[\[tokens=(\d{1,6})\]\]")
ECHO = "[[echo]]"
STAMPS = "[[stamps]]"
QUOTE_CHARACTERS = 80
REASONING_TOKENS = {"off": 0, "low": 24, "medium": 64, "on": 64, "high": 160}

TIPS = (
    "Queue a second prompt for the same model and watch it wait for its turn.",
    "Ask another model next and see this one leave the memory.",
    "Write `[[tokens=200]]` into a prompt to get an answer of exactly 200 tokens.",
    "Write `[[echo]]` into a prompt to get the whole prompt back.",
    "Close the page while this streams: the answer will be complete when you return.",
    "Send a prompt to the flaky model to see retries at work.",
    "Give the reasoning model a harder level and watch its thoughts arrive first.",
    "Add a real node when you are ready; the queue stays the same.",
)
SNIPPETS = (
    '```python\ndef greet(name):\n    """A sample for code blocks."""\n    return f"Hello, {name}!"\n```',
    '```sh\n# A sample command: list the models.\ncurl -s "$DAEMON_URL/api/v1/models"\n```',
)


@dataclass
class Ask:
    """What the caller wants, whichever route it came by."""

    prompt: str
    input_tokens: int
    max_tokens: int | None = None
    reasoning: str = "off"
    turn: int = 1  # 1 for the first question of a chat
    tool_result: str | None = None
    calls: list["Part"] = field(default_factory=list)
    closes_with_call: bool = False  # the caller runs the tools (OpenAI), so the answer stops at the calls


@dataclass
class Part:
    """A stretch of output of one kind: "reasoning", "message", "tool_call" or "invalid_tool_call"."""

    kind: str
    pieces: list[str]
    detail: dict = field(default_factory=dict)

    def text(self, tokens: int | None = None) -> str:
        return "".join(self.pieces[:tokens])


@dataclass
class Script:
    """The whole answer, written before its first token is sent."""

    parts: list[Part]
    is_truncated: bool

    @property
    def total_tokens(self) -> int:
        return sum(len(part.pieces) for part in self.parts)

    def produced(self, tokens: int) -> list[tuple[Part, int]]:
        """The parts begun within the first `tokens` tokens, each with its share of them."""
        shares = []
        for part in self.parts:
            if tokens <= 0:
                break
            shares.append((part, min(tokens, len(part.pieces))))
            tokens -= len(part.pieces)
        return shares


def tokenize(text: str) -> list[str]:
    return TOKEN.findall(text)


def quote(prompt: str) -> str:
    """The start of a prompt on one line."""
    line = " ".join(prompt.split())
    return line if len(line) <= QUOTE_CHARACTERS else line[: QUOTE_CHARACTERS - 1].rstrip() + "…"


def write_script(model: Model, ask: Ask) -> Script:
    """Reasoning, tool calls and message of this answer; the same for the same input."""
    thoughts = list(islice(_thoughts(ask.prompt), _reasoning_tokens(model, ask)))
    parts = [Part("reasoning", thoughts)] if model.script.thinking == "native" else []
    parts += ask.calls
    if not ask.closes_with_call:
        message = _message(model, ask)
        if model.script.thinking == "raw":
            message = tokenize(f"<think>\n{''.join(thoughts)}\n</think>\n\n") + message
        parts.append(Part("message", message, {"is_stamped": STAMPS in ask.prompt}))
    return _limited(parts, ask.max_tokens)


def _limited(parts: list[Part], max_tokens: int | None) -> Script:
    """Cut text at the limit. A tool call is never cut: half a call is no call."""
    left = max_tokens
    kept, is_truncated = [], False
    for part in parts:
        if left is not None and part.kind in ("reasoning", "message"):
            is_truncated = is_truncated or len(part.pieces) > left
            part = Part(part.kind, part.pieces[:left], part.detail)
        if left is not None:
            left = max(0, left - len(part.pieces))
        kept.append(part)
    return Script([part for part in kept if part.pieces], is_truncated)


def _reasoning_tokens(model: Model, ask: Ask) -> int:
    if model.script.thinking == "raw":
        return REASONING_TOKENS["low"]
    return REASONING_TOKENS.get(ask.reasoning, REASONING_TOKENS["on"])


def _thoughts(prompt: str) -> Iterator[str]:
    opening = tokenize(f"The question begins with “{quote(prompt)}”. ")
    steps = (tokenize(f"Step {n}: {TIPS[n % len(TIPS)]} ") for n in count(1))
    return chain(opening, chain.from_iterable(steps))


def _message(model: Model, ask: Ask) -> list[str]:
    exact = EXACT_TOKENS.search(ask.prompt)
    wanted = int(exact[1]) if exact else model.speed.output_tokens
    pieces = tokenize(_markdown(model.key, ask))
    if wanted is None:
        return pieces
    # One beyond the limit is enough to tell that there was more.
    needed = wanted if ask.max_tokens is None else min(wanted, ask.max_tokens + 1)
    return list(islice(chain(pieces, _more()), needed))


def _markdown(key: str, ask: Ask) -> str:
    seed = zlib.crc32(f"{key}\n{ask.prompt}".encode("utf-8", "replace"))
    tips = [TIPS[(seed + step) % len(TIPS)] for step in (0, 3, 6)]
    paragraphs = [
        f"**This is a simulated answer** from `{key}`: no model was run, the text is scripted.",
        f"> {quote(ask.prompt)}",
    ]
    if ask.turn > 1:
        paragraphs.append(f"That was question {ask.turn} of this chat.")
    if ask.tool_result is not None:
        paragraphs.append(f"The tool said: {quote(ask.tool_result)}")
    paragraphs += ["Some things to try:", "\n".join(f"- {tip}" for tip in tips)]
    if seed % 2 or "code" in ask.prompt.lower():
        paragraphs.append(SNIPPETS[seed // 2 % len(SNIPPETS)])
    if ECHO in ask.prompt:
        paragraphs += ["Your whole prompt:", ask.prompt]
    return "\n\n".join(paragraphs)


def _more() -> Iterator[str]:
    """Text without end, for answers longer than the script."""
    return chain.from_iterable(tokenize(f"\n\nSimulated paragraph {n}: {TIPS[n % len(TIPS)]}") for n in count(1))
