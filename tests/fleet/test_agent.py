"""The agent as a process, beside a fake LM Studio, over real sockets."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests

from fleet.agent import journal
from fleet.agent.client import AgentClient
from fleet.agent.envelope import sign
from fleet.agent.errors import ActionFailed, AgentRefused
from fleet.agent.keys import AgentKey
from fleet.daemons.errors import DaemonError, Reason
from tests.conftest import wait_for
from tests.fleet.agent_fixture import AgentProcess
from tests.fleet.fake_lms_fixture import OTTER, FakeLMStudio, lives


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    fake = FakeLMStudio(tmp_path_factory.mktemp("agent"), only_greets=True)
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def agent(studio):
    process = AgentProcess(studio.home).start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def running(agent, studio):
    """The agent of a machine whose daemon runs."""
    agent.client.execute("server_start")
    return agent


@pytest.fixture(scope="module")
def cold_studio(tmp_path_factory):
    fake = FakeLMStudio(tmp_path_factory.mktemp("cold"), only_greets=True)
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def cold(cold_studio):
    """The agent of a machine whose daemon does not run."""
    process = AgentProcess(cold_studio.home).start()
    yield process
    process.stop()


def ask(agent, path="/v1/telemetry", token=None, **options) -> requests.Response:
    headers = {"Authorization": f"Bearer {agent.key.token if token is None else token}".encode()}
    return requests.request(options.pop("method", "GET"), agent.url + path, headers=headers, timeout=60, **options)


def send(agent, envelope) -> requests.Response:
    return ask(agent, "/v1/commands", method="POST", json=envelope)


def records(agent) -> list[dict]:
    return list(journal.read_payloads(agent.data_dir, agent.key))


def stream_pids(studio) -> list[int]:
    return [call["pid"] for call in studio.calls() if call["argv"][:2] == ["log", "stream"]]


def test_it_tells_a_stranger_no_more_than_what_it_is(agent):
    assert requests.get(f"{agent.url}/v1/hello", timeout=60).json() == {"agent": "daemonpulse"}
    assert set(agent.client.hello()) == {"agent", "version", "tls"}
    assert ask(agent, "/v1/hello", token="wrong").status_code == 401


def test_it_lets_nobody_in_without_the_token(cold):
    for path in ("/v1/telemetry", "/v1/status", "/v1/logs?source=server"):
        answer = requests.get(cold.url + path, timeout=60)
        assert (answer.status_code, answer.json()["error"]["problem"]) == (401, "unauthorized")
    for token in ("", cold.key.token[:-1], cold.key.token + "x", "ü" * 40):
        envelope = sign(cold.key, "status", {})
        assert ask(cold, "/v1/commands", token, method="POST", json=envelope).status_code == 401
    with pytest.raises(DaemonError) as refused:
        AgentClient(cold.url, AgentKey.make()).telemetry()
    assert refused.value.reason is Reason.UNAUTHORIZED
    assert cold.summary().count("wrong token") == 8
    assert [ask(cold, token="wrong").status_code for _ in range(5)] == [401, 401, 429, 429, 429]
    assert cold.summary().count("wrong token") == 10  # a stranger cannot fill the log
    assert cold.client.telemetry().hostname  # nor lock out who has the token


def test_it_proxies_nothing(running, studio):
    for method, path in (
        ("GET", "/"), ("GET", "/v1/models"), ("GET", "/api/v1/models"), ("POST", "/v1/chat/completions"),
        ("GET", "/v1/commands"), ("POST", "/v1/telemetry"), ("GET", "/v1/telemetry/"), ("GET", studio.url),
        ("GET", "/v1/../v1/models"), ("OPTIONS", "/v1/status"),
    ):  # fmt: skip
        assert ask(running, path if path[0] == "/" else f"/{path}", method=method).status_code == 404, path


def test_it_reads_the_machine_once_for_many_callers(agent):
    earlier = agent.client.telemetry()
    time.sleep(1.1)  # that is old now
    with ThreadPoolExecutor(10) as pool:
        machines = list(pool.map(lambda _: agent.client.telemetry(), range(10)))
    assert len({machine.at for machine in machines}) < 10  # the exact rule: test_agent_shared_read.py
    assert machines[0].at > earlier.at
    assert machines[0].ram_total_bytes == psutil.virtual_memory().total


def test_it_tells_the_status_without_waking_the_daemon(cold, cold_studio):
    assert cold.client.telemetry().gpus == ()
    assert cold.client.status()["state"] == "server_down"
    for question in (lambda: cold.client.execute("query", {"what": "ls"}), lambda: list(cold.client.logs("server"))):
        with pytest.raises(ActionFailed, match="not running") as failed:
            question()
        assert (failed.value.problem, bool(failed.value.advice)) == ("not_running", True)
    assert cold_studio.state()["woken"] == 0


def test_it_runs_actions_and_answers_queries(running, studio):
    assert running.client.status()["state"] == "ready"
    answer = running.client.execute("query", {"what": "ls"}, command_id="list-1")
    assert OTTER in [model["modelKey"] for model in answer["answer"]]
    loaded = running.client.execute("load", {"model": OTTER, "identifier": "pet"})
    assert loaded == {"identifier": "pet", "verified": True}
    assert "list-1  query" in running.summary()


def test_it_streams_what_a_command_says_while_it_says_it(cold, cold_studio):
    cold_studio.configure(update_pause=60, update_lines=["first", "second", "third"])
    came: list[tuple[str, bool]] = []

    def listen(line):
        update = next(call for call in reversed(cold_studio.calls()) if call["argv"] == ["daemon", "update"])
        came.append((line, lives(update["pid"])))
        cold_studio.configure(update_pause=0)  # it pauses after each line, and goes on when this one is here

    cold.client.execute("daemon_update", on_line=listen)
    assert [line for line, _ in came][:3] == ["first", "second", "third"]
    assert came[0] == ("first", True)


def test_it_does_one_change_at_a_time_to_its_end_also_when_the_caller_leaves(running, studio):
    studio.configure(load_seconds=120)
    try:
        envelope = sign(running.key, "load", {"model": OTTER, "identifier": "slow"}, id="left-1")
        headers = {"Authorization": f"Bearer {running.key.token}"}
        with requests.post(f"{running.url}/v1/commands", json=envelope, headers=headers, stream=True, timeout=60):
            pass  # gone before it is done
        with pytest.raises(ActionFailed, match="busy with load") as busy:
            running.client.execute("server_stop", command_id="second-1")
        assert busy.value.reason is Reason.BUSY
        assert "second-1  server_stop" in running.summary()
        assert running.summary().endswith("not run: busy\n")
        assert running.client.execute("status")["server_running"] is True  # a question is answered meanwhile
        assert "left-1" not in running.summary()
        studio.configure(load_seconds=0)
        wait_for(lambda: "left-1  load" in running.summary())
        assert running.summary().endswith("done\n")
        assert not any(command.startswith("server stop") for command in studio.commands())
    finally:
        studio.configure(load_seconds=0)


def test_it_says_what_was_wrong_with_parameters_and_bodies(running):
    with pytest.raises(ActionFailed, match='needs the parameter "model"') as failed:
        running.client.execute("load", {})
    assert failed.value.reason is Reason.BAD_REQUEST
    with pytest.raises(ActionFailed, match="knows no action"):
        running.client.execute("dance")
    assert send(running, "x" * 70_000).status_code == 413
    assert ask(running, "/v1/commands", method="POST", data=b"{").status_code == 400
    chunks = (b"[" * 10_000 for _ in range(10))
    assert ask(running, "/v1/commands", method="POST", data=chunks).status_code == 413


def refused_envelopes(agent) -> dict[str, dict]:
    key, stop = agent.key, "server_stop"
    good = sign(key, stop, {}, id="good")
    return {
        "altered": sign(key, "status", {}, id="altered") | {"action": stop},
        "late": sign(key, stop, {}, id="late", now=time.time() - 600),
        "early": sign(key, stop, {}, id="early", now=time.time() + 600),
        "stranger": sign(AgentKey.make(), stop, {}, id="stranger"),
        "unsigned": {name: value for name, value in good.items() if name != "signature"} | {"id": "unsigned"},
    }


def test_it_refuses_an_envelope_that_is_not_right_and_writes_it_down(running, studio):
    before = studio.commands()
    for name, envelope in refused_envelopes(running).items():
        answer = send(running, envelope)
        assert (answer.status_code, answer.json()["error"]["problem"]) == (403, "refused"), name
        assert any(f"  {name}  " in line and "refused: " in line for line in running.summary().splitlines()), name
        kept = [record for record in records(running) if record["stage"] == "refused"]
        assert kept[-1]["envelope"] == envelope
    assert studio.commands() == before  # nothing was executed


def test_it_refuses_a_replay_also_after_a_restart(running, studio):
    envelope = sign(running.key, "server_start", {}, id="once")
    assert send(running, envelope).status_code == 200
    before = studio.commands()
    assert send(running, envelope).status_code == 403
    running.restart()
    answer = send(running, envelope)
    assert answer.status_code == 403
    assert "used before" in answer.json()["error"]["message"]
    assert studio.commands() == before
    assert running.summary().count("refused: it was used before") == 2


def test_it_keeps_no_parameter_in_plain_text(running):
    secret = "otter-of-the-secret-lake"
    with pytest.raises(ActionFailed):
        running.client.execute("load", {"model": secret}, command_id="sealed-1")
    files = [file for file in running.data_dir.iterdir() if file.is_file()]
    assert all(secret.encode() not in file.read_bytes() for file in files)
    assert {file.stat().st_mode & 0o077 for file in files} == {0}
    sealed = [record for record in records(running) if secret in json.dumps(record)]
    assert [record["stage"] for record in sealed][:1] == ["begun"]
    assert "sealed-1  load" in running.summary()


def test_it_tells_the_client_that_it_was_refused(running):
    stranger = AgentKey(running.key.token, AgentKey.make().signing_key)
    with pytest.raises(AgentRefused, match="not signed with this agent's key") as refused:
        AgentClient(running.url, stranger).execute("status")
    assert refused.value.reason is Reason.UNAUTHORIZED
    with pytest.raises(AgentRefused):
        list(AgentClient(running.url, stranger).logs("server"))


def test_it_streams_logs_and_ends_the_command_when_the_viewer_leaves(running, studio):
    entry = {"timestamp": 1, "data": {"type": "server.log", "content": "hällo", "level": "info"}}
    stream = running.client.logs("server")
    lines = iter(stream)
    wait_for(lambda: stream_pids(studio))
    studio.log("server", entry)
    assert json.loads(next(lines)) == entry
    pid = stream_pids(studio)[-1]
    assert lives(pid)
    threading.Timer(0.1, stream.close).start()
    assert list(lines) == []  # closed from another thread while it waited
    wait_for(lambda: not lives(pid))
    wait_for(lambda: running.summary().splitlines()[-1].endswith("closed"))


def test_it_ends_a_log_stream_when_the_daemon_goes(running, studio):
    stream = running.client.logs("model")
    studio.log("model", {"timestamp": 1, "data": {}})
    lines = iter(stream)
    assert next(lines)
    studio.lose_daemon()
    assert list(lines) == []
    wait_for(lambda: running.summary().splitlines()[-1].endswith("the daemon is gone"))
    running.client.execute("server_start")


def test_it_limits_log_streams(running, studio):
    streams = [running.client.logs("runtime") for _ in range(4)]
    try:
        with pytest.raises(ActionFailed, match="4 log streams are open already"):
            running.client.logs("runtime")
    finally:
        for stream in streams:
            stream.close()
    wait_for(lambda: not any(lives(pid) for pid in stream_pids(studio)))
    with pytest.raises(ActionFailed, match="model, server or runtime"):
        running.client.logs("diary")


def has_read_all(pid, path) -> bool:
    files = psutil.Process(pid).open_files()
    return any(file.path == str(path) and file.position == path.stat().st_size for file in files)


def test_it_leaves_lines_out_rather_than_growing_when_a_viewer_is_slow(running, studio):
    process = psutil.Process(running.process.pid)
    with running.client.logs("runtime") as stream:
        wait_for(lambda: stream_pids(studio) and lives(stream_pids(studio)[-1]))
        before = process.memory_info().rss
        lines = [
            {"timestamp": number, "data": {"type": "runtime.log", "message": "x" * 20_000}} for number in range(1_200)
        ]
        with (studio.fake / "log-runtime.jsonl").open("a") as log:
            log.writelines(json.dumps(line) + "\n" for line in lines)  # 24 MB, and nobody reads
        wait_for(lambda: has_read_all(stream_pids(studio)[-1], studio.fake / "log-runtime.jsonl"))
        assert process.memory_info().rss - before < 14_000_000
        told = {"timestamps": 0, "left_out": 0}
        for line in stream:
            data = json.loads(line)
            told["left_out"] += data["data"].get("count", 0)
            told["timestamps"] += data["data"]["type"] == "runtime.log"
            if data["timestamp"] == 1_199:
                break
    assert told["left_out"] > 0
    assert sum(told.values()) == 1_200


def test_it_says_so_when_the_agent_hangs_or_is_gone(running, monkeypatch):
    monkeypatch.setattr("fleet.agent.client.TELEMETRY_SECONDS", 0.3)
    client = running.client
    running.pause()
    try:
        with pytest.raises(DaemonError) as silent:
            client.telemetry()
    finally:
        running.resume()
    assert silent.value.reason is Reason.TIMEOUT
    with pytest.raises(DaemonError) as nobody:
        AgentClient("http://127.0.0.1:9", running.key).telemetry()
    assert nobody.value.reason is Reason.UNREACHABLE
    with pytest.raises(DaemonError) as nobody:
        AgentClient("http://127.0.0.1:9", running.key).logs("server")
    assert nobody.value.reason is Reason.UNREACHABLE


# The last one here: it ends the agent that the others share.
def test_it_ends_cleanly_and_writes_down_what_was_unfinished(studio, running):
    studio.configure(load_seconds=120)
    try:
        caught: list[Exception] = []

        def load():
            try:
                running.client.execute("load", {"model": OTTER, "identifier": "cut"}, command_id="cut-1")
            except DaemonError as error:
                caught.append(error)

        loading = threading.Thread(target=load)
        loading.start()
        wait_for(lambda: any("cut" in command for command in studio.commands()))
        stream = running.client.logs("model")
        wait_for(lambda: stream_pids(studio) and lives(stream_pids(studio)[-1]))
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 30  # it waits for no load
        loading.join()
        assert caught[0].reason is Reason.CUT
        assert not lives(stream_pids(studio)[-1])
        assert "cut-1  load" in running.summary()
        assert "unfinished: the agent was stopped" in running.summary()
        with pytest.raises(DaemonError, match="cut"):
            list(stream)
    finally:
        studio.configure(load_seconds=0)
