"""The host beside a web server that answers as docs/api.md says; beside a real one: tests/system/test_promises.py."""

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
from tests.fleet.fake_lms_fixture import free_port

MODELS = [
    {"key": "otter", "name": "Otter", "is_loaded": True, "is_online": True, "nodes": ["box"]},
    {"key": "owl", "name": "Owl", "is_loaded": False, "is_online": False, "nodes": ["attic"]},
]


class ScriptedSite(ThreadingHTTPServer):
    """Answers the watch of a prompt with one script after the other; a script is (event, data) pairs.

    After "…" it says no more until the prompt is cancelled, as of one that runs for long.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.scripts: list[list[tuple[str, dict]]] = []
        self.status = 200
        self.asked: list[tuple[str, str, str | None]] = []
        self.submitted: list[dict] = []
        self.is_cancelled = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: ScriptedSite

    def do_GET(self):
        self._note()
        if self.path.endswith("/models"):
            return self._json({"models": MODELS})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for at, (name, data) in enumerate(self.server.scripts.pop(0)):
            if name == "…":
                self.server.is_cancelled.wait(5)
                continue
            self.wfile.write(f"id: {len(self.server.asked)}.{at}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode())
        return None

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)))
        self._note()
        if self.path.endswith("/cancel"):
            self.server.is_cancelled.set()
        else:
            self.server.submitted.append(body)
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


@pytest.fixture
def actions(scripted, tmp_path, monkeypatch):
    """Those of a host that is linked to the scripted site, where no LM Studio is installed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_link(tmp_path, scripted.url, "dp_x")
    return Actions(tmp_path)


def test_it_shows_what_the_web_server_knows(scripted, actions):
    (checked,) = actions.do("check_lmstudio")
    assert checked["payload"]["daemonpulse"] == {"running": True, "url": scripted.url}
    assert checked["payload"]["server_running"] is False
    (listed,) = actions.do("list_models")
    assert listed["payload"] == {"models": MODELS, "source": "daemonpulse"}


def test_it_words_a_chat_as_the_queue_knows_it(scripted):
    scripted.scripts = [[("done", {})]]
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Otters?"}]
    given = {"model": "otter", "temperature": 0.5, "max_tokens": 50}
    list(QueuedChat(Ask(asked, given, True), Site.of(scripted.url, "dp_x")).answer())
    (prompt,) = scripted.submitted
    assert len(prompt.pop("id")) == 36
    assert prompt == {
        "model": "otter", "text": "Otters?", "system_prompt": "Be brief.", "temperature": 0.5, "max_output_tokens": 50
    }  # fmt: skip


def test_it_takes_a_prompt_back_that_nobody_waits_for(scripted):
    scripted.scripts = [[("message.delta", {"text": "Slow"}), ("…", {})]]
    running = chat(scripted)
    answer = running.answer()
    assert next(answer) == Piece("Slow")
    running.close()
    assert list(answer) == [End("otter", "cancelled")]
    assert scripted.asked[-1][:2] == ("POST", "/api/v1/prompts/ID/cancel")


@pytest.mark.parametrize(("roles", "way"), [(["user"], QueuedChat), (["user", "assistant", "user"], DirectChat)])
def test_it_goes_straight_to_lm_studio_with_a_longer_chat(actions, roles, way):
    turns = [{"role": role, "content": "x"} for role in roles]
    assert isinstance(actions.chat(Ask(turns, {"model": "otter"}, True)), way)


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


def test_it_tells_of_a_token_that_is_refused(scripted, actions):
    scripted.status = 403
    (checked,) = actions.do("check_lmstudio")
    assert "Settings → Tokens" in checked["payload"]["daemonpulse"]["problem"]
    with pytest.raises(Problem, match="lacks the scope") as caught:
        actions.chat(Ask([{"role": "user", "content": "x"}], {"model": "otter"}, True))
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
