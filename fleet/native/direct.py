"""A chat straight with the LM Studio of this machine, through its OpenAI-compatible endpoint (contract §4)."""

from collections.abc import Iterator

from fleet.lms.manager import LMStudioManager
from fleet.native.chats import Ask, Chat, End, Piece

KINDS = {"content": "answer", "reasoning_content": "reasoning"}
USAGE = ("prompt_tokens", "completion_tokens")


class DirectChat(Chat):
    """Raises ValueError for settings that LM Studio's endpoint does not take."""

    def __init__(self, ask: Ask, manager: LMStudioManager):
        super().__init__(ask)
        self.deltas = self._hold(manager.stream_chat_completion(ask.messages, ask.settings))

    def _answer(self) -> Iterator[Piece | End]:
        for delta in self.deltas:
            for name, kind in KINDS.items():
                if isinstance(text := delta.get(name), str):
                    yield Piece(text, kind)
        told = self.deltas
        yield End(told.model or None, told.finish_reason or None, _counts(told.usage))


def _counts(usage: dict) -> dict:
    """Only numbers, under names that the queue's chats have too."""
    details = usage.get("completion_tokens_details") or {}
    told = {name: usage.get(name) for name in USAGE} | {"reasoning_tokens": details.get("reasoning_tokens")}
    return {name: count for name, count in told.items() if isinstance(count, int)}
