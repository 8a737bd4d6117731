"""Running `lms`: never a terminal, never without a limit, and what is ended takes its helpers along, not the daemon."""

import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from fleet.lms import processes
from fleet.lms.cli import Lms, LmsError, Problem, value
from tests.fleet.fake_lms import HANG_SECONDS
from tests.fleet.fake_lms_fixture import FakeLMStudio, lives, wait_for
from tests.fleet.simulator_fixture import ROOT


@pytest.fixture
def studio(tmp_path):
    studio = FakeLMStudio(tmp_path)
    yield studio
    studio.stop()


@pytest.fixture
def lms(studio):
    return Lms(studio.lms)


def test_it_keeps_the_streams_apart_and_nobody_can_be_asked_anything(studio, lms):
    answer = lms.run("daemon", "down", seconds=60)
    assert (answer.stdout, answer.stderr, answer.exit_code) == ("", "Daemon is not running.\n", 1)
    (call,) = studio.calls()
    assert call["stdin"] == "devnull"
    assert call["env"] == {"FORCE_COLOR": "0", "NO_COLOR": "1"}
    assert call["group"] == os.getpgrp()


def test_our_secrets_do_not_travel_into_the_daemons_environment(studio, lms, monkeypatch):
    monkeypatch.setenv("DAEMONPULSE_KEY", "secret")
    studio.configure(slow={"daemon up": 60})
    process = lms.start("daemon", "up")
    try:
        assert wait_for(lambda: psutil.Process(process.pid).environ())  # empty until the program is there
        environment = psutil.Process(process.pid).environ()
    finally:
        process.kill()
        process.communicate()
    assert "DAEMONPULSE_KEY" not in environment
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("argument", ["-v", "--version", "-yv", "--version=1", "--verbose", "-"])
def test_an_option_that_is_not_ours_never_reaches_it(studio, lms, argument):
    with pytest.raises(ValueError, match="not passed to lms"):
        lms.run("load", argument, seconds=5)
    assert studio.calls() == []


@pytest.mark.parametrize("text", ["-v", "-", "--yes", "", " ", "a\x00b", "a\nb", "x" * 501])
def test_a_chosen_value_that_could_be_misread_is_refused(text):
    with pytest.raises(ValueError, match="cannot be given to lms"):
        value(text)


def test_lines_come_while_it_still_runs(studio, lms):
    studio.configure(update_lines=["first", "second"], update_pause=60)
    came = []

    def listener(line):
        came.append((line, lives(studio.calls()[0]["pid"])))
        studio.configure(update_pause=0)  # it pauses after each line, and goes on when this one is here

    lms.run("daemon", "update", seconds=50, on_line=listener)
    assert [line for line, _ in came] == ["first", "second"]
    assert came[0] == ("first", True)


def test_a_listener_that_fails_does_not_stop_it(studio, lms):
    studio.configure(update_lines=["line"] * 5)

    def listener(line):
        raise ConnectionError("nobody reads this any more")

    assert lms.run("daemon", "update", seconds=60, on_line=listener).exit_code == 0


def test_more_than_it_keeps_is_read_and_marked(studio, lms):
    studio.configure(noise={"ls": ["x" * 1023] * 1500})
    answer = lms.run("ls", seconds=60)
    assert len(answer.stdout) == 1024 * 1024
    with pytest.raises(LmsError, match="too long"):
        lms.json("ls", seconds=60)


def test_what_hangs_is_ended_in_time_with_its_helpers_but_not_what_it_detached(studio, lms, monkeypatch):
    studio.configure(hang=["ps"])
    studio.give_time_to_hang(monkeypatch)
    started = time.monotonic()
    seen = []
    with pytest.raises(LmsError) as caught:
        lms.run("ps", seconds=1, on_line=seen.append)
    assert time.monotonic() - started < HANG_SECONDS / 2
    assert caught.value.problem is Problem.TIMEOUT
    assert str(caught.value) == "`lms ps` did not finish within 1 s and was ended."
    assert "one line before it hangs" in caught.value.detail
    assert seen == ["one line before it hangs"]
    state = studio.state()
    assert wait_for(lambda: not lives(studio.calls()[0]["pid"]) and not lives(state["children"][0]))
    assert not wait_for(lambda: not lives(state["detached"][0]), 0.3)


def test_what_ignores_the_polite_signal_is_killed(studio, lms, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.2)
    studio.configure(hang=["ps"], ignores_terminate=True)
    studio.give_time_to_hang(monkeypatch)
    with pytest.raises(LmsError):
        lms.run("ps", seconds=1)
    assert not lives(studio.calls()[0]["pid"])
    assert wait_for(lambda: not lives(studio.state()["children"][0]))


def test_a_prompt_that_needs_a_person_ends_by_the_time_limit(studio, lms, monkeypatch):
    studio.give_time_to_hang(monkeypatch)
    with pytest.raises(LmsError) as caught:
        lms.run("bootstrap", seconds=1)
    assert caught.value.problem is Problem.TIMEOUT
    assert "(y/N)" in caught.value.detail


def test_it_is_taken_along_when_our_process_group_is_killed(studio):
    studio.configure(hang=["ps"])
    code = f"from fleet.lms.cli import Lms; Lms({str(studio.lms)!r}).run('ps', seconds=60)"
    ours = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    assert wait_for(lambda: studio.state()["detached"])
    os.killpg(ours.pid, 9)
    ours.wait(30)
    assert wait_for(lambda: not lives(studio.calls()[0]["pid"]) and not lives(studio.state()["children"][0]))
    assert lives(studio.state()["detached"][0])


def test_the_daemon_it_wakes_outlives_the_command(studio, lms):
    lms.run("ls", seconds=60)
    pid = studio.state()["daemon"]["pid"]
    assert lives(pid)
    assert os.getsid(pid) != os.getsid(0)


def test_an_instance_that_vanishes_meanwhile_costs_a_second_try(studio, lms):
    studio.configure(fail_once={"ps": "Model instance not found"})
    assert lms.json("ps", seconds=60, tries=2) == []
    studio.configure(fail={"ps": "Model instance not found"})
    with pytest.raises(LmsError, match=r"`lms ps` failed: Model instance not found"):
        lms.json("ps", seconds=60, tries=2)
    assert studio.commands() == ["ps --json"] * 4


@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_refused_passkey_is_a_problem_of_its_own(studio, lms, exit_code):
    studio.configure(passkey_mismatch=True, passkey_exit=exit_code)
    with pytest.raises(LmsError) as caught:
        lms.json("ls", seconds=60)
    assert caught.value.problem is Problem.PASSKEY_MISMATCH
    assert "different installations" in caught.value.advice


def test_a_command_that_is_gone_or_broken_is_said(studio, lms):
    studio.lms.write_text("not a program")
    with pytest.raises(LmsError, match="cannot be started"):
        lms.run("ps", seconds=5)
    studio.lms.unlink()
    with pytest.raises(LmsError) as caught:
        lms.run("ps", seconds=5)
    assert caught.value.problem is Problem.NOT_BOOTSTRAPPED


def test_several_run_side_by_side(studio, lms):
    lms.run("daemon", "up", seconds=60)
    studio.configure(slow={"ps": 120})
    threads = [threading.Thread(target=lms.json, args=("ps",), kwargs={"seconds": 120}) for _ in range(4)]
    for thread in threads:
        thread.start()
    is_side_by_side = wait_for(lambda: studio.commands().count("ps --json") == 4)  # and none of them has ended
    studio.configure(slow={})
    for thread in threads:
        thread.join()
    assert is_side_by_side
