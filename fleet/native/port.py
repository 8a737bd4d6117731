"""The two ends of the pipe to the browser, kept away from everything else in the process."""

import os
import sys
import threading
from typing import BinaryIO

from fleet.native.framing import write_message


class Port:
    """Where requests come from and answers go, one whole message at a time, from any thread."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO):
        self.incoming = incoming
        self.outgoing = outgoing
        self._lock = threading.Lock()

    @classmethod
    def take_over(cls) -> "Port":
        """Standard input and output become the port's alone: a stray print lands on standard error, and a child
        process can neither eat a request nor hold the pipe open."""
        incoming, outgoing = os.dup(0), os.dup(1)
        for number in (incoming, outgoing):
            _without_text_mode(number)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        return cls(os.fdopen(incoming, "rb"), os.fdopen(outgoing, "wb"))

    def send(self, message: dict) -> None:
        """Raises TooLarge, and OSError when the browser is gone."""
        with self._lock:
            write_message(self.outgoing, message)


def _without_text_mode(number: int) -> None:
    """Windows would write \\r\\n for every \\n (contract §11)."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(number, os.O_BINARY)
