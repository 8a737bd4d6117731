"""The host as a browser meets it: a real process at the end of two pipes, a fake LM Studio behind it."""

import json
import os
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.conftest import wait_for
from tests.fleet.fake_lms_fixture import OTTER, FakeLMStudio
from tests.fleet.native_port import BrowserPort, text_of

SECRET = "the vault stands open"
BROWSER_SECONDS = 2  # then a browser ends a host that is still there
TRIES = 3  # of which a busy machine may spoil all but one


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """An LM Studio whose server is stopped."""
    fake = FakeLMStudio(tmp_path_factory.mktemp("studio"))
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def port(studio, tmp_path_factory):
    """One port for all tests that leave it open."""
    data_dir = tmp_path_factory.mktemp("data")
    with BrowserPort(studio.home, data_dir, "chrome-extension://abc/", "--parent-window=0") as browser:
        yield browser


def test_it_checks_and_starts_lm_studio(studio, port):
    before = port.ask(action="check_lmstudio", id=1)
    assert before["status"] == "success"
    assert before["id"] == 1
    seed_keys = ("installed", "bootstrapped", "server_running", "api_endpoint", "current_model")
    assert [before["payload"][key] for key in seed_keys] == [True, True, False, studio.url, None]
    assert before["payload"]["state"] == "server_down"
    assert before["payload"]["daemonpulse"] == {"running": False}
    started = port.ask(action="start_lmstudio")
    assert "id" not in started
    assert started["payload"]["server_running"] is True
    assert port.ask(action="check_lmstudio")["payload"]["state"] == "ready"


def test_it_ends_quietly_when_the_port_closes(tmp_path):
    with BrowserPort(tmp_path, tmp_path, PATH="/nowhere") as port:
        port.ask(action="check_lmstudio")  # it has imported what it needs, which is no part of its farewell
        port.send(action="check_lmstudio", id=1)
        assert port.close() == (0, "")
        assert port.receive()["id"] == 1  # a short action is answered all the same


def test_it_says_what_to_do_where_lm_studio_is_not_installed(tmp_path):
    with BrowserPort(tmp_path, tmp_path / "data", PATH="/nowhere") as port:
        assert port.ask(action="check_lmstudio")["payload"]["state"] == "not_installed"
        refused = port.ask(action="start_lmstudio", id="a")
    assert refused["status"] == "error"
    assert refused["payload"] == {}
    assert refused["id"] == "a"
    assert refused["error"]["code"] == "not_installed"
    assert "https://lmstudio.ai/download" in refused["error"]["advice"]


def test_it_names_its_actions_to_who_asks_for_another(port):
    for wrong in ({"action": "format_disk"}, {"action": ["check_lmstudio"]}, {}):
        answer = port.ask(id=7, **wrong)
        assert answer["error"]["code"] == "unknown_action"
        assert "check_lmstudio" in answer["error"]["advice"]
        assert answer["id"] == 7
    assert port.ask(action="check_lmstudio", id={"deep": 1})["error"]["code"] == "bad_request"
    assert port.ask(action="check_lmstudio", id=8)["id"] == 8


@pytest.mark.parametrize("body", [b"hello", b"", b'{"a": "\xff"}', b"[1]", b"[" * 100_000, b" " * (2**20 + 1)])
def test_it_goes_on_after_a_message_that_is_none(port, body):
    port.send_body(body)
    answer = port.receive()
    assert answer["status"] == "error"
    assert answer["error"]["code"] == "broken_frame"
    assert answer["error"]["message"].endswith(".")
    assert port.ask(action="nonsense")["error"]["code"] == "unknown_action"


def test_it_ends_where_it_cannot_tell_the_next_message(tmp_path):
    broken = [b"\x05\x00", struct.pack("=I", 9) + b"{}", b'{"action": "check_lmstudio"}']
    with ExitStack() as stack:
        ports = [stack.enter_context(BrowserPort(tmp_path, tmp_path)) for _ in broken]
        for port, content in zip(ports, broken, strict=True):
            port.send_bytes(content)
            port.process.stdin.close()
        for port in ports:
            assert port.receive()["error"]["code"] == "broken_frame"
            assert port.receive() is None
            assert port.close()[0] == 1


def test_it_survives_stray_prints_and_children_that_write(studio, tmp_path):
    code = (
        "import sys, subprocess\nfrom fleet.native import actions, cli\n"
        "check = actions.Actions._check\n"
        "def noisy(self):\n"
        "    print('stray'); subprocess.run(['sh', '-c', 'echo child; cat'])\n"
        "    yield from check(self)\n"
        "actions.Actions._check = noisy\n"
        "sys.exit(cli.native_host(sys.argv[1:]))"
    )
    with BrowserPort(studio.home, tmp_path, code=code) as port:
        port.send(action="check_lmstudio", id=1)
        port.send(action="check_lmstudio", id=2)
        assert [port.receive()["id"], port.receive()["id"]] == [1, 2]
        code, logged = port.close()
    assert code == 0
    assert logged.count("stray") == logged.count("child") == 2


# Chats, straight with LM Studio.


@pytest.fixture
def talking(port):
    assert port.ask(action="start_lmstudio")["payload"]["server_running"]
    return port


def test_it_lists_the_models_of_lm_studio(talking):
    payload = talking.ask(action="list_models")["payload"]
    assert payload["source"] == "lmstudio"
    assert {"key", "name", "is_loaded", "is_online", "nodes"} == set(payload["models"][0])
    assert OTTER in [row["key"] for row in payload["models"]]


def test_it_streams_a_chat_as_several_messages(talking):
    messages = talking.chat("Name an otter [[tokens=40]]", id="c1", settings={"model": OTTER, "temperature": 0.5})
    assert len(messages) > 10
    assert {message["id"] for message in messages} == {"c1"}
    assert text_of(messages)
    last = messages[-1]["payload"]
    assert last["model"] == OTTER
    assert last["finish_reason"] == "stop"
    assert last["usage"]["completion_tokens"] == 40
    assert "text" not in last


def test_it_gives_the_whole_text_at_once_when_asked(talking):
    messages = talking.chat(f"{SECRET} [[echo]]", settings={"model": OTTER}, stream=False)
    assert len(messages) == 1
    assert SECRET in messages[0]["payload"]["text"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, '"messages" must be a list'),
        ({"messages": []}, '"messages" must be a list'),
        ({"messages": [{"role": "user"}]}, '"content"'),
        ({"messages": [{"role": "root", "content": "x"}]}, "assistant"),
        ({"messages": [{"role": "user", "content": "x"}], "settings": []}, '"settings" must be'),
        ({"messages": [{"role": "user", "content": "x"}], "settings": {"modell": "x"}}, "modell"),
        ({"messages": [{"role": "user", "content": "x"}], "setings": {}}, "setings"),
        ({"messages": [{"role": "user", "content": "x"}], "stream": "yes"}, '"stream" must be'),
    ],
)
def test_it_says_what_is_wrong_with_a_chat(port, request_, words):
    answer = port.ask(action="chat_completion", id=1, **request_)
    assert answer["error"]["code"] == "bad_request"
    assert words in answer["error"]["message"]
    assert answer["id"] == 1


def test_it_answers_others_while_a_chat_runs_and_cancels_it(talking):
    slow = "Slowly [[tokens=100000]]"
    talking.send(
        action="chat_completion", id=5, messages=[{"role": "user", "content": slow}], settings={"model": OTTER}
    )
    assert talking.receive()["status"] == "chunk"
    asked = [{"role": "user", "content": "x"}]
    talking.send(action="chat_completion", id=5, messages=asked)
    talking.send(action="check_lmstudio", id=6)
    talking.send(action="cancel", id=7)
    others = {}
    while len(others) < 3:
        message = talking.receive()
        others |= {message.get("error", {}).get("code", message["id"]): message} if message["status"] != "chunk" else {}
    assert set(others) == {"id_in_use", 6, "no_such_chat"}
    talking.send(action="cancel", id=5)
    last = talking.until_final()[-1]
    assert last["id"] == 5
    assert last["status"] == "success"
    assert last["payload"]["finish_reason"] == "cancelled"
    assert talking.ask(action="cancel", id=5)["error"]["code"] == "no_such_chat"


def test_it_logs_no_word_of_a_chat(studio, tmp_path):
    with BrowserPort(studio.home, tmp_path, DAEMONPULSE_LOG_LEVEL="DEBUG") as port:
        port.ask(action="start_lmstudio")
        port.chat(f"{SECRET} [[echo]]", settings={"model": OTTER})
        assert SECRET in port.chat("x", settings={"model": SECRET})[-1]["error"]["message"]
        port.ask(action="chat_completion", messages=[{"role": SECRET, "content": SECRET}])
        port.send_body(json.dumps({"action": SECRET}).encode()[:-1])
        port.receive()
        code, logged = port.close()
    assert code == 0
    assert "native.refused" in logged
    assert SECRET not in logged


def test_it_stops_lm_studio_and_tells_why_a_chat_cannot_be(talking):
    wrong = talking.chat("x", settings={"model": "no/such-model"})[-1]
    assert wrong["error"]["code"] == "model_not_found"
    assert "list_models" in wrong["error"]["advice"]
    assert talking.ask(action="stop_lmstudio")["payload"]["server_running"] is False
    assert talking.ask(action="stop_lmstudio")["status"] == "success"  # what does not run need not be stopped
    down = talking.chat("x", settings={"model": OTTER})[-1]
    assert down["error"]["code"] == "unreachable"
    assert "start_lmstudio" in down["error"]["advice"]
    assert talking.ask(action="list_models")["error"]["code"] == "unreachable"


class Daemon(ThreadingHTTPServer):
    """A server in LM Studio's place whose only answer is told by the test; `is_left` once a stream was cut."""

    daemon_threads = True
    pieces: list[dict]
    is_endless = False

    def __init__(self, port: int):
        super().__init__(("127.0.0.1", port), Answer)
        self.is_left = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class Answer(BaseHTTPRequestHandler):
    server: Daemon

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta in self.server.pieces:
            self._event(json.dumps({"model": "m", "choices": [{"delta": delta}]}))
        try:
            while self.server.is_endless:
                self._event(json.dumps({"choices": [{"delta": {"content": "more "}}]}))
                time.sleep(0.02)
        except OSError:
            self.server.is_left.set()
            return
        self._event(json.dumps({"choices": [{"delta": {}, "finish_reason": "length"}], "usage": {"prompt_tokens": 3}}))
        self._event("[DONE]")

    def _event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_):
        pass


@pytest.fixture
def daemon(tmp_path):
    fake = FakeLMStudio(tmp_path / "other")
    server = Daemon(fake.port)
    server.home = fake.home
    server.pieces = []
    yield server
    server.is_endless = False
    server.shutdown()
    server.server_close()


def test_it_splits_what_is_too_long_for_a_message(daemon, tmp_path):
    daemon.pieces = [{"reasoning_content": "é" * 700_000}, {"content": "\x01" * 1_500_000}, {"content": "\ud83d end"}]
    with BrowserPort(daemon.home, tmp_path) as port:
        streamed = port.chat("x", settings={"model": "m"}, id=1)
        assert text_of(streamed, "reasoning") == "é" * 700_000
        assert text_of(streamed) == "\x01" * 1_500_000 + "\ufffd end"
        assert streamed[-1]["payload"] == {"model": "m", "finish_reason": "length", "usage": {"prompt_tokens": 3}}
        whole = port.chat("x", settings={"model": "m"}, stream=False, id=2)
        assert text_of(whole) == text_of(streamed)
        assert whole[-1]["payload"]["text"] is None
        assert max(port.sizes) < 1024 * 1024


def test_it_ends_at_once_in_the_middle_of_a_chat(daemon, tmp_path):
    daemon.is_endless = True
    request = {"messages": [{"role": "user", "content": "x"}], "settings": {"model": "m"}}

    def ends_soon(end) -> bool:
        with BrowserPort(daemon.home, tmp_path) as port:
            port.send(action="chat_completion", **request)
            port.receive()
            daemon.is_left.clear()
            began = time.monotonic()
            end(port.process)
            assert port.process.wait(60) == 0
            took = time.monotonic() - began
            assert daemon.is_left.wait(60)
        return took < BROWSER_SECONDS

    for end in (lambda process: process.stdin.close(), lambda process: process.terminate()):
        assert any(ends_soon(end) for _ in range(TRIES))


def test_it_ends_although_nobody_reads_its_answers(daemon, tmp_path):
    daemon.pieces = [{"content": "x" * 100_000}] * 20
    request = {"action": "chat_completion", "messages": [{"role": "user", "content": "x"}], "settings": {"model": "m"}}
    body = json.dumps(request).encode()

    def ends_soon() -> bool:
        deaf = subprocess.Popen(
            [sys.executable, "-P", "-m", "fleet.native", "--data-dir", tmp_path],
            cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"HOME": str(daemon.home)},
        )  # fmt: skip
        with deaf:
            deaf.stdin.write(struct.pack("=I", len(body)) + body)
            deaf.stdin.flush()
            wait_for(lambda: deaf.stdout.peek(1))
            began = time.monotonic()
            deaf.stdin.close()
            assert deaf.wait(60) == 0
            return time.monotonic() - began < BROWSER_SECONDS

    assert any(ends_soon() for _ in range(TRIES))


def test_it_loads_no_django():
    code = "import sys, fleet.native.cli, fleet.native.host, fleet.native.port; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], cwd="/").returncode == 0
