"""The control plane's side of an agent: whom it trusts, and what it makes of hostile answers."""

import contextlib
import itertools
import json
import re
import socket
import ssl
import threading
import time
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.agent import client as client_module
from fleet.agent import tls
from fleet.agent.client import AgentClient
from fleet.agent.errors import ActionFailed, from_error
from fleet.agent.keys import AgentKey
from fleet.agent.outlet import MAX_LINE_CHARACTERS, MAX_LINES, Outlet
from fleet.agent.serving import Address
from fleet.agent.throttle import MOST_PEERS, Throttle
from fleet.daemons.errors import DaemonError, Reason
from fleet.lms.status import Status
from fleet.telemetry.readings import MAX_TEXT
from tests.fleet.agent_fixture import AgentProcess
from tests.fleet.fake_lms_fixture import FakeLMStudio

KEY = AgentKey.make()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


class Impostor:
    """Answers every connection with the same bytes, and remembers what came."""

    def __init__(self, answer: bytes = b"", certificate: tls.Certificate | None = None, pause: float = 0, step=4096):
        self.answer, self.pause, self.step, self.received = answer, pause, step, b""
        self.context = None
        if certificate:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(certificate.certificate, certificate.key)
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.listener.getsockname()[1]}"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                with contextlib.suppress(OSError):
                    self._answer(self.context.wrap_socket(connection, server_side=True) if self.context else connection)
                connection.close()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.closing(connection):
            connection.settimeout(30)
            self.received += _request(connection)
            for at in range(0, len(self.answer), self.step):
                connection.sendall(self.answer[at : at + self.step])
                time.sleep(self.pause)

    def __enter__(self) -> "Impostor":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts, which close() does not
        self.listener.close()


def _request(connection: socket.socket) -> bytes:
    """The whole of it: to close a connection on what was not read breaks it off before its answer has arrived."""
    with connection.makefile("rb") as file:
        head = b"".join(itertools.takewhile(bytes.strip, file))
        length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
        return head + file.read(int(length[1]) if length else 0)


def http(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def failure(answer: bytes, ask=AgentClient.telemetry, **options) -> DaemonError:
    with Impostor(answer, **options) as impostor, pytest.raises(DaemonError) as failed:
        ask(AgentClient(impostor.url, KEY))
    return failed.value


def run(client: AgentClient) -> dict:
    return client.execute("status")


def read_logs(client: AgentClient) -> list[str]:
    return list(client.logs("server"))


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    fake = FakeLMStudio(tmp_path_factory.mktemp("tls"), only_greets=True)
    process = AgentProcess(fake.home).start("--host", "127.0.0.2", "--tls", "--lmstudio-bind", "0.0.0.0")
    process.studio = fake
    yield process
    process.stop()
    fake.stop()


def test_it_talks_over_tls_to_the_certificate_that_the_key_names(secured, monkeypatch):
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # proxies are for the internet
    assert secured.url.startswith("https://127.0.0.2:")
    assert secured.client.hello()["tls"] is True
    assert secured.client.telemetry().cpu_count
    assert secured.client.execute("server_start")["state"] == "ready"
    with secured.client.logs("server") as stream:
        secured.studio.log("server", {"timestamp": 1, "data": {"type": "server.log", "content": "hello"}})
        assert "hello" in next(iter(stream))


def test_it_starts_the_server_where_its_agent_was_told_to(secured):
    secured.client.execute("server_restart")
    starts = [command for command in secured.studio.commands() if command.startswith("server start")]
    assert starts[-1] == f"server start --port {secured.studio.port} --bind 0.0.0.0"


def test_it_trusts_no_certificate_without_a_reason(secured):
    unpinned = AgentClient(secured.url, secured.key.with_fingerprint(""))
    for ask in (AgentClient.telemetry, run, read_logs):
        with pytest.raises(DaemonError, match="not_understood") as untrusted:
            ask(unpinned)
        assert "not one that this machine trusts" in untrusted.value.detail


@pytest.mark.parametrize("ask", [AgentClient.telemetry, run, read_logs])
def test_it_sends_nothing_to_another_certificate(tmp_path, ask):
    with Impostor(http(b"{}"), tls.own(tmp_path)) as impostor, pytest.raises(DaemonError) as failed:
        ask(AgentClient(impostor.url, KEY.with_fingerprint("ab" * 32)))
    assert "not the one that the agent's key names" in failed.value.detail
    assert impostor.received == b""


@pytest.mark.parametrize("url", ["", "box", "ftp://box", "http://", "http://u:p@box", "http://box/path"])
def test_it_says_what_an_address_looks_like(url):
    with pytest.raises(ValueError, match="looks like https://machine:8643"):
        AgentClient(url, KEY)


def test_it_does_not_fall_back_to_plain_http():
    with pytest.raises(ValueError, match="begins with https"):
        AgentClient("http://box:8643", KEY.with_fingerprint("ab" * 32))


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (http(b"<html>"), Reason.NOT_UNDERSTOOD),
        (http(b"[]"), Reason.NOT_UNDERSTOOD),
        (http(b"{}"), Reason.NOT_UNDERSTOOD),
        (http(b'{"at": "now"}'), Reason.NOT_UNDERSTOOD),
        (http(b"[" * 100_000), Reason.NOT_UNDERSTOOD),
        (http(b" " * 3_000_000), Reason.NOT_UNDERSTOOD),
        (http(b"{}", "302 Found", "Location: http://127.0.0.1:9/\r\n"), Reason.NOT_UNDERSTOOD),
        (http(b"{}", "404 Not Found"), Reason.NOT_UNDERSTOOD),
        (http(b'{"error": {"problem": "unauthorized"}}', "401 No"), Reason.UNAUTHORIZED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", Reason.CUT),
        (b"SSH-2.0-OpenSSH\r\n", Reason.NOT_UNDERSTOOD),
        (b"", Reason.CUT),
    ],
)
def test_it_makes_one_error_of_whatever_answers(answer, reason):
    assert failure(answer).reason is reason


def test_it_drops_what_is_no_reading_in_a_reading():
    body = {"at": 5, "hostname": 7, "ram_total_bytes": "much", "gpus": [{"name": "x" * 9999, "power_watts": "hot"}, 3]}
    with Impostor(http(json.dumps(body).encode())) as impostor:
        machine = AgentClient(impostor.url, KEY).telemetry()
    assert (machine.at, machine.hostname, machine.ram_total_bytes) == (5, "", None)
    assert (len(machine.gpus[0].name), machine.gpus[0].power_watts) == (MAX_TEXT, None)


def test_it_drops_what_is_no_status_in_a_status():
    body = {"installed": "yes", "server_running": True, "state": "ready", "advice": "x\ud800" * 999, "daemon_pid": 1.5}
    body |= {"api_endpoint": ["http"], "current_model": "\x1b[2J\x00otter", "version": 4, "extra": 1, "headless": None}
    with Impostor(http(json.dumps(body).encode())) as impostor:
        status = AgentClient(impostor.url, KEY).status()
    assert set(status) == set(Status.from_json({}).as_json())
    assert (status["installed"], status["server_running"], status["headless"]) == (None, True, None)
    assert (status["api_endpoint"], status["current_model"]) == ("", "otter")
    assert (status["daemon_pid"], status["version"]) == (None, None)
    assert (status["state"], status["explanation"]) == ("ready", "LM Studio's server answers.")
    assert status["advice"] == "x\ufffd" * 250


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from([field.name for field in fields(Status)]), JSON))
def test_it_reads_any_status(told):
    status = Status.from_json(told)
    assert Status.from_json(status.as_json()) == status
    json.dumps(status.as_json(), allow_nan=False, ensure_ascii=False).encode()


def test_it_does_not_wait_for_an_answer_that_drips(monkeypatch):
    monkeypatch.setattr(client_module, "TELEMETRY_SECONDS", 0.4)
    began = time.monotonic()
    assert failure(http(b" " * 1_000_000), pause=0.2).reason is Reason.TIMEOUT  # 50 s of it
    assert time.monotonic() - began < 20


def test_it_reads_the_parts_of_a_commands_answer():
    parts = [
        {"line": "\x1b[1mone\ud800\x00"},
        {"beat": True},
        {"left_out": 3},
        {"line": 4},
        {"new": 1},
        {"result": {"ok": True}},
    ]
    came = []
    with Impostor(http(b"\n".join(json.dumps(part).encode() for part in parts) + b"\n")) as impostor:
        assert AgentClient(impostor.url, KEY).execute("status", on_line=came.append) == {"ok": True}
    assert came == ["one\ufffd", "(3 lines were left out: the connection is too slow for them.)"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"line": "one"}\n', Reason.CUT),
        (b"nonsense\n", Reason.NOT_UNDERSTOOD),
        (b'{"error": 5}\n', Reason.SERVER_ERROR),
        (b'{"error": {"problem": "bad_parameters", "message": "no", "advice": 4}}\n', Reason.BAD_REQUEST),
    ],
)
def test_it_says_how_a_command_failed(body, reason):
    assert failure(http(body), run).reason is reason


def test_it_cleans_a_result():
    result = {"text": "one\n\x1b[1mtwo\x1b[0m", "rows": [{"name\x00": "\ud800", "size": float("nan")}]}
    with Impostor(http(json.dumps({"result": result}).encode() + b"\n")) as impostor:
        cleaned = run(AgentClient(impostor.url, KEY))
    assert cleaned == {"text": "one\ntwo", "rows": [{"name": "\ufffd", "size": None}]}


@pytest.mark.usefixtures("no_collection")
def test_it_takes_no_result_that_could_not_be_kept(monkeypatch):
    monkeypatch.setattr(client_module, "MAX_RESULT_BYTES", 1000)
    assert run_against(json.dumps({"result": {"x": "y" * 900}})) == {"x": "y" * 900}
    for told in (json.dumps({"result": {"x": "y" * 1000}}), '{"result": {"x": ' + "[" * 900 + "]" * 900 + "}}"):
        assert failure(http(told.encode() + b"\n"), run).reason is Reason.NOT_UNDERSTOOD


def run_against(told: str) -> dict:
    with Impostor(http(told.encode() + b"\n")) as impostor:
        return run(AgentClient(impostor.url, KEY))


@pytest.mark.parametrize("beat", [b'{"beat": true}\n', b"x"])
def test_it_does_not_follow_a_command_for_ever(monkeypatch, beat):
    monkeypatch.setattr(client_module, "COMMAND_SECONDS", 0.3)
    began = time.monotonic()
    error = failure(http(beat * 50_000), run, pause=0.02, step=16)  # 60 s of it, or more
    assert (error.reason, time.monotonic() - began < 20) == (Reason.TIMEOUT, True)
    assert "longer than" in error.detail


def test_it_does_not_read_a_line_without_end(monkeypatch):
    monkeypatch.setattr(client_module, "MAX_LINE_BYTES", 100_000)
    assert "too long" in failure(http(b"x" * 300_000), run).detail


def test_it_opens_no_log_stream_at_what_is_not_an_agent():
    assert failure(http(b"hello"), read_logs).reason is Reason.NOT_UNDERSTOOD
    assert failure(b"", read_logs).reason is Reason.CUT
    assert failure(b"nonsense\r\n\r\n", read_logs).reason is Reason.CUT


@settings(max_examples=40)
@given(JSON)
def test_it_words_any_error(told):
    error = from_error(told)
    assert isinstance(error, ActionFailed)
    assert str(error)


class Reactor:
    """Runs what it is given when told to."""

    def __init__(self):
        self.calls = []

    def callFromThread(self, call):
        self.calls.append(call)

    def run(self):
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def test_it_leaves_the_oldest_lines_out_for_a_slow_connection():
    reactor, sent = Reactor(), []
    outlet = Outlet(reactor, sent.append, lambda count: sent.append(count))
    outlet.pauseProducing()
    for number in range(MAX_LINES + 5):
        outlet.put(str(number))
    outlet.put("x" * (MAX_LINE_CHARACTERS + 1))
    assert len(reactor.calls) == 1  # not one for each line
    reactor.run()
    assert sent == []
    outlet.resumeProducing()
    assert sent == [6, *map(str, range(5, MAX_LINES + 5))]
    outlet.put("more")
    outlet.stopProducing()
    reactor.run()
    assert sent[-1] == str(MAX_LINES + 4)


def test_it_counts_failures_within_a_minute():
    now = [0.0]
    throttle = Throttle(2, clock=lambda: now[0])
    throttle.count("a")
    throttle.count("a")
    assert throttle.is_over("a")
    assert not throttle.is_over("b")
    now[0] = 61
    assert not throttle.is_over("a")
    for peer in range(MOST_PEERS + 1):
        throttle.count(str(peer))
    assert len(throttle._failures) == MOST_PEERS


def test_it_announces_itself_only_where_others_can_reach_it():
    assert not Address("127.0.0.2", 1).is_open
    assert Address("192.0.2.7", 1).is_open
