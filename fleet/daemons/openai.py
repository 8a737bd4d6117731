"""Any server that speaks OpenAI's chat completions: llama.cpp, vLLM, LM Studio's own /v1 (contract §4)."""

from fleet.daemons.base import ChatStream, Daemon, json_object
from fleet.daemons.errors import DaemonError, Reason, from_answer
from fleet.daemons.http import Stream
from fleet.daemons.types import ChatEvent, ChatRequest, Finished, Message, ModelInfo, Reasoning, Started, ToolCall

SETTINGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repeat_penalty",
    "max_output_tokens": "max_tokens",
    "reasoning": "reasoning_effort",
}


class OpenAICompatible(Daemon):
    """The base URL is given without or with the closing /v1. Inference only: loading is the server's affair."""

    kind = "openai"
    can_load = False

    def __init__(self, base_url: str, token: str = ""):
        super().__init__(base_url, token)
        self.base_url = self.base_url.removesuffix("/v1")

    def probe(self) -> None:
        self.models()

    def models(self) -> list[ModelInfo]:
        rows = self.call("GET", "/v1/models").get("data")
        if not isinstance(rows, list):
            raise DaemonError(Reason.NOT_UNDERSTOOD, "no list of models")
        keys = [str(row["id"]) for row in rows if isinstance(row, dict) and row.get("id")]
        slots = self._slots()
        return [
            ModelInfo(key=key, name=key, type="embedding" if "embed" in key.lower() else "llm", knows_loaded=False,
                      slots=slots)
            for key in keys
        ]  # fmt: skip

    def _slots(self) -> int | None:
        """llama.cpp's server tells its slots at /props; others do not know the path."""
        try:
            total = self.call("GET", "/props").get("total_slots")
        except DaemonError:
            return None
        return total if isinstance(total, int) and total > 0 else None

    def chat(self, request: ChatRequest) -> "CompletionStream":
        messages = [{"role": "system", "content": request.system_prompt}] if request.system_prompt else []
        for turn in request.history:
            messages += [{"role": "user", "content": turn.text}, {"role": "assistant", "content": turn.answer}]
        messages.append({"role": "user", "content": request.text})
        body = {"model": request.model, "messages": messages, "stream": True}
        body["stream_options"] = {"include_usage": True}
        for ours, theirs in SETTINGS.items():
            if request.settings.get(ours) not in (None, ""):
                body[theirs] = request.settings[ours]
        return CompletionStream(Stream(f"{self.base_url}/v1/chat/completions", self.token, body))

    def load(self, model: str) -> str:
        raise DaemonError(Reason.BAD_REQUEST, "this kind of node loads models by itself")

    def unload(self, instance: str) -> None:
        raise DaemonError(Reason.BAD_REQUEST, "this kind of node unloads models by itself")


class CompletionStream(ChatStream):
    """Complete after [DONE], or after a finish_reason and the connection's end (contract §4.3)."""

    def __init__(self, stream: Stream):
        super().__init__(stream)
        self.has_started = False
        self.stop_reason = ""
        self.usage: dict = {}
        self.is_done = False

    def read(self, server_events) -> list[ChatEvent]:
        events: list[ChatEvent] = []
        for server_event in server_events:
            if server_event.data == "[DONE]":
                self.is_done = True
                continue
            chunk = json_object(server_event.data)
            if chunk.get("error"):
                raise from_answer(200, chunk)
            if not self.has_started:
                self.has_started = True
                events.append(Started(str(chunk.get("model") or "")))
            self.usage = chunk.get("usage") or self.usage
            for choice in chunk.get("choices") or ():
                events += self._choice(choice)
        return events

    def _choice(self, choice: dict) -> list[ChatEvent]:
        self.stop_reason = choice.get("finish_reason") or self.stop_reason
        delta = choice.get("delta") or {}
        events: list[ChatEvent] = []
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            events.append(Reasoning(thought))
        if text := delta.get("content"):
            events.append(Message(text, is_raw=True))
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            events.append(ToolCall(function.get("name") or "", function.get("arguments") or ""))
        return events

    def end(self) -> list[ChatEvent]:
        if not (self.is_done or self.stop_reason):
            raise DaemonError(Reason.CUT, "the stream ended before the answer did")
        stats: dict = {"stop_reason": self.stop_reason} if self.stop_reason else {}
        for theirs, ours in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")):
            if isinstance(self.usage.get(theirs), int):
                stats[ours] = self.usage[theirs]
        details = self.usage.get("completion_tokens_details") or {}
        if isinstance(details.get("reasoning_tokens"), int):
            stats["reasoning_tokens"] = details["reasoning_tokens"]
        return [Finished(stats)]
