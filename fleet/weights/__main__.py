"""`python -m fleet.weights FILE`: what a GGUF file says of the memory its model will take, as JSON.

A file is hostile input: this process may take 1 GiB of memory and two minutes of the processor, and ends.
"""

import contextlib
import json
import sys
from pathlib import Path

from fleet.texts import clean

MEMORY_BYTES = 2**30
PROCESSOR_SECONDS = 120  # whoever started it may be gone
MAX_REASON = 300
UNREADABLE = 3  # the exit code when a sentence on stderr says why
# What a damaged or hostile file makes gguf and numpy raise.
DAMAGED = (ArithmeticError, LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("Usage: python -m fleet.weights FILE", file=sys.stderr)
        return 2
    limit()
    from fleet.weights.gguf_file import read_file

    path = Path(arguments[0])
    try:
        found = read_file(path).as_json()
    except DAMAGED as error:
        reason = clean(f"{error}" or type(error).__name__, MAX_REASON)
        print(f"{path.name} cannot be read as a model: {reason}.", file=sys.stderr)
        return UNREADABLE
    print(json.dumps(found))
    return 0


def limit() -> None:
    """Where the system has such limits. The mapped file does not count as data, as it would for RLIMIT_AS."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, most in ((resource.RLIMIT_DATA, MEMORY_BYTES), (resource.RLIMIT_CPU, PROCESSOR_SECONDS)):
        with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
            resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
