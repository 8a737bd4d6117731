"""A chat passed on to LM Studio's OpenAI route, whole or in pieces (contract §4.3)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from fleet.daemons import http
from fleet.daemons.base import json_object
from fleet.daemons.errors import DaemonError, Reason, from_answer
from fleet.daemons.sse import EventTooLarge, SSEReader

PATH = "/v1/chat/completions"
ANSWER_SECONDS = http.FIRST_BYTE_SECONDS  # the whole answer comes at once, after a load perhaps


class MessageRole(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True)
class ChatMessage:
    role: MessageRole
    content: str

    @classmethod
    def of(cls, message: "ChatMessage | Mapping") -> "ChatMessage":
        """Also from {"role", "content"}. Raises ValueError with a sentence."""
        role, content = (
            (message.get("role"), message.get("content"))
            if isinstance(message, Mapping)
            else (getattr(message, "role", None), getattr(message, "content", None))
        )
        if role not in list(MessageRole):
            raise ValueError(f"A message needs a role: one of {', '.join(MessageRole)}.")
        if not isinstance(content, str):
            raise ValueError(f"The content of a {role} message must be text.")
        return cls(MessageRole(role), content)


def _is_number(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)


def _is_whole(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


def _is_stop(given: object) -> bool:
    return isinstance(given, str) or (isinstance(given, list) and all(isinstance(text, str) for text in given))


SETTINGS = {
    "model": (lambda given: isinstance(given, str) and bool(given), "text"),
    "max_tokens": (_is_whole, "a whole number"),
    "seed": (_is_whole, "a whole number"),
    "top_k": (_is_whole, "a whole number"),
    "stop": (_is_stop, "text or a list of texts"),
} | dict.fromkeys(
    ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty"),
    (_is_number, "a number"),
)


def body_of(messages: Sequence[ChatMessage | Mapping], settings: Mapping) -> dict:
    """The request's body; a setting that is None is left out. Raises ValueError with a sentence."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise ValueError("A chat needs a list of at least one message.")
    if not isinstance(settings, Mapping):
        raise ValueError("The settings of a chat must be an object.")
    read = [ChatMessage.of(message) for message in messages]
    body: dict = {"messages": [{"role": message.role.value, "content": message.content} for message in read]}
    for name, given in settings.items():
        if name not in SETTINGS:
            raise ValueError(f'"{str(name)[:50]}" is not a known setting. Known are: {", ".join(sorted(SETTINGS))}.')
        fits, what = SETTINGS[name]
        if given is not None and not fits(given):
            raise ValueError(f'"{name}" must be {what}.')
        if given is not None:
            body[name] = given
    return body


def complete(base_url: str, token: str, body: dict) -> dict:
    """The whole answer, as OpenAI shapes it. Raises DaemonError."""
    return http.call("POST", f"{base_url}{PATH}", token, body, ANSWER_SECONDS)


class ChatDeltas:
    """A running answer. Iterate it once: dicts {"content": text}, {"reasoning_content": text} or {"tool_calls": [...]}.

    Afterwards `finish_reason`, `usage` and `model` say how it ended. `close()` from any thread ends it, and frees the
    daemon's slot. Raises DaemonError while iterating.
    """

    def __init__(self, base_url: str, token: str, body: dict):
        self.finish_reason = ""
        self.usage: dict = {}
        self.model = ""
        asked = body | {"stream": True, "stream_options": {"include_usage": True}}
        self._stream = http.Stream(f"{base_url}{PATH}", token, asked)

    def __enter__(self) -> "ChatDeltas":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[dict]:
        reader, is_done = SSEReader(), False
        for block in self._stream.blocks():
            try:
                events = reader.feed(block)
            except EventTooLarge as error:
                raise DaemonError(Reason.NOT_UNDERSTOOD, str(error)) from error
            is_done |= any(event.data == "[DONE]" for event in events)
            yield from self._deltas(events)
        if self._stream.is_closed:
            return
        yield from self._deltas(reader.close())
        if not (is_done or self.finish_reason):
            raise DaemonError(Reason.CUT, "the stream ended before the answer did")

    def _deltas(self, events) -> Iterator[dict]:
        for event in events:
            if event.data != "[DONE]":
                yield from self._read(json_object(event.data))

    def _read(self, chunk: dict) -> Iterator[dict]:
        if chunk.get("error"):
            raise from_answer(200, chunk)
        self.usage = chunk.get("usage") or self.usage
        self.model = chunk.get("model") or self.model
        for choice in chunk.get("choices") or ():
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            delta = choice.get("delta") or {}
            # Two names are in use for a model's reasoning (contract §4.3).
            if thought := delta.get("reasoning_content") or delta.get("reasoning"):
                yield {"reasoning_content": thought}
            for name in ("content", "tool_calls"):
                if delta.get(name):
                    yield {name: delta[name]}
