"""Reading what `lms` answered. Its text decides, never its exit code alone (contract §7.15)."""

import contextlib
import json
import re
from dataclasses import dataclass

from fleet.lms.errors import LmsError, Problem
from fleet.texts import cleaned_json

MAX_QUOTED = 300
PASSKEY_WORDS = "invalid passkey for lms cli client"  # contract §12.9
JSON_START = re.compile(r"^[{\[]", re.MULTILINE)
MAX_STARTS = 20
NO_CONNECTION_WORDS = "failed to start or connect to local lm studio"  # contract §7.0


@dataclass(frozen=True)
class Answer:
    """One finished call; the texts without terminal codes. `is_cut`: it wrote more than is kept."""

    command: str
    stdout: str
    stderr: str
    exit_code: int
    is_cut: bool = False

    @property
    def text(self) -> str:
        return f"{self.stderr}\n{self.stdout}".strip()

    def says(self, words: str) -> bool:
        return words.lower() in self.text.lower()

    @property
    def complaint(self) -> str:
        """Its last line about an error, else its last line at all: what to quote in a sentence."""
        lines = [line.strip() for line in (self.stderr or self.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        line = (errors or lines or [f"exit code {self.exit_code}"])[-1]
        return line.removeprefix("Error: ").removeprefix("error: ")[:MAX_QUOTED]

    def failure(self, problem: Problem = Problem.FAILED) -> LmsError:
        """The error that this answer is."""
        return LmsError(problem, f"`{self.command}` failed: {self.complaint}", self.text)


def judged(answer: Answer) -> Answer:
    """The answer, unless it tells of what makes every command useless. Raises LmsError."""
    if answer.says(PASSKEY_WORDS):
        sentence = "The command lms and the running LM Studio do not belong together: it refused our passkey."
        raise LmsError(Problem.PASSKEY_MISMATCH, sentence, answer.text)
    if answer.says(NO_CONNECTION_WORDS):
        raise LmsError(Problem.NOT_RUNNING, f"`{answer.command}` could not reach LM Studio.", answer.text)
    return answer


def json_in(answer: Answer) -> object:
    """The JSON on stdout, its texts clean; lines before it are skipped. Raises LmsError."""
    if answer.is_cut:
        raise LmsError(Problem.NOT_UNDERSTOOD, f"The answer of `{answer.command}` is too long.", answer.stdout)
    for start in [match.start() for match in JSON_START.finditer(answer.stdout)][:MAX_STARTS]:
        with contextlib.suppress(ValueError, RecursionError):
            return cleaned_json(json.loads(answer.stdout[start:]))
    if answer.exit_code:
        raise answer.failure()
    raise LmsError(Problem.NOT_UNDERSTOOD, f"The answer of `{answer.command}` is not JSON.", answer.text)
