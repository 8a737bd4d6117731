"""The interface every kind of daemon is reached through."""

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from fleet.daemons import http
from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.sse import EventTooLarge, SSEReader
from fleet.daemons.types import (
    ChatEvent,
    ChatRequest,
    Download,
    InstanceState,
    LoadedModel,
    LoadRequest,
    ModelInfo,
    Processing,
)


class ChatStream(ABC):
    """A running answer. Iterate it once: each step gives the events that arrived together.

    Raises DaemonError while iterating. `close()` from any thread ends it and frees the daemon's slot.
    """

    def __init__(self, stream: http.Stream):
        self.stream = stream

    @property
    def is_closed(self) -> bool:
        return self.stream.is_closed

    def close(self) -> None:
        self.stream.close()

    def __iter__(self) -> Iterator[list[ChatEvent]]:
        reader = SSEReader()
        for block in self.stream.blocks():
            try:
                server_events = reader.feed(block)
            except EventTooLarge as error:
                raise DaemonError(Reason.NOT_UNDERSTOOD, str(error)) from error
            if events := self.read(server_events):
                yield events
        if not self.is_closed and (events := self.read(reader.close()) + self.end()):
            yield events

    @abstractmethod
    def read(self, server_events) -> list[ChatEvent]:
        """What these server events mean. Raises DaemonError when they tell of a failure."""

    @abstractmethod
    def end(self) -> list[ChatEvent]:
        """The connection ended. Raises DaemonError(CUT) when the answer was not complete."""


def json_object(text: str) -> dict:
    """The JSON object that an event carries. Raises DaemonError(NOT_UNDERSTOOD) for anything else."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DaemonError(Reason.NOT_UNDERSTOOD, "an event that is not JSON") from error
    if not isinstance(data, dict):
        raise DaemonError(Reason.NOT_UNDERSTOOD, "an event that is not an object")
    return data


class Daemon(ABC):
    """One daemon by its base URL. Every method raises DaemonError."""

    kind: str
    can_load: bool  # explicit load and unload

    def __init__(self, base_url: str, token: str = ""):
        parts = urlsplit(base_url.rstrip("/"))
        self.base_url = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self.token = token

    def call(self, method: str, path: str, body: dict | None = None, seconds: float = http.ANSWER_SECONDS) -> dict:
        return http.call(method, self.base_url + path, self.token, body, seconds)

    @abstractmethod
    def probe(self) -> None:
        """Return when this kind of daemon answers at the address."""

    def is_simulated(self) -> bool:
        """It says of itself that it is not a real daemon (fleet/simulator)."""
        return False

    @abstractmethod
    def models(self) -> list[ModelInfo]: ...

    @abstractmethod
    def chat(self, request: ChatRequest) -> ChatStream: ...

    @abstractmethod
    def load(self, model: str) -> str:
        """Load another copy of a model; returns its instance id. Blocks until it is loaded."""

    def load_with(
        self,
        request: LoadRequest,
        on_progress: Callable[[float], None] | None = None,
        cancelled: threading.Event | None = None,
        by_cli: Callable[[LoadRequest], LoadedModel] | None = None,
    ) -> LoadedModel:
        """Load another copy as the request wishes, as far as a channel carries it. Blocks until it is loaded.

        `on_progress` gets fractions (0..1), and setting `cancelled` calls the load off. With either of them the channel
        that can do that is tried first; where there is none, the load goes on without.
        `by_cli` loads through the daemon's own command line, where its machine can be reached.
        """
        raise DaemonError(Reason.BAD_REQUEST, "this kind of daemon cannot load")

    def estimate(self, request: LoadRequest) -> dict:
        """What a load would take, without loading; see LMStudioSocket.estimate."""
        raise DaemonError(Reason.BAD_REQUEST, "this kind of daemon cannot estimate a load")

    def instances(self) -> list[InstanceState]:
        """Each loaded copy, and what it does right now."""
        raise DaemonError(Reason.BAD_REQUEST, "this kind of daemon does not tell what its models do")

    def processing(self, instance: str, is_embedding: bool = False) -> Processing | None:
        """What one copy does right now, for a last look before it is unloaded; None: it is gone.

        Raises SocketUnavailable (a DaemonError) where this daemon cannot be asked.
        """
        raise DaemonError(Reason.BAD_REQUEST, "this kind of daemon does not tell what its models do")

    def download(self, model: str, quantization: str = "") -> Download:
        """Begin to fetch a model onto the node's disk; `quantization` goes with the address of a repository only."""
        raise DaemonError(Reason.BAD_REQUEST, "this kind of node cannot download")

    def download_status(self, job_id: str) -> Download:
        """How far a download is. JOB_NOT_FOUND: the daemon has forgotten it, as after a restart."""
        raise DaemonError(Reason.BAD_REQUEST, "this kind of node cannot download")

    @abstractmethod
    def unload(self, instance: str) -> None: ...
