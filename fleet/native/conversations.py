"""The running chats of one port: a thread each, named by the ids the extension gave them."""

import threading
import time
from collections.abc import Callable

from fleet.native import answers
from fleet.native.answers import Problem
from fleet.native.chats import Ask, Chat, End, Piece
from fleet.native.framing import PIECE_CHARACTERS, pieces

MAX_CHATS = 32
Id = str | int | None
Send = Callable[[dict, Id], None]


class Conversations:
    """`choose` makes the Chat for an Ask and may wait for a server; `send` takes (message, id) from any thread."""

    def __init__(self, choose: Callable[[Ask], Chat], send: Send):
        self.choose = choose
        self.send = send
        self._running: dict[Id, Conversation] = {}
        self._lock = threading.Lock()

    def begin(self, request: dict, id: Id) -> None:
        """Raises ValueError for a request that does not fit, and Problem when there is no room for it."""
        ask = Ask.of(request)
        with self._lock:
            if id in self._running:
                raise Problem("id_in_use", "A chat with this id is running.", "Give each chat an id of its own.")
            if len(self._running) >= MAX_CHATS:
                raise Problem("too_many_chats", f"{MAX_CHATS} chats are running.", "Wait until one has ended.")
            conversation = self._running[id] = Conversation(self, ask, id)
        conversation.start()

    def cancel(self, id: Id) -> None:
        """The chat's own last message is the answer. Raises Problem when none with this id is running."""
        with self._lock:
            conversation = self._running.get(id)
        if conversation is None:
            raise Problem("no_such_chat", "No chat with this id is running.", "It may have ended already.")
        conversation.close()

    def close(self, until: float) -> None:
        """End them all, and wait for them no longer than `until` (monotonic seconds)."""
        with self._lock:
            running = list(self._running.values())
        for conversation in running:
            conversation.close()
        for conversation in running:
            conversation.join(max(0.0, until - time.monotonic()))

    def leave(self, id: Id) -> None:
        with self._lock:
            del self._running[id]


class Conversation(threading.Thread):
    """One chat and the messages that tell of it: chunks while it is streamed, and one that ends it."""

    def __init__(self, owner: Conversations, ask: Ask, id: Id):
        super().__init__(daemon=True)
        self.owner, self.ask, self.id = owner, ask, id
        self.texts = {"answer": "", "reasoning": ""}
        self._chat: Chat | None = None
        self._is_closed = False
        self._closing = threading.Lock()

    def close(self) -> None:
        with self._closing:
            self._is_closed = True
            if self._chat is not None:
                self._chat.close()

    def run(self) -> None:
        try:
            last = self._converse()
        except Exception as error:
            answers.note("chat_completion", error)
            last = answers.failure(error)
        self.owner.leave(self.id)  # first: who reads the last message may use the id again
        self.owner.send(last, self.id)

    def _converse(self) -> dict:
        """Send the chunks, and return the message that ends it."""
        chat = self.owner.choose(self.ask)
        with self._closing:
            self._chat = chat
            if self._is_closed:
                chat.close()
        end = End()
        for item in chat.answer():
            if isinstance(item, End):
                end = item
            elif self.ask.is_streamed:
                self._send_chunks(item)
            else:
                self._keep(item)
        return answers.success(
            self._whole() | {"model": end.model, "finish_reason": end.finish_reason, "usage": end.usage}
        )

    def _send_chunks(self, piece: Piece) -> None:
        if piece.is_restart:
            self.owner.send(answers.chunk({"text": "", "kind": piece.kind, "restart": True}), self.id)
        for text in pieces(piece.text):
            self.owner.send(answers.chunk({"text": text, "kind": piece.kind}), self.id)

    def _keep(self, piece: Piece) -> None:
        if piece.is_restart:
            self.texts = dict.fromkeys(self.texts, "")
        self.texts[piece.kind] += piece.text

    def _whole(self) -> dict:
        """The whole text where it was not streamed; in chunks all the same when one message cannot hold it."""
        if self.ask.is_streamed:
            return {}
        if sum(map(len, self.texts.values())) <= PIECE_CHARACTERS:
            return {"text": self.texts["answer"], "reasoning": self.texts["reasoning"]}
        for kind in ("reasoning", "answer"):
            self._send_chunks(Piece(self.texts[kind], kind))
        return {"text": None, "reasoning": None}
