"""What a model file says, read in a process of its own: a file is hostile input, and numpy stays out of ours."""

import json
import subprocess
import sys
from pathlib import Path

from fleet.lms import processes
from fleet.lms.cli import environment
from fleet.texts import clean
from fleet.weights.__main__ import UNREADABLE
from fleet.weights.architecture import Architecture

READ_SECONDS = 60.0
MAX_SENTENCE = 500
ROOT = Path(__file__).resolve().parents[2]
# Each thread of numpy's would take memory for itself, and there is nothing to calculate.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Unreadable(ValueError):
    """A file that tells nothing of a model: str() is a sentence for people."""


def read(path: Path, seconds: float = READ_SECONDS) -> Architecture:
    """What this GGUF file says of its model; of a split model any part will do. Raises Unreadable.

    The process stays in our group, so that what ends us ends it too; it limits its own memory (`fleet.weights`).
    """
    if not path.is_file():
        raise Unreadable(f"There is no file {path.name}.")
    process = subprocess.Popen(  # noqa: S603 - our own module; the path is absolute, so it is no option
        [sys.executable, "-m", "fleet.weights", str(path.absolute())], cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment() | ONE_THREAD,
        creationflags=subprocess.CREATE_NO_WINDOW if sys.platform == "win32" else 0,
    )  # fmt: skip
    try:
        told, complaint = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise Unreadable(f"{path.name} could not be read within {seconds:g} s.") from error
    finally:
        processes.end(process)
        process.stdout.close()
        process.stderr.close()
    return _architecture(path, process.returncode, told, complaint)


def _architecture(path: Path, exit_code: int, told: bytes, complaint: bytes) -> Architecture:
    if exit_code == 0:
        try:
            return Architecture.from_json(json.loads(told))
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"What was read of {path.name} makes no sense: {error}") from error
    if exit_code == UNREADABLE and complaint.strip():
        raise Unreadable(clean(complaint.decode(errors="replace").strip().splitlines()[-1], MAX_SENTENCE))
    raise Unreadable(f"Reading {path.name} ended in the middle; the file may be damaged (exit code {exit_code}).")
