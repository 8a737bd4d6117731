"""Processes killed at random moments: nothing is lost, nothing runs twice, nothing is left behind."""

import random
import time

import psutil

from tests.conftest import wait_for
from tests.system.conftest import HERON, OTTER, OWL, best_of_three

PROMPTS = 200
MODELS = (OTTER, HERON, OWL)


def submit_many(site, count=PROMPTS, tokens=20) -> list[str]:
    return [site.submit(MODELS[n % 3], f"prompt {n} [[tokens={tokens}]]") for n in range(count)]


def check_each_done_once(site, ids):
    history = {row["id"]: row for row in site.history()}
    assert set(history) == set(ids), "a prompt was lost or doubled"
    assert {row["state"] for row in history.values()} == {"done"}
    done = site.rows("SELECT prompt_id, count(*) FROM queue_attempt WHERE outcome = 'done' GROUP BY prompt_id")
    assert len(done) == len(ids) and all(count == 1 for _, count in done), "a prompt finished twice"
    assert site.rows("SELECT count(*) FROM queue_chunk") == [(0,)], "pieces were left unfolded"
    assert site.rows("SELECT count(*) FROM queue_attempt WHERE outcome = 'running'") == [(0,)]
    assert all(row["answer"] for row in history.values())


def test_it_loses_nothing_when_processes_are_killed_at_random(daemon, site):
    daemon.control("models/*", {"ttft_seconds": 0.05, "tokens_per_second": 100, "load_seconds": 0.3})
    chance = random.Random(20261120)
    ids = submit_many(site, PROMPTS // 2)
    for round_ in range(6):
        time.sleep(chance.uniform(0.4, 1.6))
        if round_ == 3:
            site.kill()
            site.up()
        else:
            victims = site.processes(("worker", "web")[round_ % 2])
            for victim in chance.sample(victims, min(2, len(victims))):
                victim.kill()
        ids += submit_many(site, PROMPTS // 12)
    ids += submit_many(site, PROMPTS - len(ids))
    wait_for(lambda: site.states() == {"done": PROMPTS}, 180, step=0.3)
    check_each_done_once(site, ids)


def test_it_keeps_the_partial_output_of_a_killed_attempt(daemon, site):
    daemon.control("models/*", {"ttft_seconds": 0.02, "tokens_per_second": 8, "load_seconds": 0.1})
    prompt_id = site.submit(OTTER, "long [[tokens=1000]]")
    wait_for(lambda: len(site.prompt(prompt_id)["answer"]) > 100)
    for worker in site.processes("worker"):
        worker.kill()
    daemon.control("models/*", {"tokens_per_second": 200})
    done = site.wait_for_state(prompt_id, "done")
    attempts = site.rows("SELECT number, outcome FROM queue_attempt ORDER BY number")
    assert attempts == [(1, "lost"), (2, "done")]
    page = site.run(
        "shell",
        "-v0",
        "-c",
        "from daemonpulse.queue.models import Attempt; "
        "print(len(Attempt.objects.get(number=1).answer), len(Attempt.objects.get(number=2).answer))",
    )
    partial, whole = map(int, page.stdout.split())
    assert 100 < partial < whole == len(done["answer"])


def test_it_burns_no_try_when_the_daemon_dies_and_goes_on_within_two_seconds(daemon, site):
    ids = []

    def seconds_until_it_goes_on() -> float:
        before = site.states().get("done", 0)
        daemon.control("models/*", {"ttft_seconds": 0.05, "tokens_per_second": 50, "load_seconds": 0.2})
        ids.extend(submit_many(site, 30, tokens=300))  # long enough that most are still to come when it dies
        wait_for(lambda: site.states().get("done", 0) >= before + 2)
        daemon.kill()
        wait_for(lambda: site.states().get("sending", 0) == 0)
        time.sleep(3)
        assert site.states().get("failed", 0) == 0
        before = site.states().get("done", 0)
        daemon.restart()
        daemon.control("models/*", {"ttft_seconds": 0.01, "tokens_per_second": 500, "load_seconds": 0.1})
        returned = time.monotonic()
        wait_for(lambda: site.states().get("sending", 0) > 0 or site.states().get("done", 0) > before)
        seconds = time.monotonic() - returned
        wait_for(lambda: site.states() == {"done": len(ids)}, step=0.2)
        return seconds

    assert best_of_three(seconds_until_it_goes_on, 2.0) <= 2.0
    assert site.rows("SELECT max(tries) FROM queue_prompt") == [(0,)]
    check_each_done_once(site, ids)


def test_it_recovers_when_an_idle_pool_process_is_killed(daemon, site):
    """Such a process takes the lock of django-q2's task queue with it."""
    daemon.control("models/*", {"ttft_seconds": 0.01, "tokens_per_second": 500, "load_seconds": 0.1})
    wait_for(lambda: len(site.processes("worker")) >= 6)
    main = min(site.processes("worker"), key=lambda process: process.create_time())
    for process in site.processes("worker"):
        if process.pid != main.pid and process.ppid() != main.pid:
            process.kill()
    prompt_id = site.submit(OTTER, "after the pool's death [[tokens=5]]")
    site.wait_for_state(prompt_id, "done")


def test_it_leaves_no_process_behind_when_the_supervisor_is_killed(site):
    site.kill()  # which checks it


def test_it_stops_within_seconds_and_puts_running_prompts_back(daemon, site):
    daemon.control("models/*", {"ttft_seconds": 0.02, "tokens_per_second": 20, "load_seconds": 0.1})
    ids = []

    def seconds_to_stop() -> float:
        if site.process.poll() is not None:
            site.up()
        ids.append(site.submit(OTTER, "slow [[tokens=3000]]"))
        wait_for(lambda: len(site.prompt(ids[-1])["answer"]) > 20)
        children = psutil.Process(site.process.pid).children(recursive=True)
        started = time.monotonic()
        site.stop()
        seconds = time.monotonic() - started
        assert not psutil.wait_procs(children, timeout=1)[1]
        return seconds

    assert best_of_three(seconds_to_stop, 6) < 6
    assert site.states() == {"queued": len(ids)}
    last = "SELECT outcome, max(number) FROM queue_attempt GROUP BY prompt_id"  # SQLite: of the row with the maximum
    assert {outcome for outcome, _ in site.rows(last)} == {"released"}
    daemon.control("models/*", {"ttft_seconds": 0.01, "tokens_per_second": 2000})
    site.up()
    for prompt_id in ids:
        site.wait_for_state(prompt_id, "done")
