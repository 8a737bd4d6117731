"""LM Studio and llmster through the native REST API v1 (contract §2, §3), for some loads through the socket (§10)."""

import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

from fleet.allocation.channels import Channel, carried, choose
from fleet.daemons.base import ChatStream, Daemon, json_object
from fleet.daemons.errors import DaemonError, LoadCancelled, Reason, SocketUnavailable, from_answer
from fleet.daemons.http import Stream
from fleet.daemons.lmstudio_answers import MAX_KEY, download, model_info, text
from fleet.daemons.types import (
    LOAD_SECONDS,
    ChatEvent,
    ChatRequest,
    Download,
    Finished,
    InstanceState,
    LoadedModel,
    LoadRequest,
    Message,
    ModelInfo,
    Processing,
    Progress,
    Reasoning,
    Started,
    ToolCall,
)

if TYPE_CHECKING:
    from fleet.daemons.lmstudio_socket import LMStudioSocket

DOWNLOAD_SECONDS = 60.0  # until a download has begun: the daemon looks the model up on the internet first
# Our setting → its name in the request body; nothing else is accepted there (contract §2.6).
SETTINGS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "max_output_tokens",
    "reasoning",
    "context_length",
)
STATS = {
    "input_tokens": "input_tokens",
    "total_output_tokens": "output_tokens",
    "reasoning_output_tokens": "reasoning_tokens",
    "tokens_per_second": "tokens_per_second",
    "time_to_first_token_seconds": "first_token_seconds",
    "model_load_time_seconds": "load_seconds",
}


class LMStudio(Daemon):
    kind = "lmstudio"
    can_load = True

    def probe(self) -> None:
        if self.call("GET", "/lmstudio-greeting").get("lmstudio") is not True:
            raise DaemonError(Reason.NOT_UNDERSTOOD, "no LM Studio greeting")

    def is_simulated(self) -> bool:
        return self.call("GET", "/lmstudio-greeting").get("simulated") is True

    def models(self) -> list[ModelInfo]:
        rows = self.call("GET", "/api/v1/models").get("models")
        if not isinstance(rows, list):
            raise DaemonError(Reason.NOT_UNDERSTOOD, "no list of models")
        return [model for row in rows if (model := model_info(row))]

    def chat(self, request: ChatRequest) -> "NativeStream":
        body = {"model": request.model, "input": request.text, "stream": True, "store": True}
        if request.system_prompt:
            body["system_prompt"] = request.system_prompt
        if request.previous_response_id:
            body["previous_response_id"] = request.previous_response_id
        body |= {name: request.settings[name] for name in SETTINGS if request.settings.get(name) not in (None, "")}
        return NativeStream(Stream(f"{self.base_url}/api/v1/chat", self.token, body))

    def load(self, model: str) -> str:
        return self.load_with(LoadRequest(model)).instance

    def load_with(
        self,
        request: LoadRequest,
        on_progress: Callable[[float], None] | None = None,
        cancelled: threading.Event | None = None,
        by_cli: Callable[[LoadRequest], LoadedModel] | None = None,
    ) -> LoadedModel:
        """Through REST if that carries every wish, else through the socket; without a socket through what is left.

        Where progress or a cancel is wished the socket comes first, because it alone can do either (contract §2.2).
        """
        more = {"gpu_indices": request.gpu_indices, "is_embedding": request.is_embedding}
        is_followed = on_progress is not None or cancelled is not None
        best = choose((Channel.SOCKET, Channel.REST), request.profile, request.options, **more)
        if is_followed or best is Channel.SOCKET:
            try:
                return self.socket.load(request, on_progress, cancelled)
            except SocketUnavailable as error:
                if cancelled is not None and cancelled.is_set():
                    raise LoadCancelled from error
        rest, cli = (carried(request.profile, request.options, way) for way in (Channel.REST, Channel.CLI))
        if by_cli is not None and len(cli.dropped) < len(rest.dropped):
            return by_cli(request)
        return self._load_by_rest(request)

    def estimate(self, request: LoadRequest) -> dict:
        more = {"gpu_indices": request.gpu_indices, "is_embedding": request.is_embedding}
        wish = carried(request.profile, request.options, Channel.SOCKET, **more)
        return self.socket.estimate(request.model, wish.passed["fields"], request.is_embedding)

    def instances(self) -> list[InstanceState]:
        """Of LLMs and embedding models, over the socket. Raises SocketUnavailable where there is none."""
        from fleet.daemons.lmstudio_instances import instances  # see `socket`

        return instances(self.socket)

    def processing(self, instance: str, is_embedding: bool = False) -> Processing | None:
        from fleet.daemons.lmstudio_instances import processing  # see `socket`

        return processing(self.socket, instance, is_embedding)

    def download(self, model: str, quantization: str = "") -> Download:
        body = {"model": model} | ({"quantization": quantization} if quantization else {})
        return download(self.call("POST", "/api/v1/models/download", body, seconds=DOWNLOAD_SECONDS))

    def download_status(self, job_id: str) -> Download:
        return download(self.call("GET", f"/api/v1/models/download/status/{quote(job_id, safe='')}"))

    @property
    def socket(self) -> "LMStudioSocket":
        # Here, because its library takes 2 MB in every process, and few ever open it.
        from fleet.daemons.lmstudio_socket import LMStudioSocket

        return LMStudioSocket(self.base_url, self.token)

    def _load_by_rest(self, request: LoadRequest) -> LoadedModel:
        """It can neither tell progress nor be called off (contract §2.2)."""
        wish = carried(request.profile, request.options, Channel.REST)
        body = {"model": request.model} | wish.passed
        try:
            answer = self.call("POST", "/api/v1/models/load", body, seconds=LOAD_SECONDS)
        except DaemonError as error:
            if error.reason in {Reason.SERVER_ERROR, Reason.GENERATION_FAILED}:  # whatever its words, it is of a load
                raise DaemonError(Reason.LOAD_FAILED, error.detail) from error
            raise
        seconds = answer.get("load_time_seconds")
        return LoadedModel(
            text(answer.get("instance_id"), MAX_KEY) or request.model,
            Channel.REST,
            wish.dropped,
            seconds if isinstance(seconds, int | float) else None,
        )

    def unload(self, instance: str) -> None:
        self.call("POST", "/api/v1/models/unload", {"instance_id": instance})


class NativeStream(ChatStream):
    """The events of §3. `error` does not end the stream, but it makes the answer a failed one."""

    def __init__(self, stream: Stream):
        super().__init__(stream)
        self.is_complete = False
        self.error: DaemonError | None = None

    def read(self, server_events) -> list[ChatEvent]:
        events: list[ChatEvent] = []
        for server_event in server_events:
            data = json_object(server_event.data)
            name = data.get("type") or server_event.name
            if name == "message.delta":  # first, because nearly every event is one of these two
                events.append(Message(data.get("content") or "", is_raw=True))
            elif name == "reasoning.delta":
                events.append(Reasoning(data.get("content") or ""))
            elif name == "error":
                self.error = _stream_error(data.get("error"))
            elif name == "chat.end":
                self.is_complete = True
                if self.error is None:
                    events.append(_finished(data.get("result") or {}))
            else:
                events += _other(name, data)
        return events

    def end(self) -> list[ChatEvent]:
        if self.error is not None:
            raise self.error
        if not self.is_complete:
            raise DaemonError(Reason.CUT, "the stream ended before the answer did")
        return []


def _other(name: str, data: dict) -> list[ChatEvent]:
    match name:
        case "chat.start":
            return [Started(str(data.get("model_instance_id") or ""))]
        case "model_load.start":
            return [Progress("load", 0.0)]
        case "model_load.progress":
            return [Progress("load", data.get("progress"))]
        case "model_load.end":
            return [Progress("load", 1.0)]
        case "prompt_processing.start":
            return [Progress("prompt", 0.0)]
        case "prompt_processing.progress":
            return [Progress("prompt", data.get("progress"))]
        case "tool_call.arguments":
            return [ToolCall(str(data.get("tool") or ""), json.dumps(data.get("arguments")))]
    return []  # starts, ends and events that later versions add


def _stream_error(error: object) -> DaemonError:
    """An `error` event carries no HTTP status; its type says whose fault it was."""
    kind = error.get("type") if isinstance(error, dict) else None
    status = 400 if kind in {"invalid_request", "not_implemented", "model_not_found"} else 200
    return from_answer(status, {"error": error})


def _finished(result: dict) -> Finished:
    told = result.get("stats") or {}
    stats = {ours: told[theirs] for theirs, ours in STATS.items() if isinstance(told.get(theirs), int | float)}
    return Finished(stats, str(result.get("response_id") or ""))
