"""One HTTP request and its answer, as the routes see it."""

import json
from collections.abc import Callable, Coroutine
from urllib.parse import unquote

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.web.http import Request

from fleet.simulator.errors import ApiError
from fleet.simulator.faults import Fault

SERVER = b"DaemonPulse-Simulator"
encode_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode(value) -> bytes:
    """Compact UTF-8 JSON; a lone surrogate from the client's text becomes a question mark."""
    return encode_text(value).encode("utf-8", "replace")


class Exchange(Request):
    fault: Fault | None = None  # of the whole daemon, for this request, to strike in mid-answer
    _answering: Deferred | None = None

    def __init__(self, answer: Callable[["Exchange"], Coroutine], channel, queued=False):
        super().__init__(channel, queued, parsePOSTFormSubmission=False)
        self._answer = answer

    def process(self) -> None:
        self._answering = ensureDeferred(self._answer(self))

    def connectionLost(self, reason) -> None:
        """The client went away: whatever waits or generates for it stops here."""
        super().connectionLost(reason)
        if self._answering is not None:
            self._answering.cancel()

    @property
    def verb(self) -> str:
        return self.method.decode("latin-1")

    @property
    def route(self) -> str:
        """The decoded path without the query."""
        return unquote(self.path.decode("latin-1"))

    @property
    def is_openai(self) -> bool:
        return self.route.startswith(("/v1/", "/api/v0/"))

    @property
    def is_open(self) -> bool:
        """The answer is not finished and somebody is there to read it."""
        return not self.finished and not self._disconnected

    def asked(self, name: str) -> str:
        """A parameter of the query; "" where it is not there."""
        return self.args.get(name.encode(), [b""])[0].decode("utf-8", "replace")

    def body(self):
        """The request's JSON; raises ApiError 400."""
        try:
            return json.loads(self.content.read() or b"{}")
        except ValueError as error:
            raise ApiError(400, "invalid_request", f"The body is not valid JSON: {error}") from error

    def reply(self, body, status: int = 200) -> None:
        """Answer with JSON, whole."""
        data = encode(body)
        self.setResponseCode(status)
        self._set_headers(b"application/json; charset=utf-8")
        self.responseHeaders.setRawHeaders(b"content-length", [b"%d" % len(data)])
        self.send(data)
        self.end()

    def refuse(self, error: ApiError) -> None:
        """Answer with an error in the dialect of the route, if anybody is left to read it."""
        status, body = error.openai() if self.is_openai else error.native()
        self.reply(body, status)

    def open_stream(self) -> None:
        self._set_headers(b"text/event-stream; charset=utf-8")
        self.responseHeaders.setRawHeaders(b"cache-control", [b"no-cache"])

    def _set_headers(self, content_type: bytes) -> None:
        self.responseHeaders.setRawHeaders(b"server", [SERVER])
        self.responseHeaders.setRawHeaders(b"content-type", [content_type])

    def send(self, data: bytes) -> None:
        if self.is_open and data:
            self.write(data)

    def end(self) -> None:
        if self.is_open:
            self.finish()

    def cut(self) -> None:
        """Close the connection after what was sent so far; the client sees an unfinished answer."""
        if self.is_open:
            self.channel.loseConnection()

    def reset(self) -> None:
        """Drop the connection without a word."""
        if self.is_open:
            self.transport.abortConnection()
