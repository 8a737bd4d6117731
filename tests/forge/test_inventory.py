"""What a node told, as rows."""

from dataclasses import replace

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from daemonpulse.models import Event
from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.types import ModelInfo
from fleet.models import Node, State
from forge import inventory
from forge.models import Model
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.fleet.test_http import JSON_HEAD, CannedServer, sized

pytestmark = pytest.mark.django_db

OTTER = ModelInfo("otter", "Otter", "llm", ("otter",), True, 4, 4_900_000_000, 131_072, ("off", "on"))
HERON = ModelInfo("heron", "Heron", "llm")


@pytest.fixture
def box(db):
    return Node.objects.create(name="box", base_url="http://127.0.0.1:9")


def keys():
    return list(Model.objects.present().values_list("key", flat=True))


def events(kind="model.changed"):
    return list(Event.objects.filter(kind=kind).order_by("id"))


def test_it_adds_what_is_new(box):
    assert inventory.keep(box, [OTTER, HERON])
    otter = Model.objects.get(key="otter")
    assert (otter.name, otter.type, otter.loaded, otter.slots) == ("Otter", "llm", ["otter"], 4)
    assert (otter.size_bytes, otter.context_length, otter.reasoning_options) == (4_900_000_000, 131_072, ["off", "on"])
    assert keys() == ["heron", "otter"]
    assert [set(event.data["keys"]) for event in events()] == [{"otter", "heron"}]


def test_it_says_nothing_when_nothing_changed(box):
    inventory.keep(box, [OTTER, HERON])
    assert not inventory.keep(box, [HERON, OTTER])
    assert len(events()) == 1


def test_it_takes_over_what_changed(box):
    inventory.keep(box, [OTTER, HERON])
    assert inventory.keep(box, [replace(OTTER, loaded=(), slots=8), HERON])
    otter = Model.objects.get(key="otter")
    assert (otter.loaded, otter.is_loaded, otter.slots) == ([], False, 8)
    assert events()[-1].data["keys"] == ["otter"]


def test_it_marks_what_is_gone_and_what_is_back(box):
    inventory.keep(box, [OTTER, HERON])
    row = Model.objects.get(key="heron")
    assert inventory.keep(box, [OTTER])
    assert keys() == ["otter"]
    gone_at = Model.objects.get(key="heron").gone_at
    assert not inventory.keep(box, [OTTER])
    assert Model.objects.get(key="heron").gone_at == gone_at
    assert inventory.keep(box, [OTTER, HERON])
    assert Model.objects.get(key="heron").pk == row.pk
    assert keys() == ["heron", "otter"]
    assert len(events()) == 3


def test_it_keeps_what_is_not_told_as_unknown(box):
    inventory.keep(box, [ModelInfo("tiny", "tiny", "llm", knows_loaded=False)])
    tiny = Model.objects.get()
    assert (tiny.loaded, tiny.is_loaded, tiny.slots, tiny.size_bytes) == (None, None, None, None)
    assert not inventory.keep(box, [ModelInfo("tiny", "tiny", "llm", knows_loaded=False)])


def test_it_leaves_the_models_of_other_nodes_alone(box):
    other = Node.objects.create(name="other", base_url="http://127.0.0.1:10")
    inventory.keep(other, [OTTER])
    inventory.keep(box, [HERON])
    assert keys() == ["heron", "otter"]
    inventory.keep(box, [])
    assert keys() == ["otter"]


def test_it_survives_a_node_that_tells_a_model_twice(box):
    inventory.keep(box, [OTTER, replace(OTTER, name="Otter again")])
    assert keys() == ["otter"]


def test_it_asks_the_database_as_often_for_many_models_as_for_few(box):
    def queries(told):
        with CaptureQueriesContext(connection) as captured:
            inventory.keep(box, told)
        return len(captured)

    few = [replace(OTTER, key=f"few-{n}") for n in range(2)]
    many = [replace(OTTER, key=f"many-{n}") for n in range(40)]
    added = queries(few)
    assert queries([*few, *many]) <= added + 1
    assert queries([*few, *many]) <= 4
    assert queries([replace(info, slots=9) for info in [*few, *many]]) <= added + 1


# A look at a node


def test_it_notes_that_a_node_is_away_and_keeps_its_models(box):
    inventory.keep(box, [OTTER])
    assert not inventory.look(box)
    box.refresh_from_db()
    assert (box.state, box.reason) == (State.OFFLINE, "unreachable")
    assert keys() == ["otter"]
    assert not Model.objects.get().is_available
    assert len(events("node.offline")) == 1


def test_it_asks_without_touching_a_row(box):
    with CaptureQueriesContext(connection) as captured:
        answer = inventory.ask(box)
    assert answer.error.reason is Reason.UNREACHABLE
    assert len(captured) == 0


def test_it_records_what_was_asked_elsewhere(box):
    inventory.record(box, inventory.Answer(error=DaemonError(Reason.UNAUTHORIZED)))
    assert Node.objects.get().state == State.UNAUTHORIZED
    inventory.record(box, inventory.Answer([OTTER], 0.25))
    row = Node.objects.get()
    assert (row.state, row.latency_seconds) == (State.ONLINE, 0.25)
    assert keys() == ["otter"]


def test_it_does_not_take_a_strange_answer_for_no_models(box):
    inventory.keep(box, [OTTER])
    with CannedServer(sized(JSON_HEAD, b'{"something": "else"}')) as server:
        box.base_url = server.url
        assert not inventory.look(box)
    assert Node.objects.get().reason == "not_understood"
    assert keys() == ["otter"]


def test_it_looks_at_a_whole_daemon(db):
    process = SimulatorProcess().start()
    try:
        node = Node.objects.create(name="sim", base_url=process.url)
        assert inventory.look(node)
        assert Model.objects.present().count() == len(process.state()["models"])
        assert Model.objects.filter(loaded=[]).count() == Model.objects.count()
        node.connect().load("simulated/heron-3b")
        assert inventory.look(node)
        assert [row.key for row in Model.objects.all() if row.is_loaded] == ["simulated/heron-3b"]
        assert Node.objects.get(pk=node.pk).latency_seconds > 0
        assert not Model.objects.usable().filter(type="embedding").exists()
    finally:
        process.stop()
