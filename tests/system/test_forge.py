"""The queue on measured memory: lanes side by side, the fewest loads, nodes that share a model and one that dies."""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from fleet.daemons.lmstudio import LMStudio
from fleet.daemons.types import ChatRequest
from tests.conftest import wait_for
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.system.conftest import HERON, OTTER, Installation

RAVEN, BEAVER = "simulated/raven-raw-think-7b", "simulated/beaver-tools-8b"
MODELS = (HERON, RAVEN, BEAVER)  # 3.0, 5.2 and 6.2 GB with their context: any two fit into 12 GiB, not all three
OPTIONS = ("--vram-gb", "12", "--slots", "2")
TOKENS, LOAD_SECONDS = 20, 1.0
SPEED = {"ttft_seconds": 0.05, "tokens_per_second": 30, "load_seconds": LOAD_SECONDS}
MAX_LANE_WAIT = 60  # the default, stated in docs/settings.md
QUICK = 12  # the plain way takes minutes: it is run so many times as fast


def trace() -> list[str]:
    """120 prompts over three models in random order, the same in every run."""
    prompts = [HERON] * 40 + [RAVEN] * 50 + [BEAVER] * 30
    random.Random(4).shuffle(prompts)
    return prompts


@pytest.fixture
def daemon():
    process = SimulatorProcess().start(*OPTIONS)
    yield process
    process.stop()


def installation(*daemons, **environment) -> Installation:
    """Running, with a node for each daemon."""
    made = Installation(daemons[0])
    made.environment |= environment
    made.up()
    for number, daemon in enumerate(daemons[1:], 2):
        made.run("node-add", f"node {number}", daemon.url)
    return made


def text(number: int) -> str:
    return f"prompt {number} [[tokens={TOKENS}]]"


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def figures(daemon: SimulatorProcess) -> dict:
    return daemon.state()["models"][OTTER]


def run_through(site: Installation, daemon: SimulatorProcess) -> tuple[float, dict, list[dict]]:
    """Queue the whole trace at once; seconds until the last is done, what the daemon counted, and the prompts."""
    daemon.control("models/*", SPEED)
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda pair: site.submit(pair[1], text(pair[0])), enumerate(trace())))
    wait_for(lambda: site.states().get("done") == len(ids), 120, step=0.1)
    seconds = time.monotonic() - started
    return seconds, daemon.state(), [site.prompt(prompt_id) for prompt_id in ids]


def plainly() -> tuple[float, dict]:
    """First come, first served, one after the other: LM Studio loads just in time and evicts by itself."""
    process = SimulatorProcess().start(*OPTIONS, "--speed", str(QUICK))
    try:
        process.control("models/*", SPEED)
        client = LMStudio(process.url)
        started = time.monotonic()
        for number, model in enumerate(trace()):
            for _ in client.chat(ChatRequest(model, text(number))):
                pass
        return (time.monotonic() - started) * QUICK, process.state()
    finally:
        process.stop()


def test_it_runs_lanes_side_by_side_with_the_fewest_loads(daemon):
    site = installation(daemon)
    try:
        seconds, state, prompts = run_through(site, daemon)
    finally:
        site.stop()
    daemon.control("reset")
    one_by_one = installation(daemon, DAEMONPULSE_SIDE_BY_SIDE="0")
    try:
        single_seconds, single_state, _ = run_through(one_by_one, daemon)
    finally:
        one_by_one.stop()
    plain_seconds, plain_state = plainly()

    longest = max(moment(row["started_at"]) - moment(row["enqueued_at"]) for row in prompts)
    counts = ", ".join(f"{count} {key.partition('/')[2]}" for key, count in Counter(trace()).items())
    print(
        f"\n120 prompts ({counts}), room for two of three models, 2 slots each:"
        f"\n  side by side              {state['loads']:3} loads {seconds:6.1f} s, longest wait {longest:.1f} s"
        f"\n  one lane at a time        {single_state['loads']:3} loads {single_seconds:6.1f} s"
        f"\n  plain, JIT and auto-evict {plain_state['loads']:3} loads {plain_seconds:6.1f} s, run {QUICK} times faster"
    )
    optimum = len(set(trace()))  # each model once: what runs need not be unloaded before its lane is empty
    assert state["loads"] <= 1.2 * optimum
    assert state["busy_unloads"] == state["busy_evictions"] == 0
    assert longest <= MAX_LANE_WAIT
    assert single_seconds >= 1.5 * seconds
    assert all(row["attempts"] == 1 for row in prompts)


def test_two_nodes_share_a_model_and_one_takes_over_when_the_other_dies():
    daemons = [SimulatorProcess().start("--slots", "2") for _ in range(2)]
    site = installation(*daemons)
    try:
        for daemon in daemons:
            daemon.control("models/*", SPEED)
        ids = [site.submit(OTTER, text(number)) for number in range(40)]
        wait_for(lambda: all(figures(daemon)["completed"] >= 4 for daemon in daemons), 30)
        wait_for(lambda: figures(daemons[0])["active"] > 0, 10)
        daemons[0].kill()
        wait_for(lambda: site.states().get("done") == len(ids), 60, step=0.2)

        done = Counter(
            prompt_id for (prompt_id,) in site.rows("SELECT prompt_id FROM queue_attempt WHERE outcome='done'")
        )
        assert len(done) == len(ids)
        assert set(done.values()) == {1}
        nodes = Counter(site.prompt(prompt_id)["node"] for prompt_id in ids)
        print(f"\n40 prompts over two nodes, one killed: {dict(nodes)}")
        assert min(nodes.values()) >= 4
        assert figures(daemons[1])["completed"] == nodes["node 2"]
    finally:
        site.stop()
        for daemon in daemons:
            daemon.stop()


TTL_SECONDS = 6
SHORT_TTL = """
from forge.models import LoadProfile, Model
LoadProfile.choose(Model.objects.get(key={key!r}), ttl_seconds={seconds})
"""


def test_it_unloads_what_has_been_idle_and_work_begins_the_time_anew(daemon):
    daemon.control("models/*", SPEED)
    site = Installation(daemon)
    site._manage("shell", "-v0", "-c", SHORT_TTL.format(key=HERON, seconds=TTL_SECONDS))
    site.up()
    try:
        site.wait_for_state(site.submit(HERON, text(1)), "done")
        time.sleep(TTL_SECONDS / 2)
        long = site.submit(HERON, f"longer than it may be idle [[tokens={TTL_SECONDS * 40}]]")
        site.wait_for_state(long, "done")
        assert (daemon.state()["loads"], daemon.state()["unloads"]) == (1, 0)
        ended = moment(site.prompt(long)["finished_at"])
        wait_for(lambda: daemon.state()["unloads"] == 1, TTL_SECONDS + 6)
        idle = time.time() - ended
        print(f"\nunloaded after {idle:.1f} s, its idle time is {TTL_SECONDS} s")
        assert abs(idle - TTL_SECONDS) <= 5
    finally:
        site.stop()
