"""A node whose one simulated card of 12 GiB is measured as it is."""

import pytest

from fleet import operations
from fleet.models import Command, Node
from fleet.models.command import LOAD
from forge import files
from forge.inventory import look
from forge.models import Model
from tests.fleet.simulator_fixture import SimulatorProcess

KNOWN: dict[str, Model] = {}
OTTER, HERON, RAVEN, BEAVER, OWL = (
    "simulated/otter-8b", "simulated/heron-3b", "simulated/raven-raw-think-7b", "simulated/beaver-tools-8b",
    "simulated/owl-thinker-14b",
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    process = SimulatorProcess().start("--vram-gb", "12", "--speed", "50")
    yield process
    process.stop()


@pytest.fixture
def box(small, monkeypatch):
    small.reset()
    monkeypatch.setattr("forge.unloading.SETTLE_SECONDS", 0)
    node = Node.objects.create(name="box", base_url=small.url, is_simulated=True, state="online")
    look(node)
    fill(node)
    return node


def fill(node: Node) -> None:
    """As files.fill() does, which asks for every file; each is asked for once only."""
    if not KNOWN:
        files.fill(node)
        KNOWN.update({model.key: model for model in node.models.all()})
    for model in node.models.all():
        told = KNOWN[model.key]
        node.models.filter(pk=model.pk).update(metadata=told.metadata, size_json=told.size_json)


def load(node: Node, key: str, **parameters) -> None:
    command = Command.ask(node, LOAD, model=key, **parameters)
    operations.run(command)
    assert command.state == "done", command.problem
