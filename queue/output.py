"""From a stream's pieces to stored chunks: the first at once, then all streams together every 90 ms.

One transaction for the new text of every running stream costs little more than one for a single stream, and it
keeps the writers of a process out of each other's way.
"""

import threading
from collections import Counter

from pulse.thinking import Kind

from .models.attempt import Attempt, Chunk, append

FLUSH_SECONDS = 0.09


class Output:
    """The text of one running attempt that is not stored yet. Used by its stream's thread and the flusher."""

    def __init__(self, attempt: Attempt):
        self.attempt = attempt
        self.seq = 0
        self.lengths = {Kind.REASONING: 0, Kind.MESSAGE: 0}
        self.buffer: list[tuple[Kind, str]] = []
        self.tokens: Counter = Counter()
        self.lock = threading.Lock()
        self.is_stale = False

    def add(self, pieces: list[tuple[Kind, str]], tokens: Counter) -> None:
        with self.lock:
            self.buffer += pieces
            self.tokens += tokens

    def take(self) -> list[Chunk]:
        """Chunks of what is new, neighbours of one kind joined."""
        with self.lock:
            return self._chunks()

    def _chunks(self) -> list[Chunk]:
        pieces, self.buffer = self.buffer, []
        tokens = self.tokens.copy()
        chunks: list[Chunk] = []
        for kind, text in pieces:
            if chunks and chunks[-1].kind == kind:
                chunks[-1].text += text
            else:
                self.seq += 1
                offset = self.lengths[kind]
                chunks.append(Chunk(attempt=self.attempt, seq=self.seq, kind=kind, offset=offset, text=text))
            self.lengths[kind] += len(text)
        for chunk in chunks:
            chunk.tokens = tokens[chunk.kind]
        return chunks

    def rest(self) -> list[tuple[Kind, str]]:
        """The pieces that no chunk has; for folding them in at the end."""
        with self.lock:
            pieces, self.buffer = self.buffer, []
        return pieces

    def reclassified(self) -> int:
        """Everything so far was reasoning, stored or not; returns the last chunk's number that was made before."""
        with self.lock:
            self.buffer = [(Kind.REASONING, text) for _, text in self.buffer]
            self.tokens = Counter({Kind.REASONING: self.tokens.total()})
            self.lengths = {Kind.REASONING: sum(self.lengths.values()), Kind.MESSAGE: 0}
            return self.seq


def flush(outputs: list[Output]) -> None:
    """Store what is new in these outputs; marks those whose attempt was ended by somebody else."""
    batches = [(output.attempt, chunks) for output in outputs if not output.is_stale and (chunks := output.take())]
    if not batches:
        return
    stale = append(batches)
    for output in outputs:
        output.is_stale |= output.attempt in stale
