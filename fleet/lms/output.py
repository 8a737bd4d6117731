"""What `lms` writes, made readable: no colours, no cursor movements, progress frames thinned out (contract §7.0)."""

import re
import time
from collections.abc import Callable

from fleet.texts import CONTROL, SEQUENCE

MAX_LINE = 4000  # characters; the rest of a longer line is cut off
FRAME_SECONDS = 0.5  # of a progress display at most one line in this time
MAX_SEQUENCE = 200  # characters of an escape sequence that is not complete yet

CURSOR = re.compile(r"\x1b\[[0-9;?]*[ABEFGHJKf]")  # moves or erases: what follows is written over the line
INCOMPLETE = re.compile(r"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?)?|\r)\Z")
BRAILLE = re.compile(r"[\u2800-\u28ff]")
SPINNER = re.compile(r"[\u2800-\u28ff|/\\\s-]+")


def plain(text: str) -> str:
    """The text without colours and other terminal codes; line ends are LF."""
    text = SEQUENCE.sub("", CURSOR.sub("\r", text)).replace("\r\n", "\n")
    return CONTROL.sub("", text.replace("\r", "\n"))


class Lines:
    """Cuts a terminal's output into lines for people, as it comes.

    Of frames that are written over each other the first is shown, then at most one every half second, and none of which
    only the spinner turned. Blank lines are left out. Where the text was cut makes no difference.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._held = ""  # an escape sequence, or a CR that may be half of a CRLF
        self._line = ""
        self._is_over = False  # the line is written over an earlier one
        self._frame = ""  # the last one that was not shown
        self._seen = ""  # what the last frame said, without its spinner
        self._shown_at = float("-inf")

    def feed(self, text: str) -> list[str]:
        text = self._held + text
        tail = INCOMPLETE.search(text)
        cut = tail.start() if tail and len(tail[0]) <= MAX_SEQUENCE else len(text)
        self._held = text[cut:]
        return self._read(text[:cut])

    def close(self) -> list[str]:
        """What is left at the end. Not a last frame after others: what was waited for is over."""
        held, self._held = self._held, ""
        shown = self._read(held)
        return shown if self._is_over and self._seen else shown + self._end_line()

    def _read(self, text: str) -> list[str]:
        text = SEQUENCE.sub("", CURSOR.sub("\r", text)).replace("\r\n", "\n")
        shown = []
        for part in re.split(r"([\r\n])", text):
            if part == "\n":
                shown += self._end_line()
            elif part == "\r":
                shown += self._end_frame()
            else:
                self._line = (self._line + part)[:MAX_LINE]
        return shown

    def _end_line(self) -> list[str]:
        line, self._line = self._clean(), ""
        line, self._frame, self._is_over = line or self._frame, "", False
        self._shown_at = float("-inf")
        return [line] if line else []

    def _end_frame(self) -> list[str]:
        frame, self._line, self._is_over = self._clean(), "", True
        said = SPINNER.sub("", frame)
        if not said or said == self._seen:
            return []
        frame = BRAILLE.sub("", frame).strip()
        self._seen, self._frame = said, frame
        if self._clock() - self._shown_at < FRAME_SECONDS:
            return []
        self._shown_at, self._frame = self._clock(), ""
        return [frame]

    def _clean(self) -> str:
        return CONTROL.sub("", self._line).rstrip()
