"""HTTP to daemons that misbehave, and what each answer means (contract, rule 1)."""

import contextlib
import json
import socket
import socketserver
import threading
import time

import pytest

from fleet.daemons import http, sse
from fleet.daemons.errors import DaemonError, Reason, from_answer
from fleet.daemons.lmstudio import NativeStream
from fleet.daemons.openai import CompletionStream
from fleet.daemons.types import Finished

JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = STREAM_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class CannedServer:
    """A local server that reads one request a connection and then plays its script.

    The script is a list: bytes are sent, numbers are seconds to wait. After it the connection is closed.
    """

    def __init__(self, *script):
        self.script = script
        self.requests: list[tuple[str, dict[str, str], bytes]] = []  # request line, headers, body
        self.dropped = threading.Event()  # the client went away while the script played

    def __enter__(self):
        canned = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                canned.play(self)

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def play(self, handler) -> None:
        line = handler.rfile.readline().decode().strip()
        headers = {}
        while field := handler.rfile.readline().decode().strip():
            name, _, value = field.partition(":")
            headers[name.lower()] = value.strip()
        self.requests.append((line, headers, handler.rfile.read(int(headers.get("content-length", 0)))))
        try:
            for step in self.script:
                self._step(handler, step)
        except OSError:
            self.dropped.set()

    def _step(self, handler, step) -> None:
        if isinstance(step, bytes):
            handler.wfile.write(step)
            return
        handler.connection.settimeout(step)
        try:
            if not handler.connection.recv(1):
                raise ConnectionResetError
        except TimeoutError:
            pass


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def sized(head: bytes, body: bytes, length: int | None = None) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


def read(url: str, token: str = "") -> bytes:
    return b"".join(http.Stream(f"{url}/stream", token, {"text": "hello"}).blocks())


def reason_of(function, *args, **kwargs) -> Reason:
    with pytest.raises(DaemonError) as caught:
        function(*args, **kwargs)
    return caught.value.reason


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(http, "FIRST_BYTE_SECONDS", 0.2)
    monkeypatch.setattr(http, "SILENCE_SECONDS", 0.2)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ((), Reason.CUT),
        ((b"HTTP/1.1 2",), Reason.CUT),
        # http.client takes headers that break off for all of them: an empty stream, which an adapter calls cut.
        ((b"HTTP/1.1 200 OK\r\nContent-Ty",), None),
        ((b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n",), None),
        ((b"garbage\r\n\r\n",), Reason.CUT),
        ((CHUNKED + chunk(b"data: 1\n\n"),), Reason.CUT),
        ((CHUNKED + b"40\r\ndata: half",), Reason.CUT),
        ((CHUNKED + b"zz\r\n",), Reason.CUT),
        ((sized(JSON_HEAD, b'{"error": {"type": "model_not_found"}}'),), Reason.MODEL_NOT_FOUND),
        ((sized(JSON_HEAD, b'{"error": "Unexpected endpoint or method. (POST /stream)"}'),), Reason.NOT_UNDERSTOOD),
        ((sized(JSON_HEAD, b'{"answer": "whole"}'),), Reason.NOT_UNDERSTOOD),
        ((sized(b"HTTP/1.1 500 No\r\n", b"<html>broken</html>"),), Reason.SERVER_ERROR),
        ((sized(b"HTTP/1.1 503 Busy\r\n", b""),), Reason.BUSY),
        ((sized(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n", b""),), Reason.NOT_UNDERSTOOD),
    ],
)
def test_it_says_what_is_wrong_with_a_stream(script, reason):
    with CannedServer(*script) as server:
        if reason is None:
            assert read(server.url) == b""
        else:
            assert reason_of(read, server.url) is reason
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "script",
    [
        (CHUNKED + chunk(b"data: 1\n\n") + chunk(b"data: 2\n\n") + b"0\r\n\r\n", 60.0),
        (sized(STREAM_HEAD, b"data: 1\n\ndata: 2\n\n"), 60.0),
        (STREAM_HEAD + b"Connection: close\r\n\r\ndata: 1\n\n", 0.05, b"data: 2\n\n"),
        (STREAM_HEAD.replace(b"1.1", b"1.0") + b"\r\ndata: 1\n\ndata: 2\n\n",),
    ],
    ids=["chunked", "with a length", "until closed", "HTTP/1.0"],
)
def test_it_reads_a_stream_however_its_end_is_told(script):
    with CannedServer(*script) as server:
        started = time.monotonic()
        assert read(server.url) == b"data: 1\n\ndata: 2\n\n"
        assert time.monotonic() - started < 20


def test_it_hands_over_a_slow_drip_as_it_comes(monkeypatch):
    """The pauses are shorter than the limit on silence, the whole answer is longer."""
    monkeypatch.setattr(http, "SILENCE_SECONDS", 1.5)
    drops = [step for n in range(7) for step in (0.3, chunk(b"%d" % n))]

    def is_read_to_its_end() -> bool:
        with CannedServer(CHUNKED, *drops, b"0\r\n\r\n") as server, contextlib.suppress(DaemonError):
            arrived = [(block, time.monotonic()) for block in http.Stream(f"{server.url}/x", "", {}).blocks()]
            is_whole = [block for block, _ in arrived] == [b"%d" % n for n in range(7)]
            return is_whole and arrived[-1][1] - arrived[0][1] > 1.5
        return False

    assert any(is_read_to_its_end() for _ in range(3))  # a busy machine may make a pause longer


@pytest.mark.parametrize("sent", [(), (CHUNKED, chunk(b"data: 1\n\n")), (CHUNKED, b"40\r\ndata: half")])
def test_it_gives_up_on_silence(impatient, sent):
    with CannedServer(*sent, 60.0) as server:
        started = time.monotonic()
        assert reason_of(read, server.url) is Reason.TIMEOUT
        assert time.monotonic() - started < 20
        assert server.dropped.wait(60)


def test_it_waits_longer_for_the_first_byte_than_between_two(monkeypatch):
    monkeypatch.setattr(http, "SILENCE_SECONDS", 0.1)
    with CannedServer(0.3, CHUNKED + chunk(b"late") + b"0\r\n\r\n") as server:
        assert read(server.url) == b"late"


def test_it_waits_less_between_two_pieces_than_for_the_first(monkeypatch):
    monkeypatch.setattr(http, "SILENCE_SECONDS", 0.2)
    with CannedServer(CHUNKED, chunk(b"data: 1\n\n"), 10.0) as server:
        assert reason_of(read, server.url) is Reason.TIMEOUT


def test_it_follows_no_redirect():
    with CannedServer(sized(JSON_HEAD, b'{"models": []}')) as target:
        head = b"HTTP/1.1 307 Go\r\nLocation: %s/\r\n" % target.url.encode()
        with CannedServer(sized(head, b"")) as server:
            assert reason_of(read, server.url, "secret") is Reason.NOT_UNDERSTOOD
            assert reason_of(http.call, "GET", server.url, "secret") is Reason.NOT_UNDERSTOOD
        assert target.requests == []


def test_it_sends_a_token_only_where_there_is_one():
    with CannedServer(sized(JSON_HEAD, b"{}")) as server:
        http.call("GET", f"{server.url}/a", "tok")
        http.call("GET", f"{server.url}/b")
        reason_of(read, server.url, "tok")
        reason_of(read, server.url)
    assert [headers.get("authorization") for _, headers, _ in server.requests] == ["Bearer tok", None] * 2
    assert json.loads(server.requests[2][2]) == {"text": "hello"}


def test_it_does_not_go_through_a_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with CannedServer(sized(JSON_HEAD, b'{"models": []}')) as server:
        assert http.call("GET", server.url) == {"models": []}


def test_it_ends_quietly_when_it_is_closed_by_another_thread():
    with CannedServer(CHUNKED, chunk(b"data: 1\n\n"), 60.0) as server:
        stream = http.Stream(f"{server.url}/x", "", {})
        blocks = stream.blocks()
        assert next(blocks) == b"data: 1\n\n"
        threading.Timer(0.1, stream.close).start()
        started = time.monotonic()
        assert list(blocks) == []
        assert time.monotonic() - started < 20
        assert server.dropped.wait(60)


def test_it_sends_nothing_when_it_was_closed_before_it_began():
    with CannedServer(sized(STREAM_HEAD, b"data: 1\n\n")) as server:
        stream = http.Stream(f"{server.url}/x", "", {})
        stream.close()
        assert list(stream.blocks()) == []
        time.sleep(0.05)
        assert [request for request in server.requests if request[0]] == []


def test_it_does_not_take_an_event_without_end(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100_000)
    with CannedServer(STREAM_HEAD + b"\r\ndata: " + b"x" * 200_000) as server:
        stream = CompletionStream(http.Stream(f"{server.url}/x", "", {}))
        assert reason_of(list, stream) is Reason.NOT_UNDERSTOOD


DELTA = b'data: {"choices": [{"delta": {"content": "Otters"}, "finish_reason": %s}]}\n\n'
NATIVE = b'data: {"type": "message.delta", "content": "Otters"}\n\n'


@pytest.mark.parametrize("head", [STREAM_HEAD + b"\r\n", STREAM_HEAD + b"Content-Length: 4000\r\n\r\n"])
@pytest.mark.parametrize(
    ("kind", "data"), [(CompletionStream, DELTA % b"null"), (NativeStream, NATIVE), (CompletionStream, b"")]
)
def test_it_does_not_take_a_stream_that_just_ends_for_an_answer(head, kind, data):
    with CannedServer(head + data) as server:
        assert reason_of(list, kind(http.Stream(f"{server.url}/x", "", {}))) is Reason.CUT


@pytest.mark.parametrize("data", [DELTA % b'"stop"', DELTA % b"null" + b"data: [DONE]\n\n"])
def test_it_takes_either_end_that_openai_compatible_servers_give(data):
    with CannedServer(STREAM_HEAD + b"\r\n" + data) as server:
        (*_, last) = CompletionStream(http.Stream(f"{server.url}/x", "", {}))
        assert isinstance(last[-1], Finished)


@pytest.mark.parametrize("data", [b"{broken", b"null", b"[1]", b'"text"', b"7"])
def test_it_does_not_take_events_of_another_shape(data):
    with CannedServer(STREAM_HEAD + b"\r\ndata: " + data + b"\n\n") as server:
        stream = CompletionStream(http.Stream(f"{server.url}/x", "", {}))
        assert reason_of(list, stream) is Reason.NOT_UNDERSTOOD


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ((), Reason.CUT),
        ((sized(JSON_HEAD, b'{"models": [', 400),), Reason.CUT),
        ((sized(JSON_HEAD, b'{"models": ['),), Reason.NOT_UNDERSTOOD),
        ((sized(JSON_HEAD, b"[1, 2]"),), Reason.NOT_UNDERSTOOD),
        ((sized(b"HTTP/1.1 200 OK\r\n", b"<html></html>"),), Reason.NOT_UNDERSTOOD),
        ((sized(b"HTTP/1.1 404 No\r\n", b"<html></html>"),), Reason.BAD_REQUEST),
        ((sized(b"HTTP/1.1 401 No\r\n", b""),), Reason.UNAUTHORIZED),
        ((10.0,), Reason.TIMEOUT),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", 10.0), Reason.TIMEOUT),
        ((JSON_HEAD + b"Content-Encoding: gzip\r\n\r\nnot gzip",), Reason.NOT_UNDERSTOOD),
    ],
)
def test_it_says_what_is_wrong_with_a_short_answer(script, reason):
    with CannedServer(*script) as server:
        seconds = 0.4 if reason is Reason.TIMEOUT else 60
        assert reason_of(http.call, "GET", f"{server.url}/models", seconds=seconds) is reason


def test_it_does_not_read_an_answer_without_end(monkeypatch):
    monkeypatch.setattr(http, "MAX_ANSWER_BYTES", 200_000)
    with CannedServer(JSON_HEAD + b"\r\n", *[b"[" * 65_536] * 100) as server:
        assert reason_of(http.call, "GET", server.url) is Reason.NOT_UNDERSTOOD
    trickle = [step for _ in range(1200) for step in (0.05, b"[" * 128)]
    with CannedServer(JSON_HEAD + b"\r\n", *trickle) as server:
        started = time.monotonic()
        assert reason_of(http.call, "GET", server.url, seconds=0.3) is Reason.TIMEOUT
        assert time.monotonic() - started < 20


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://no-such-host.invalid:1234", "http://[::1]:9"])
def test_it_says_that_nobody_is_there(url):
    assert reason_of(http.call, "GET", url) is Reason.UNREACHABLE
    assert reason_of(read, url) is Reason.UNREACHABLE


def test_it_says_that_a_host_which_never_accepts_is_not_there(monkeypatch):
    monkeypatch.setattr(http, "CONNECT_SECONDS", 0.2)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()):
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            assert reason_of(http.call, "GET", url) is Reason.UNREACHABLE
            assert reason_of(read, url) is Reason.UNREACHABLE


def envelope(message="", **more):
    return {"error": {"message": message, **more}}


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, {"error": "Unexpected endpoint or method. (GET /x)"}, Reason.NOT_UNDERSTOOD),
        (404, {"error": "Unexpected endpoint or method. (GET /x)"}, Reason.NOT_UNDERSTOOD),
        (401, envelope("A Bearer token is required", type="invalid_request"), Reason.UNAUTHORIZED),
        (403, "Forbidden", Reason.UNAUTHORIZED),
        (400, envelope(code="invalid_api_key"), Reason.UNAUTHORIZED),
        (404, envelope('Invalid model identifier "x"', type="model_not_found"), Reason.MODEL_NOT_FOUND),
        (400, envelope(code="model_not_found"), Reason.MODEL_NOT_FOUND),
        (400, envelope('Invalid model identifier "x"'), Reason.MODEL_NOT_FOUND),
        (400, {"error": "No models loaded. Please load a model in the developer page"}, Reason.MODEL_NOT_FOUND),
        (404, envelope('No stored response "resp_1".', param="previous_response_id"), Reason.CHAT_NOT_FOUND),
        (400, envelope("'previous_response_id' is unknown"), Reason.CHAT_NOT_FOUND),
        (400, envelope("Unrecognized key(s) in object: 'ttl'", code="unrecognized_keys"), Reason.BAD_REQUEST),
        (413, "too large", Reason.BAD_REQUEST),
        (429, envelope("Slow down"), Reason.BUSY),
        (503, envelope("Loading model"), Reason.BUSY),
        (500, envelope("Failed to load model x", type="internal_error"), Reason.LOAD_FAILED),
        (500, envelope("Failed to load model x: insufficient memory"), Reason.OUT_OF_MEMORY),
        (400, envelope("Failed to load model x: insufficient system resources"), Reason.OUT_OF_MEMORY),
        (500, envelope("CUDA out of memory"), Reason.OUT_OF_MEMORY),
        (400, envelope("Your prompt says that memory is short"), Reason.BAD_REQUEST),
        (500, envelope("The engine gave up", type="internal_error"), Reason.SERVER_ERROR),
        (502, "<html>Bad gateway</html>", Reason.SERVER_ERROR),
        (200, envelope("Failed to load model x", type="internal_error"), Reason.LOAD_FAILED),
        (200, envelope("The engine gave up", type="internal_error"), Reason.GENERATION_FAILED),
        (200, envelope("Model x is gone: evicted by the load of y", type="internal_error"), Reason.GENERATION_FAILED),
        (200, {"error": "Model unloaded."}, Reason.GENERATION_FAILED),
        (400, {"error": "The model has crashed without additional information."}, Reason.GENERATION_FAILED),
        (400, {"error": "Model unloaded while still in queue"}, Reason.GENERATION_FAILED),
        (400, None, Reason.BAD_REQUEST),
        (500, ["odd"], Reason.SERVER_ERROR),
    ],
)
def test_it_judges_an_answer_by_its_body(status, body, reason):
    assert from_answer(status, body).reason is reason


def test_it_keeps_the_daemons_own_words():
    assert from_answer(500, envelope("It broke")).detail == "It broke"
    assert from_answer(502, "Bad gateway").detail == "Bad gateway"
    assert len(from_answer(500, envelope("x" * 9000)).detail) == 2000
    assert "It broke" not in str(from_answer(500, envelope("It broke")))


def test_it_has_words_for_every_reason_and_retries_only_what_can_get_better():
    assert all(reason.explanation for reason in Reason)
    assert {reason for reason in Reason if not reason.can_retry} == {
        Reason.TIMEOUT_TOTAL, Reason.OUT_OF_MEMORY, Reason.UNAUTHORIZED, Reason.MODEL_NOT_FOUND,
        Reason.CHAT_NOT_FOUND, Reason.JOB_NOT_FOUND, Reason.BAD_REQUEST, Reason.NOT_UNDERSTOOD,
    }  # fmt: skip


def test_it_gives_up_on_an_answer_that_drips():
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    drip = [part for _ in range(600) for part in (0.1, b"x")]
    with CannedServer(head, *drip) as server:
        started = time.monotonic()
        with pytest.raises(DaemonError) as caught:
            http.call("GET", server.url, seconds=0.6)
        assert time.monotonic() - started < 20
    assert caught.value.reason is Reason.TIMEOUT


@pytest.mark.usefixtures("no_collection")
def test_it_understands_no_answer_that_is_nested_without_end():
    deep = b"[" * 200_000
    with CannedServer(sized(JSON_HEAD, deep)) as server, pytest.raises(DaemonError) as caught:
        http.call("GET", server.url)
    assert caught.value.reason is Reason.NOT_UNDERSTOOD
