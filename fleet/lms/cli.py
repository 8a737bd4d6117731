"""Running `lms`: argv only, never a terminal, always a time limit, output bounded (contract §7.0)."""

import codecs
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from fleet.lms import processes
from fleet.lms.answers import Answer, json_in, judged
from fleet.lms.errors import LmsError, Problem
from fleet.lms.output import Lines, plain

__all__ = ["Answer", "Lms", "LmsError", "Problem", "value"]

MAX_OUTPUT_BYTES = 1024 * 1024  # of each stream; what comes after it is read and forgotten
READ_BYTES = 65536
DRAIN_SECONDS = 1.0  # after its end; a daemon that it started may hold its pipes for ever
MAX_VALUE = 500
# Never -v or --version: wherever `lms` finds that, it prints its commit and does nothing else (contract §7.0).
FLAGS = frozenset({
    "--json", "-y", "--port", "--bind", "--estimate-only", "--context-length", "--gpu", "--parallel", "--ttl",
    "--identifier", "--source",
})  # fmt: skip
# LM Studio would keep our secrets in its environment for as long as it runs.
OURS = ("DAEMONPULSE_", "DJANGO_", "DATABASE_URL")

log = logging.getLogger(__name__)
OnLine = Callable[[str], None]


def value(text: object) -> str:
    """A value somebody chose, fit to stand among arguments. Raises ValueError with a sentence."""
    text = str(text)
    if not text.strip() or len(text) > MAX_VALUE or not text.isprintable():
        raise ValueError(f"{text[:50]!r} cannot be given to lms: it must be 1 to {MAX_VALUE} printable characters.")
    if text.startswith("-"):
        raise ValueError(f'"{text[:50]}" cannot be given to lms: it begins with "-" and would be taken for an option.')
    return text


class Lms:
    """The command line of one LM Studio. Every call may raise LmsError.

    It stays in our process group, so that what ends us ends it too; on a time-out it and its children are killed.
    """

    def __init__(self, executable: Path):
        self.executable = executable

    def run(self, *args: str, seconds: float, on_line: OnLine | None = None) -> Answer:
        """Run it to its end. `on_line` gets each line of both streams as it comes, one call at a time.

        Raises LmsError TIMEOUT, PASSKEY_MISMATCH, NOT_RUNNING (it found no LM Studio), or when it cannot be started;
        any other outcome is the caller's to judge. Raises ValueError for an argument that must not be passed.
        """
        process = self.start(*args)
        lock = threading.Lock()
        readers = [_Reader(pipe, on_line, lock) for pipe in (process.stdout, process.stderr)]
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            processes.end(process)
            text = "\n".join(reader.finish() for reader in readers)
            sentence = f"`{self._named(args)}` did not finish within {seconds:g} s and was ended."
            raise LmsError(Problem.TIMEOUT, sentence, text) from error
        finally:
            if process.poll() is None:
                processes.end(process)
        stdout, stderr = (reader.finish() for reader in readers)
        is_cut = any(reader.is_cut for reader in readers)
        return judged(Answer(self._named(args), stdout, stderr, process.returncode, is_cut))

    def json(self, *args: str, seconds: float, tries: int = 1) -> object:
        """What it answers with --json. `tries`: `ls` and `ps` fail when a model unloads meanwhile (contract §7.2)."""
        answer = self.run(*args, "--json", seconds=seconds)
        if answer.exit_code and tries > 1:
            return self.json(*args, seconds=seconds, tries=tries - 1)
        if answer.exit_code and not answer.stdout.strip():
            raise answer.failure()
        return json_in(answer)

    def start(self, *args: str) -> subprocess.Popen:
        """Start it; both streams are pipes of bytes. The caller ends it."""
        for arg in args:
            if arg.startswith("-") and arg not in FLAGS:
                raise ValueError(f'"{arg[:50]}" is not passed to lms: it is not one of the options used here.')
        try:
            return subprocess.Popen(  # noqa: S603 - a list, and every option in it is known
                [str(self.executable), *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, env=environment(),
                creationflags=subprocess.CREATE_NO_WINDOW if sys.platform == "win32" else 0,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise LmsError(Problem.NOT_BOOTSTRAPPED, "LM Studio's command line is gone.", str(error)) from error
        except OSError as error:
            sentence = f"{self.executable} cannot be started: {error.strerror or error}."
            raise LmsError(Problem.FAILED, sentence, str(error)) from error

    @staticmethod
    def _named(args: tuple[str, ...]) -> str:
        """How to call it in a sentence: its words, without options and what follows them."""
        words = [arg for arg in args[:2] if not arg.startswith("-")]
        is_two_words = len(words) == 2 and words[0] in {"server", "daemon", "log", "runtime", "link"}
        return " ".join(["lms", *(words if is_two_words else words[:1])])


def environment() -> dict[str, str]:
    """Ours, without our secrets and without colours."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(OURS)}
    return kept | {"FORCE_COLOR": "0", "NO_COLOR": "1"}


class _Reader:
    """Reads one stream in a thread of its own, so that neither stream can block the other."""

    def __init__(self, pipe, on_line: OnLine | None, lock: threading.Lock):
        self.pipe = pipe
        self.on_line = on_line
        self.lock = lock
        self.content = bytearray()
        self.is_cut = False
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def finish(self) -> str:
        """The whole text, once the process has ended."""
        self.thread.join(DRAIN_SECONDS)
        self.on_line = None
        return plain(bytes(self.content).decode(errors="replace"))

    def _read(self) -> None:
        lines, decoder = Lines(), codecs.getincrementaldecoder("utf-8")("replace")
        with self.pipe:
            while block := self.pipe.read1(READ_BYTES):
                space = MAX_OUTPUT_BYTES - len(self.content)
                self.content += block[:space]
                self.is_cut |= len(block) > space
                self._tell(lines.feed(decoder.decode(block)))
        self._tell(lines.close())

    def _tell(self, lines: list[str]) -> None:
        for line in lines:
            with self.lock:
                if self.on_line is None:
                    return
                try:
                    self.on_line(line)
                except Exception:  # whoever listens may be gone; lms must not be stopped by that in the middle
                    log.exception("lms.line_lost")
                    self.on_line = None
