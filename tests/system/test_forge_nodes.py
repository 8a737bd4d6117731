"""Two nodes with the same model: they share its prompts, and when one dies the other finishes them."""

from collections import Counter

from tests.conftest import wait_for
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.system.conftest import OTTER, Installation

SPEED = {"ttft_seconds": 0.05, "tokens_per_second": 45, "load_seconds": 1}


def figures(daemon: SimulatorProcess) -> dict:
    return daemon.state()["models"][OTTER]


def test_two_nodes_share_a_model_and_one_takes_over_when_the_other_dies():
    daemons = [SimulatorProcess().start("--slots", "2") for _ in range(2)]
    site = Installation(daemons[0])
    site.up()
    try:
        site.run("node-add", "node 2", daemons[1].url)
        for daemon in daemons:
            daemon.control("models/*", SPEED)
        ids = [site.submit(OTTER, f"prompt {number} [[tokens=60]]") for number in range(40)]
        wait_for(lambda: all(figures(daemon)["completed"] >= 4 for daemon in daemons))
        wait_for(lambda: figures(daemons[0])["active"] > 0)
        daemons[0].kill()
        daemons[1].control("models/*", {"tokens_per_second": 400})
        wait_for(lambda: site.states().get("done") == len(ids), 120, step=0.2)

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
