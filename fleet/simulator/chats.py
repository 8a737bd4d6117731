"""Stored chats: what `previous_response_id` continues or branches (contract §2.6)."""

import secrets
from collections import OrderedDict
from dataclasses import dataclass

from fleet.simulator.errors import ApiError

MOST_CHATS = 1_000  # the oldest are forgotten


@dataclass(frozen=True)
class Chat:
    tokens: int = 0  # all turns so far, input and output
    turns: int = 0


class Chats:
    def __init__(self):
        self._chats: OrderedDict[str, Chat] = OrderedDict()

    def keep(self, chat: Chat) -> str:
        """Store a chat as it stands now and return its response id."""
        response_id = f"resp_{secrets.token_hex(24)}"
        self._chats[response_id] = chat
        while len(self._chats) > MOST_CHATS:
            self._chats.popitem(last=False)
        return response_id

    def find(self, response_id: str | None) -> Chat:
        """The chat to continue, an empty one for None; raises ApiError 400 or 404."""
        if response_id is None:
            return Chat()
        param = "previous_response_id"
        if not response_id.startswith("resp_"):
            raise ApiError(400, "invalid_request", f"'{param}' must start with 'resp_'.", "invalid_value", param)
        if response_id not in self._chats:
            raise ApiError(404, "invalid_request", f'No stored response "{response_id}".', param=param)
        return self._chats[response_id]
