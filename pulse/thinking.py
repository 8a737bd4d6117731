"""Separates the reasoning that a model writes inside its text ("<think>…</think>"), as it streams."""

import re
from enum import StrEnum

_CODE_PARTS = re.compile(r"\n|`+|~+|[^\n`~]+")
_FENCE_LENGTH = 3
_FENCE_MAX_INDENT = 3


class Kind(StrEnum):
    REASONING = "reasoning"
    MESSAGE = "message"
    # Not a kind of text: the pair (RECLASSIFY, "") says that every MESSAGE piece before it was REASONING.
    RECLASSIFY = "reclassify"


Pieces = list[tuple[Kind, str]]


class ThinkSeparator:
    """Gives each character of one answer its kind; the result does not depend on where the text was cut.

    What is dropped: the characters of a tag that acts, nothing else. White space around tags stays. All
    other characters come out once, in order, in pairs whose text is not empty; neighbours may be of one kind.

    What acts:
    1. In the message, an opening tag outside of code. It starts reasoning.
    2. In reasoning, the closing tag that balances it. Tags in between are counted and stay as text, so that
       "<think>a<think>b</think>c</think>d" is the reasoning "a<think>b</think>c" and the message "d".
       Reasoning that is never closed lasts to the end.
    3. With `starts_inside=None` (not known), a closing tag in the message, outside of code, if nothing was
       reasoning before: the template had opened the thinking. It yields the pair (RECLASSIFY, ""), at most
       once in an answer; the caller then relabels all MESSAGE pieces before it, of this list and of earlier
       ones, as REASONING.
    4. With `starts_inside=True`, an opening tag that comes first, but for white space: the model repeats
       what its template said. `starts_inside=False` turns rule 3 off.
    Any other tag is text.

    Code is judged on the message alone, as if tags and reasoning were cut out (but a tag ends a run of
    backticks):
    - A fence is a line that starts with at most 3 spaces and 3 or more "`" or "~". It ends with such a line
      of the same character, at least as long and with nothing behind it. A fence that is indented deeper,
      in a list, is not seen.
    - An inline span lasts from a run of backticks to the next run of the same length or to the end of its
      line. So a stray backtick makes tags text for the rest of its line; to know that it is stray, text
      would have to wait.

    In reasoning code is not looked at: models leave fences and backticks open there, and a missed closing
    tag would hide the whole answer, while a quoted tag that closes too early only shows some reasoning as
    message.

    Holds back only an end of the text that may still become a tag, so less than one tag; memory is constant.
    """

    def __init__(
        self, opening: str = "<think>", closing: str = "</think>", *, starts_inside: bool | None = None
    ) -> None:
        """Raises ValueError for tags that cannot be told from each other or from code."""
        for tag, other in ((opening, closing), (closing, opening)):
            if not tag or tag in other or re.search(r"[`~\n]", tag):
                raise ValueError(f"A tag must not be empty, in the other tag or hold `, ~ or a line end: {tag!r}")
        self._opening = opening
        self._closing = closing
        self._any_tag = _tag_or_start_of_one(opening, closing)
        self._opening_tag = _tag_or_start_of_one(opening)
        self._code = _MessageCode()
        self._depth = 1 if starts_inside else 0
        self._may_repeat_opening = bool(starts_inside)
        self._may_reclassify = starts_inside is None
        self._held = ""

    def feed(self, text: str) -> Pieces:
        pieces: Pieces = []
        text, self._held = self._held + text, ""
        at = 0
        while found := self._relevant_tags().search(text, at):
            self._add(pieces, text[at : found.start()])
            self._meet(pieces, found[0])
            at = found.end()
        self._add(pieces, text[at:])
        return pieces

    def close(self) -> Pieces:
        """The text that was held back. The separator is then done."""
        pieces: Pieces = []
        held, self._held = self._held, ""
        self._add(pieces, held)
        return pieces

    def _relevant_tags(self) -> re.Pattern[str]:
        return self._any_tag if self._depth or self._may_reclassify else self._opening_tag

    def _meet(self, pieces: Pieces, tag: str) -> None:
        """A whole tag, or the start of one that ends the text."""
        if not self._depth and self._code.is_open():
            self._add(pieces, tag)
        elif tag == self._opening:
            self._meet_opening(pieces)
        elif tag == self._closing:
            self._meet_closing(pieces)
        else:
            self._held = tag

    def _meet_opening(self, pieces: Pieces) -> None:
        if self._may_repeat_opening:
            self._may_repeat_opening = False
            return
        if self._depth:
            self._add(pieces, self._opening)
        self._may_reclassify = False
        self._depth += 1

    def _meet_closing(self, pieces: Pieces) -> None:
        self._may_repeat_opening = False
        if not self._depth:
            self._may_reclassify = False
            self._code = _MessageCode()
            pieces.append((Kind.RECLASSIFY, ""))
            return
        if self._depth > 1:
            self._add(pieces, self._closing)
        self._depth -= 1

    def _add(self, pieces: Pieces, text: str) -> None:
        if not text:
            return
        if self._depth:
            self._may_repeat_opening = self._may_repeat_opening and text.isspace()
            pieces.append((Kind.REASONING, text))
        else:
            self._code.feed(text)
            pieces.append((Kind.MESSAGE, text))


def _tag_or_start_of_one(*tags: str) -> re.Pattern[str]:
    starts = {tag[:length] for tag in tags for length in range(1, len(tag))}
    whole = "|".join(map(re.escape, tags))
    return re.compile(rf"{whole}|(?:{'|'.join(map(re.escape, sorted(starts)))})\Z" if starts else whole)


class _MessageCode:
    """Knows whether the message so far ends in an open code fence or span. Keeps counters, not text."""

    def __init__(self) -> None:
        self._indent: int | None = 0  # of a line that holds only spaces so far, else None
        self._run, self._run_length = "", 0  # "`" or "~" at the very end: what it means shows when it ends
        self._fence, self._fence_length = "", 0
        self._is_closing_line = False
        self._span_length = 0
        self._span_may_be_fence = False

    def is_open(self) -> bool:
        """To be asked when the next character is not a backtick or tilde."""
        self._end_run()
        return bool(self._fence or self._span_length)

    def feed(self, text: str) -> None:
        for part in _CODE_PARTS.findall(text):
            if part[0] == self._run:
                self._run_length += len(part)
                continue
            self._end_run()
            if part == "\n":
                self._end_line()
            elif part[0] in "`~":
                self._run, self._run_length = part[0], len(part)
            else:
                self._pass_text(part)

    def _pass_text(self, text: str) -> None:
        if self._is_closing_line and text.strip(" \t\r"):
            self._is_closing_line = False
        if self._indent is not None:
            self._indent += len(text)
            if self._indent > _FENCE_MAX_INDENT or text.strip(" "):
                self._indent = None

    def _end_run(self) -> None:
        char, length = self._run, self._run_length
        if not char:
            return
        is_fence = self._indent is not None and length >= _FENCE_LENGTH
        self._run, self._run_length, self._indent = "", 0, None
        if self._fence:
            self._is_closing_line = is_fence and char == self._fence and length >= self._fence_length
        elif self._span_length:
            self._meet_backticks_in_span(char, length)
        elif is_fence and char == "~":
            self._fence, self._fence_length = char, length
        elif char == "`":
            self._span_length, self._span_may_be_fence = length, is_fence

    def _meet_backticks_in_span(self, char: str, length: int) -> None:
        if char == "`":
            self._span_may_be_fence = False  # the line that opens a fence of backticks holds no others
            if length == self._span_length:
                self._span_length = 0

    def _end_line(self) -> None:
        if self._is_closing_line:
            self._fence = ""
        elif self._span_may_be_fence:
            self._fence, self._fence_length = "`", self._span_length
        self._is_closing_line = self._span_may_be_fence = False
        self._span_length = 0
        self._indent = 0
