"""The host beside a web server: a real installation, and a scripted one for what a real one seldom does."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fleet.native import queued
from fleet.native.actions import Actions
from fleet.native.answers import Problem
from fleet.native.chats import Ask, End, Piece
from fleet.native.direct import DirectChat
from fleet.native.queued import QueuedChat
from fleet.native.site import Site, write_link
from tests.conftest import wait_for
from tests.fleet.fake_lms_fixture import FakeLMStudio, free_port
from tests.fleet.native_port import BrowserPort, text_of
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.system.conftest import HERON, OTTER, Installation


@pytest.fixture(scope="module")
def daemon():
    """A node of the installation; the LM Studio of this machine is another one, and stopped."""
    process = SimulatorProcess().start("--vram-gb", "60", "--speed", "5")
    yield process
    process.stop()


@pytest.fixture(scope="module")
def installation(daemon):
    installed = Installation(daemon)
    installed.up()
    write_link(installed.data_dir, installed.url, installed.token)
    yield installed
    installed.stop()


@pytest.fixture(scope="module")
def port(installation, tmp_path_factory):
    studio = FakeLMStudio(tmp_path_factory.mktemp("studio"))
    with BrowserPort(studio.home, installation.data_dir) as browser:
        yield browser
    studio.stop()


def newest(installation) -> dict:
    return installation.api("GET", "/prompts").json()["prompts"][0]


def test_it_shows_what_the_web_server_knows(installation, port):
    told = port.ask(action="check_lmstudio")["payload"]
    assert told["daemonpulse"] == {"running": True, "url": installation.url}
    assert told["server_running"] is False
    listed = port.ask(action="list_models")["payload"]
    assert listed["source"] == "daemonpulse"
    assert listed["models"] == installation.api("GET", "/models").json()["models"]


def test_it_sends_a_chat_through_the_queue(installation, port):
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Otters? [[tokens=60]]"}]
    settings = {"model": OTTER, "temperature": 0.5, "max_tokens": 50, "top_p": None}
    port.send(action="chat_completion", id=1, messages=asked, settings=settings)
    messages = port.until_final()
    prompt = installation.prompt(newest(installation)["id"])
    assert prompt["text"] == asked[1]["content"]
    assert prompt["system_prompt"] == "Be brief."
    assert prompt["settings"] == {"temperature": 0.5, "max_output_tokens": 50}
    assert text_of(messages) == prompt["answer"] != ""
    assert messages[-1]["payload"]["usage"]["completion_tokens"] == 50


def test_it_takes_prompts_back_that_nobody_waits_for(installation, tmp_path):
    slow = {"messages": [{"role": "user", "content": "Slowly [[tokens=9000]]"}], "settings": {"model": HERON}}
    with BrowserPort(tmp_path, installation.data_dir) as browser:
        browser.send(action="chat_completion", id=2, **slow)
        wait_for(lambda: browser.receive()["status"] == "chunk")
        browser.send(action="cancel", id=2)
        assert browser.until_final()[-1]["payload"]["finish_reason"] == "cancelled"
        browser.send(action="chat_completion", id=3, **slow)
        wait_for(lambda: browser.receive()["status"] == "chunk")
        assert browser.close()[0] == 0
    prompts = installation.api("GET", f"/prompts?model={HERON}").json()["prompts"]
    assert [prompt["state"] for prompt in prompts] == ["cancelled", "cancelled"]


def test_it_goes_straight_to_lm_studio_with_a_longer_chat(port):
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    port.send(action="chat_completion", messages=turns, settings={"model": OTTER})
    assert port.until_final()[-1]["error"]["code"] == "unreachable"  # that one is stopped


# A scripted web server.


class ScriptedSite(ThreadingHTTPServer):
    """Answers the watch of a prompt with one script after the other; a script is (event, data) pairs."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.scripts: list[list[tuple[str, dict]]] = []
        self.status = 200
        self.asked: list[tuple[str, str, str | None]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: ScriptedSite

    def do_GET(self):
        self._note()
        if self.path.endswith("/models"):
            return self._json({"models": [{"key": "otter", "is_online": True}]})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for at, (name, data) in enumerate(self.server.scripts.pop(0)):
            self.wfile.write(f"id: {len(self.server.asked)}.{at}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode())
        return None

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._note()
        self._json({"id": "x"})

    def _note(self) -> None:
        path = re.sub(r"[0-9a-f-]{36}", "ID", self.path)
        self.server.asked.append((self.command, path, self.headers["Last-Event-ID"]))
        assert self.headers["Authorization"] == "Bearer dp_x"

    def _json(self, body: dict) -> None:
        refused = {"error": {"message": "This token lacks the scope “write”.", "fields": []}}
        content = json.dumps(body if self.server.status == 200 else refused).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(queued, "PAUSE_SECONDS", 0.01)
    server = ScriptedSite()
    yield server
    server.shutdown()
    server.server_close()


def chat(server: ScriptedSite) -> QueuedChat:
    return QueuedChat(Ask([{"role": "user", "content": "x"}], {"model": "otter"}, True), Site.of(server.url, "dp_x"))


def test_it_goes_on_where_the_connection_broke(scripted):
    scripted.scripts = [
        [("state", {}), ("message.delta", {"text": "He"})],
        [("message.delta", {"text": "llo"}), ("done", {"stats": {"output_tokens": 2, "stop_reason": "stop"}})],
    ]
    assert list(chat(scripted).answer()) == [
        Piece("He"), Piece("llo"), End("otter", "stop", {"completion_tokens": 2})
    ]  # fmt: skip
    events = "/api/v1/prompts/ID/events"
    assert scripted.asked == [("POST", "/api/v1/prompts", None), ("GET", events, None), ("GET", events, "2.1")]


def test_it_tells_that_an_answer_began_anew(scripted):
    scripted.scripts = [
        [("message.delta", {"text": "a"}), ("restart", {}), ("reasoning.delta", {"text": "b"}), ("done", {})]
    ]
    assert list(chat(scripted).answer()) == [
        Piece("a"), Piece("", is_restart=True), Piece("b", "reasoning"), End("otter")
    ]  # fmt: skip


def test_it_tells_why_a_prompt_failed_and_where_it_is(scripted):
    scripted.scripts = [[("failed", {"reason": "out_of_memory", "explanation": "It does not fit."})]]
    with pytest.raises(Problem, match="out_of_memory") as caught:
        list(chat(scripted).answer())
    assert caught.value.message == "It does not fit."
    assert f"{scripted.url}/prompts/" in caught.value.advice


def test_it_gives_up_on_a_web_server_that_stays_away(scripted, monkeypatch):
    monkeypatch.setattr(queued, "LOST_AFTER_SECONDS", 0.1)
    scripted.scripts = [[("state", {})]]
    running = chat(scripted)
    answer = running.answer()
    scripted.scripts += [[] for _ in range(100)]
    with pytest.raises(Problem, match="cut"):
        list(answer)


def test_it_tells_of_a_token_that_is_refused(scripted, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_link(tmp_path, scripted.url, "dp_x")
    scripted.status = 403
    (checked,) = Actions(tmp_path).do("check_lmstudio")
    assert "Settings → Tokens" in checked["payload"]["daemonpulse"]["problem"]
    with pytest.raises(Problem, match="lacks the scope") as caught:
        Actions(tmp_path).chat(Ask([{"role": "user", "content": "x"}], {"model": "otter"}, True))
    assert caught.value.code == "link_refused"


def test_it_uses_lm_studio_while_the_web_server_is_down(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_link(tmp_path, f"http://127.0.0.1:{free_port()}", "dp_x")
    (checked,) = Actions(tmp_path).do("check_lmstudio")
    assert checked["payload"]["daemonpulse"] == {"running": False}
    chosen = Actions(tmp_path).chat(Ask([{"role": "user", "content": "x"}], {"model": "otter"}, True))
    assert isinstance(chosen, DirectChat)


@pytest.mark.parametrize(
    ("roles", "given", "fits"),
    [
        (["user"], {"model": "otter"}, True),
        (["system", "user"], {"model": "otter", "top_k": 3}, True),
        (["user"], {"model": "owl"}, False),  # its node is offline
        (["user"], {"model": "unknown"}, False),
        (["user"], {}, False),
        (["user"], {"model": "otter", "seed": 1}, False),
        (["user", "assistant", "user"], {"model": "otter"}, False),
        (["system"], {"model": "otter"}, False),
        (["user", "system"], {"model": "otter"}, False),
    ],
)
def test_it_queues_only_what_the_queue_can_run(roles, given, fits):
    models = [{"key": "otter", "is_online": True}, {"key": "owl", "is_online": False}]
    assert queued.fits(Ask([{"role": role, "content": "x"} for role in roles], given, True), models) is fits


@pytest.mark.parametrize("content", ["", "[]", '{"url": 3}', '{"url": "http://10.1.1.1", "token": "dp_x"}', "\xff"])
def test_it_ignores_a_link_that_cannot_be_one(tmp_path, content):
    (tmp_path / "native-host.json").write_bytes(content.encode("latin-1"))
    assert Site.linked(tmp_path) is None
