"""Every state and every transition of an LM Studio, against a fake one with the manners of the real."""

import re
import threading
import time

import pytest

from fleet.lms import daemon, server
from fleet.lms.home import Folder
from fleet.lms.manager import LmsError, LMStudioManager, Problem, State
from tests.conftest import wait_for
from tests.fleet.fake_lms import HANG_SECONDS
from tests.fleet.fake_lms_fixture import FakeLMStudio, free_port, lives
from tests.fleet.test_http import CannedServer, sized

SEED_KEYS = ["installed", "bootstrapped", "server_running", "api_endpoint", "current_model"]
WAKE_NOBODY = re.compile(r"^(server status|daemon status)( --json)?$")


@pytest.fixture
def studio(tmp_path):
    studio = FakeLMStudio(tmp_path, only_greets=True)
    yield studio
    studio.stop()


@pytest.fixture(params=["linux", "win32"])
def anywhere(tmp_path, request):
    """The same on Linux paths and on Windows ones."""
    studio = FakeLMStudio(tmp_path, request.param, only_greets=True)
    yield studio, LMStudioManager(Folder.find(studio.home, request.param, {}))
    studio.stop()


def manager_of(studio, **options):
    return LMStudioManager(Folder.find(studio.home, environment={}), **options)


@pytest.fixture
def manager(studio):
    return manager_of(studio)


def caught(action, *args):
    with pytest.raises(LmsError) as raised:
        action(*args)
    return raised.value


def test_it_tells_of_a_machine_without_lm_studio(tmp_path):
    for platform, command in (("linux", "install.sh | bash"), ("win32", "irm https://lmstudio.ai/install.ps1 | iex")):
        manager = LMStudioManager(Folder.find(tmp_path, platform, {}), port=free_port())
        status = manager.get_status()
        assert (status.state, status.installed, status.bootstrapped) == (State.NOT_INSTALLED, False, False)
        assert "https://lmstudio.ai/download" in status.advice
        assert command in status.advice
        assert status.daemon_running is None
        error = caught(manager.ensure_server_running)
        assert (error.problem, error.advice) == (Problem.NOT_INSTALLED, status.advice)


def test_it_tells_when_the_command_line_is_missing(anywhere):
    studio, manager = anywhere
    studio.lms.unlink()
    status = manager.get_status()
    assert (status.state, status.installed, status.bootstrapped) == (State.NOT_BOOTSTRAPPED, True, False)
    assert "lms bootstrap" in status.advice
    for action in (manager.ensure_server_running, manager.stop_server, manager.daemon_up, manager.daemon_down):
        assert caught(action).problem is Problem.NOT_BOOTSTRAPPED


def test_a_look_wakes_nobody_and_has_the_seeds_keys(studio, manager):
    status = manager.get_status()
    assert (status.state, status.daemon_running) == (State.SERVER_DOWN, False)
    assert studio.state()["woken"] == 0
    assert studio.state()["daemon"] is None
    assert all(WAKE_NOBODY.match(command) for command in studio.commands())
    json = status.as_json()
    assert list(json)[:5] == SEED_KEYS
    assert (json["state"], json["api_endpoint"]) == ("server_down", studio.url)


def test_a_look_at_what_runs_tells_all_of_it(studio, manager):
    studio.configure(only_greets=False, version="0.4.4+1")
    manager.ensure_server_running()
    manager.load("simulated/otter-8b")
    before = len(studio.calls())
    status = manager.get_status()
    assert (status.state, status.advice) == (State.READY, "")
    assert status.current_model == "simulated/otter-8b"
    assert (status.daemon_pid, status.is_daemon) == (studio.state()["daemon"]["pid"], True)
    assert status.version == "0.4.4+1"
    assert all(WAKE_NOBODY.match(command) for command in studio.commands()[before:])


def test_a_server_that_answers_is_ready_also_without_the_command_line(studio, manager):
    manager.ensure_server_running()
    studio.lms.rename(studio.lms.with_name("hidden"))
    status = manager.get_status()
    assert (status.state, status.server_running, status.bootstrapped) == (State.READY, True, False)
    assert "lms bootstrap" in status.advice
    assert status.daemon_running is None


@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_command_line_of_another_installation_is_a_state_of_its_own(studio, manager, exit_code):
    manager.ensure_server_running()
    studio.configure(passkey_mismatch=True, passkey_exit=exit_code)
    status = manager.get_status()
    assert (status.state, status.server_running, status.daemon_running) == (State.PASSKEY_MISMATCH, True, None)
    assert "different installations" in status.advice
    assert caught(manager.query, "ps").problem is Problem.PASSKEY_MISMATCH


def test_a_look_bears_a_command_line_that_hangs(studio, manager, monkeypatch):
    monkeypatch.setattr("fleet.lms.manager.LOOK_SECONDS", 1)
    studio.configure(hang=["daemon status"])
    studio.give_time_to_hang(monkeypatch)
    status = manager.get_status()
    assert (status.state, status.daemon_running) == (State.SERVER_DOWN, None)
    assert "did not finish within 1 s" in status.advice
    assert studio.commands() == ["daemon status --json"]


def test_something_else_at_the_address_is_not_lm_studio(studio):
    with CannedServer(sized(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n", b'{"lmstudio": "yes"}')) as other:
        status = manager_of(studio, port=int(other.url.rpartition(":")[2])).get_status()
    assert not status.server_running


def test_it_starts_stops_and_restarts_the_server(anywhere):
    studio, manager = anywhere
    status = manager.ensure_server_running()
    assert (status.state, status.server_running, status.api_endpoint) == (State.READY, True, studio.url)
    first = studio.state()["server"]["pid"]
    manager.ensure_server_running()
    assert studio.state()["server"]["pid"] == first
    assert manager.restart_server().state is State.READY
    second = studio.state()["server"]["pid"]
    assert second != first
    assert not lives(first)
    status = manager.stop_server()
    assert (status.state, status.daemon_running) == (State.SERVER_DOWN, True)
    assert not lives(second)


def test_a_start_always_names_port_and_address(studio):
    port = free_port()
    lines = []
    status = manager_of(studio, port=port, bind="0.0.0.0", on_line=lines.append).ensure_server_running()
    assert f"server start --port {port} --bind 0.0.0.0" in studio.commands()
    assert status.api_endpoint == f"http://127.0.0.1:{port}"
    assert status.server_running
    assert "Waking up LM Studio service..." in lines
    assert f"Success! Server is now running on port {port}" in lines


def test_a_server_that_others_can_reach_stays_reachable(studio, manager):
    studio.write_server_config(port=studio.port, networkInterface="0.0.0.0")
    stop = manager.stop_server

    def stop_and_forget():
        stop()
        studio.write_server_config(port=free_port(), networkInterface="127.0.0.1")

    manager.stop_server = stop_and_forget
    manager.ensure_server_running()
    assert manager.restart_server().server_running
    manager.daemon_update()
    starts = [command for command in studio.commands() if command.startswith("server start")]
    assert starts == [f"server start --port {studio.port} --bind 0.0.0.0"] * 3


def test_an_address_that_was_chosen_counts_more_than_the_last_one(studio):
    studio.write_server_config(port=studio.port, networkInterface="0.0.0.0")
    assert manager_of(studio, bind="127.0.0.1").ensure_server_running().server_running
    assert f"server start --port {studio.port} --bind 127.0.0.1" in studio.commands()


@pytest.mark.parametrize("interface", ["-v", "a\nb"])
def test_an_address_that_is_none_is_not_passed_on(studio, manager, interface):
    studio.configure(server_stays_down=True)
    studio.write_server_config(port=studio.port, networkInterface=interface)
    assert caught(manager.ensure_server_running).problem is Problem.FAILED
    assert f"server start --port {studio.port} --bind 127.0.0.1" in studio.commands()
    with pytest.raises(ValueError, match="cannot be given to lms"):
        manager_of(studio, bind=interface).ensure_server_running()


def test_a_version_is_asked_for_once_for_each_daemon(studio):
    manager_of(studio).daemon_up()
    before = len(studio.calls())
    assert [manager_of(studio).get_status().version for _ in range(2)] == ["0.0.23+1"] * 2
    assert studio.commands()[before:] == ["daemon status --json"] * 2
    studio.lose_daemon()
    studio.configure(version="0.0.25+1")
    assert manager_of(studio).daemon_up().version == "0.0.25+1"


def test_a_version_that_could_not_be_had_is_asked_for_again(studio, manager):
    manager.daemon_up()
    daemon.version.cache_clear()
    command, pid = studio.lms.read_text(), studio.state()["daemon"]["pid"]
    studio.lms.write_text(f"""#!/bin/sh\ntest "$3" || exit 1\necho '{{"status": "running", "pid": {pid}}}'\n""")
    status = manager.get_status()
    assert (status.daemon_pid, status.version) == (pid, None)
    studio.lms.write_text(command)
    assert manager.get_status().version == "0.0.23+1"


def test_a_start_that_says_it_failed_is_believed_to_the_server(studio, manager):
    studio.configure(says_failed=True)
    assert manager.ensure_server_running().state is State.READY


def test_a_start_that_hangs_after_the_server_is_up_is_a_start(studio, manager, monkeypatch):
    manager.ensure_server_running()
    monkeypatch.setattr("fleet.lms.manager.START_SECONDS", 1)
    greets = iter([False])
    real = server.greets
    monkeypatch.setattr("fleet.lms.manager.server.greets", lambda *args: next(greets, None) is None and real(*args))
    studio.configure(hang=["server start"])
    studio.give_time_to_hang(monkeypatch)
    assert manager.ensure_server_running().state is State.READY
    assert sum(command.startswith("server start") for command in studio.commands()) == 2


def test_a_start_that_says_success_without_a_server_is_a_failure(studio, manager, monkeypatch):
    monkeypatch.setattr("fleet.lms.manager.SETTLE_SECONDS", 0.3)
    studio.configure(server_lands_on=free_port(), says_failed=False)
    error = caught(manager.ensure_server_running)
    assert error.problem is Problem.FAILED
    assert studio.url in str(error)
    assert "another port" in error.advice


def test_a_start_that_fails_says_so_in_the_commands_words(studio, manager):
    studio.configure(server_stays_down=True)
    assert "Failed to verify the server is running" in str(caught(manager.ensure_server_running))


def test_a_start_that_hangs_is_ended_in_time_and_says_so(studio, manager, monkeypatch):
    monkeypatch.setattr("fleet.lms.manager.START_SECONDS", 1)
    studio.configure(hang=["server start"])
    studio.give_time_to_hang(monkeypatch)
    started = time.monotonic()
    error = caught(manager.ensure_server_running)
    assert time.monotonic() - started < HANG_SECONDS / 2
    assert (error.problem, "1 s" in str(error)) == (Problem.TIMEOUT, True)


def test_stopping_what_does_not_run_is_no_error_and_wakes_nobody(studio, manager):
    assert manager.stop_server().state is State.SERVER_DOWN
    assert studio.state()["daemon"] is None


def test_a_server_that_does_not_stop_is_an_error(studio, manager, monkeypatch):
    monkeypatch.setattr("fleet.lms.manager.SETTLE_SECONDS", 0.2)
    manager.ensure_server_running()
    studio.configure(server_never_stops=True)
    assert f"A server still answers at {studio.url}" in str(caught(manager.stop_server))


def test_a_server_that_is_slow_to_answer_is_not_down(studio, manager, monkeypatch):
    studio.configure(slow={"greeting": 0.6})
    status = manager.ensure_server_running()
    assert (status.state, status.server_running) == (State.READY, True)
    monkeypatch.setattr("fleet.lms.manager.SETTLE_SECONDS", 0.2)
    studio.configure(server_never_stops=True)
    assert f"A server still answers at {studio.url}" in str(caught(manager.stop_server))


def test_a_start_with_a_foreign_command_line_says_what_is_wrong(studio, manager):
    studio.configure(passkey_mismatch=True, passkey_exit=0)
    assert caught(manager.ensure_server_running).problem is Problem.PASSKEY_MISMATCH


def test_it_has_no_survey_where_there_is_nobody_to_ask(studio, manager):
    studio.lms.unlink()
    assert manager.survey() is None


def test_it_starts_and_stops_the_daemon(manager):
    status = manager.daemon_up()
    assert (status.daemon_running, status.is_daemon, status.state) == (True, True, State.SERVER_DOWN)
    assert manager.daemon_up().daemon_pid == status.daemon_pid
    manager.ensure_server_running()
    assert manager.daemon_down().daemon_running is False
    assert not lives(status.daemon_pid)
    assert manager.daemon_down().daemon_running is False


def test_the_desktop_application_is_left_to_its_user(studio, manager):
    studio.configure(gui=True)
    assert manager.daemon_up().is_daemon is False
    for action in (manager.daemon_down, manager.daemon_update):
        error = caught(action)
        assert error.problem is Problem.GUI_APP
        assert "Please quit it from its window" in str(error)
    assert lives(studio.state()["daemon"]["pid"])
    assert "daemon update" not in studio.commands()


def test_an_update_stops_it_first_and_brings_back_what_ran(studio):
    lines = []
    manager = manager_of(studio, on_line=lines.append)
    old = manager.ensure_server_running().daemon_pid
    status = manager.daemon_update()
    assert (status.state, status.version, status.server_running) == (State.READY, "0.0.24+1", True)
    assert status.daemon_pid != old
    commands = studio.commands()
    assert commands.index("daemon down") < commands.index("daemon update") < commands.index("daemon up")
    assert "Downloading llmster 0.0.24+1" in lines


def test_an_update_brings_back_a_server_that_was_too_busy_to_answer(studio, manager, monkeypatch):
    manager.ensure_server_running()
    patience = server.PATIENT_SECONDS
    monkeypatch.setattr(server, "PATIENT_SECONDS", 0.6)
    studio.configure(slow={"greeting": 60})

    def listener(line):  # the first line: it is being stopped
        studio.configure(slow={})
        monkeypatch.setattr(server, "PATIENT_SECONDS", patience)

    manager.on_line = listener
    assert manager.daemon_update().server_running


def test_an_update_leaves_down_what_was_down(studio, manager):
    assert manager.daemon_update().daemon_running is False
    assert "daemon up" not in studio.commands()


def test_an_update_that_fails_says_so_and_starts_the_old_one_again(studio, manager):
    studio.configure(update_lines=["libatomic.so.1 is missing"], update_exit=1)
    manager.daemon_up()
    assert "libatomic.so.1 is missing" in str(caught(manager.daemon_update))
    assert manager.get_status().daemon_running is True


def test_an_update_on_windows_is_left_to_a_person(tmp_path):
    studio = FakeLMStudio(tmp_path, "win32")
    error = caught(LMStudioManager(Folder.find(studio.home, "win32", {})).daemon_update)
    assert (error.problem, studio.calls()) == (Problem.NOT_SCRIPTABLE, [])
    assert "lms daemon update" in error.advice


@pytest.mark.parametrize(("ask", "about"), [("query", "ls"), ("estimate", "a/b"), ("stream_logs", "model")])
def test_a_question_does_not_wake_a_daemon_that_is_down(studio, manager, ask, about):
    error = caught(getattr(manager, ask), about)
    assert (error.problem, error.advice) == (Problem.NOT_RUNNING, "Start the daemon or the server first.")
    assert studio.commands() == ["daemon status --json"]


def test_it_asks_what_lms_knows(studio, manager):
    manager.daemon_up()
    assert manager.query("ls")[0]["modelKey"] == "simulated/otter-8b"
    assert manager.query("ps") == []
    assert manager.query("survey")["engines"][0]["engine"] == "llama.cpp"
    assert manager.survey() == manager.query("survey")
    assert manager.query("link")["status"] == "offline"
    with pytest.raises(ValueError, match="cannot be asked for"):
        manager.query("-v")


def test_the_first_list_after_a_cold_start_is_asked_for_twice(studio, manager):
    studio.configure(cold_start=True)
    manager.daemon_up()
    assert len(manager.query("ls")) == 2


def test_it_loads_the_model_that_was_asked_for(studio, manager):
    result = manager.load("simulated/otter-8b", 8192, 0.5, 2, 60, "mine")
    assert result == {"identifier": "mine", "verified": True}
    (row,) = manager.query("ps")
    assert (row["contextLength"], row["parallel"], row["ttlMs"]) == (8192, 2, 60_000)
    assert manager.load("simulated/otter-8b") == {"identifier": "simulated/otter-8b", "verified": True}
    assert manager.load("simulated/otter-8b")["identifier"] == "simulated/otter-8b:2"


def test_a_model_that_was_only_guessed_is_unloaded_again(studio, manager):
    error = caught(manager.load, "simulated/otter")
    assert error.problem is Problem.WRONG_MODEL
    assert "it loaded simulated/otter-8b instead, which was unloaded again" in str(error)
    assert studio.state()["loaded"] == []


def test_a_model_that_is_not_there_and_a_name_that_is_taken_are_said(studio, manager):
    assert caught(manager.load, "zzz").problem is Problem.MODEL_NOT_FOUND
    manager.load("simulated/otter-8b", identifier="mine")
    assert "already in use" in str(caught(lambda: manager.load("simulated/heron-3b", identifier="mine")))


def test_a_load_that_cannot_be_confirmed_is_not_called_verified(studio, manager):
    studio.configure(fail={"ps": "instance vanished"})
    assert manager.load("simulated/otter-8b")["verified"] is False


def test_it_estimates_without_loading(studio, manager):
    manager.daemon_up()
    found = manager.estimate("simulated/otter-8b", 8192, 0.5)
    assert (found["fits"], found["total_bytes"]) == (True, 6195490324)
    assert studio.state()["loaded"] == []
    assert caught(manager.estimate, "simulated/otter").problem is Problem.WRONG_MODEL
    assert caught(manager.estimate, "zzz").problem is Problem.MODEL_NOT_FOUND


def test_log_lines_come_as_they_are_written_and_end_with_the_daemon(studio, manager):
    manager.daemon_up()
    lines = []
    with manager.stream_logs("server") as stream:
        studio.log("server", {"data": {"content": "häuschen\u2028"}})
        rows = iter(stream)
        lines.append(next(rows))
        studio.log("server", {"n": 2})
        lines.append(next(rows))
        studio.lose_daemon()
        assert list(rows) == []
    assert lines == ['{"data": {"content": "h\\u00e4uschen\\u2028"}}', '{"n": 2}']
    assert studio.commands()[-1] == "log stream --json --source server"
    with pytest.raises(ValueError, match="is not a log"):
        manager.stream_logs("everything")


def test_a_log_can_be_closed_from_another_thread(studio, manager):
    manager.daemon_up()
    stream = manager.stream_logs("model")
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(stream))
    reader.start()
    wait_for(lambda: studio.commands()[-1].startswith("log stream"))
    stream.close()
    reader.join(60)
    assert (reader.is_alive(), seen) == (False, [])
    assert not lives(studio.calls()[-1]["pid"])


def test_a_log_that_fails_says_why(studio, manager):
    manager.daemon_up()
    studio.configure(fail={"log stream": "no permission"})
    assert "no permission" in str(caught(list, manager.stream_logs("model")))
    studio.configure(fail={}, passkey_mismatch=True)
    with pytest.raises(LmsError):
        manager.stream_logs("model")


def test_a_log_line_without_end_is_left_out(studio, manager, monkeypatch):
    monkeypatch.setattr("fleet.lms.logs.MAX_LINE_BYTES", 1000)
    manager.daemon_up()
    with manager.stream_logs("model") as stream:
        studio.log("model", {"input": "x" * 5000})
        studio.log("model", {"input": "short"})
        assert next(iter(stream)) == '{"input": "short"}'
        assert stream.left_out == 1
