"""A chat that goes through DaemonPulse's queue (docs/api.md): submitted as a prompt, then watched."""

import time
import uuid
from collections.abc import Iterator

from fleet.daemons.base import json_object
from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.sse import ServerEvent, SSEReader
from fleet.native.answers import Problem
from fleet.native.chats import Ask, Chat, End, Piece
from fleet.native.site import Site

# Our name in settings (OpenAI's) → the queue's.
SETTINGS = {
    "model": "model",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repeat_penalty",
    "max_tokens": "max_output_tokens",
}
USAGE = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens", "reasoning_tokens": "reasoning_tokens"}
KINDS = {"message.delta": "answer", "reasoning.delta": "reasoning"}
LOST_AFTER_SECONDS = 30.0  # without an event: a restarted web server is back sooner
PAUSE_SECONDS = 0.5
MAY_COME_BACK = {Reason.UNREACHABLE, Reason.TIMEOUT, Reason.CUT, Reason.BUSY, Reason.SERVER_ERROR}


def fits(ask: Ask, models: list[dict]) -> bool:
    """Whether the queue can run it: [system?] and one user message, settings it knows, a model that is online."""
    roles = [message["role"] for message in ask.messages]
    is_online = any(row["key"] == ask.model and row.get("is_online") for row in models)
    return roles in (["user"], ["system", "user"]) and set(ask.settings) <= set(SETTINGS) and is_online


class QueuedChat(Chat):
    """The prompt stays in the queue until it is run. A connection that breaks is taken up where it broke."""

    def __init__(self, ask: Ask, site: Site):
        super().__init__(ask)
        self.site = site
        self.prompt_id = str(uuid.uuid4())
        self._seen: str | None = None
        self._heard_at = time.monotonic()

    def _answer(self) -> Iterator[Piece | End]:
        self.site.submit(self._prompt())
        while not self.is_closed.is_set():
            try:
                for event in self._events():
                    if (item := self._read(event)) is not None:
                        yield item
            except DaemonError as error:
                if error.reason not in MAY_COME_BACK:
                    raise
            if time.monotonic() - self._heard_at > LOST_AFTER_SECONDS:
                raise self._problem("cut", "DaemonPulse stopped answering; the prompt stays in its queue.")
            self.is_closed.wait(PAUSE_SECONDS)

    def _prompt(self) -> dict:
        texts = {message["role"]: message["content"] for message in self.ask.messages}
        prompt = {SETTINGS[name]: value for name, value in self.ask.settings.items()}
        prompt |= {"id": self.prompt_id, "text": texts["user"]}
        return prompt | ({"system_prompt": texts["system"]} if texts.get("system") else {})

    def _events(self) -> Iterator[ServerEvent]:
        reader = SSEReader()
        stream = self._hold(self.site.events(self.prompt_id, self._seen))
        for block in stream.blocks():
            self._heard_at = time.monotonic()
            yield from reader.feed(block)

    def _read(self, event: ServerEvent) -> Piece | End | None:
        self._seen = event.id or self._seen
        data = json_object(event.data)
        match event.name:
            case "message.delta" | "reasoning.delta":
                return Piece(str(data.get("text") or ""), KINDS[event.name])
            case "restart":
                return Piece("", is_restart=True)
            case "done":
                return self._end(data.get("stats") or {})
            case "cancelled":
                return End(self.ask.model, "cancelled")
            case "failed":
                said = data.get("explanation") or "The prompt failed."
                raise self._problem(str(data.get("reason") or "failed"), str(said))
        return None

    def _end(self, stats: dict) -> End:
        usage = {name: stats[ours] for ours, name in USAGE.items() if isinstance(stats.get(ours), int)}
        return End(self.ask.model, stats.get("stop_reason") or None, usage)

    def _problem(self, code: str, sentence: str) -> Problem:
        return Problem(code, sentence, f"The prompt is kept at {self.site.url}/prompts/{self.prompt_id}/.")

    def _clean_up(self) -> None:
        try:
            self.site.cancel(self.prompt_id)
        except (DaemonError, Problem):
            return  # it has ended already, or the site is gone: nobody waits for the answer
