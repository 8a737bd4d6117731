"""One chat_completion: what is asked, and the pieces of its answer, from the queue or straight from LM Studio."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

from fleet.native.answers import Problem

ROLES = ("system", "user", "assistant")
FIELDS = {"action", "id", "messages", "settings", "stream"}
MAX_MESSAGES = 1000


@dataclass(frozen=True)
class Ask:
    """A chat as requested: messages {"role", "content"}, settings by OpenAI's names."""

    messages: list[dict]
    settings: dict
    is_streamed: bool

    @classmethod
    def of(cls, request: dict) -> "Ask":
        """Raises ValueError with a sentence on what does not fit. Settings are checked by who uses them."""
        if unknown := set(request) - FIELDS:
            raise ValueError(f"chat_completion does not know {_names(unknown)}. It takes {_names(FIELDS)}.")
        messages, settings = request.get("messages"), request.get("settings", {})
        if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
            raise ValueError(f'"messages" must be a list of 1 to {MAX_MESSAGES} messages.')
        if not isinstance(settings, dict):
            raise ValueError('"settings" must be an object such as {"model": "…", "temperature": 0.7}.')
        if not isinstance(is_streamed := request.get("stream", True), bool):
            raise ValueError('"stream" must be true or false.')
        given = {name: value for name, value in settings.items() if value is not None}
        return cls([_message(row) for row in messages], given, is_streamed)

    @property
    def model(self) -> str:
        return model if isinstance(model := self.settings.get("model"), str) else ""


def _names(names: set[str]) -> str:
    return ", ".join(sorted(str(name)[:50] for name in names))


def _message(row: object) -> dict:
    fits = isinstance(row, dict) and set(row) == {"role", "content"} and isinstance(row["content"], str)
    if not fits or row["role"] not in ROLES:
        raise ValueError(f'Each message is {{"role": one of {", ".join(ROLES)}, "content": text}} and nothing else.')
    return row


@dataclass(frozen=True)
class Piece:
    """The next part of the text. `is_restart`: first forget what came before, a new attempt began."""

    text: str
    kind: str = "answer"  # or "reasoning"
    is_restart: bool = False


@dataclass(frozen=True)
class End:
    """How it ended; what was not told is None. `usage` has counts by OpenAI's names."""

    model: str | None = None
    finish_reason: str | None = None
    usage: dict = field(default_factory=dict)


class Chat(ABC):
    """A running chat. Iterate `answer()` once: pieces, then one End. `close()` from any thread ends it: then the
    last thing is an End with the reason "cancelled". Errors come out of `answer()` as `answers.problem` reads them."""

    def __init__(self, ask: Ask):
        self.ask = ask
        self.is_closed = threading.Event()
        self._stream = None
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self.is_closed.set()
            if self._stream is not None:
                self._stream.close()

    def answer(self) -> Iterator[Piece | End]:
        try:
            for item in self._answer() if not self.is_closed.is_set() else ():
                if self.is_closed.is_set():
                    break
                yield item
                if isinstance(item, End):
                    return
        except Exception:
            if not self.is_closed.is_set():  # what a closed connection says is of no interest
                raise
        if not self.is_closed.is_set():
            raise Problem("cut", "The answer ended before it was complete.", "Try again.")
        self._clean_up()
        yield End(self.ask.model or None, "cancelled")

    @abstractmethod
    def _answer(self) -> Iterator[Piece | End]:
        """Pieces, then one End."""

    def _clean_up(self) -> None:  # noqa: B027 - only some leave something behind
        """After a close: end what goes on elsewhere."""

    def _hold(self, stream):
        """Remember the open stream, for `close`."""
        with self._lock:
            self._stream = stream
            if self.is_closed.is_set():
                stream.close()
        return stream
