"""Plans and loads, on the simulated daemon with several cards, a fake `lms` beside it, and GPUs that a test sets."""

import pytest

from fleet import layout, operations
from fleet.allocation.profile import Profile, Strategy
from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.lmstudio_socket import LMStudioSocket, SocketUnavailable
from fleet.models import AllocationProfile, Command, Node
from fleet.models.command import LOAD, PLAN
from forge.inventory import look
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.fleet.test_pages import gpu, machine

pytestmark = pytest.mark.django_db(transaction=True)
GIB = 2**30
OTTER = "simulated/otter-8b"


@pytest.fixture(scope="module")
def simulator():
    process = SimulatorProcess().start("--gpus", "2", "--vram-gb", "48", "--speed", "50")
    yield process
    process.stop()


class Cards:
    """The machine of the node: two cards whose use a test moves, and what it was told to do."""

    def __init__(self, simulator):
        self.simulator, self.told = simulator, []

    def telemetry(self):
        free = [card["free_bytes"] for card in self.simulator.state()["gpus"]]
        cards = (
            gpu(i, memory_total_bytes=24 * GIB, memory_free_bytes=free[i], memory_used_bytes=24 * GIB - free[i])
            for i in range(2)
        )
        return machine(*cards)

    def execute(self, action, parameters, on_line=None, command_id=None, on_signed=None):
        self.told.append((str(action), parameters))
        return {"identifier": "otter-by-cli", "total_bytes": 6 * GIB}


@pytest.fixture
def cards(simulator, monkeypatch):
    simulator.reset()
    made = Cards(simulator)
    monkeypatch.setattr(layout, "host_of", lambda node: made)
    monkeypatch.setattr(layout, "SETTLE_SECONDS", 0)
    return made


@pytest.fixture
def rig(simulator, cards):
    node = Node.objects.create(name="rig", base_url=simulator.url)
    look(node)
    return node


def done(rig, action, **parameters) -> dict:
    command = Command.ask(rig, action, model=OTTER, **parameters)
    operations.run(command)
    command.refresh_from_db()
    assert command.state == "done", command.problem
    return command.result


def test_it_plans_with_what_the_daemon_says_it_needs_and_loads_nothing(rig, simulator):
    AllocationProfile.choose(rig, "", Profile(Strategy.EVEN))
    told = done(rig, PLAN, context_length=8192)
    assert told["need"]["source"] == "LM Studio"
    assert told["need"]["context_bytes"] > 0
    shares = [share["bytes_planned"] for share in told["plan"]["shares"]]
    assert abs(shares[0] - shares[1]) <= 1
    assert sum(shares) == told["need"]["weights_bytes"] + told["need"]["context_bytes"]
    assert told["plan"]["fits"] is True
    assert simulator.state()["loads"] == 0


def test_it_plans_with_the_size_on_disk_where_nobody_can_tell_more(rig, cards, monkeypatch):
    def fails(*args, **options):
        raise DaemonError(Reason.UNREACHABLE)

    monkeypatch.setattr(LMStudioSocket, "estimate", fails)
    monkeypatch.setattr(cards, "execute", fails)
    told = done(rig, PLAN)
    assert (told["need"]["source"], told["need"]["context_bytes"]) == ("its size on disk", None)
    assert told["plan"]["fits"] is None


def test_it_loads_on_the_card_that_was_pinned_and_measures_it(rig, simulator):
    AllocationProfile.choose(rig, OTTER, Profile(Strategy.DEDICATED, (1,)))
    told = done(rig, LOAD)
    assert (told["channel"], told["dropped"], told["is_kept"]) == ("socket", [], True)
    first, second = (one["bytes"] for one in told["measured"])
    assert first == 0
    assert second > 4 * GIB
    assert Command.objects.get().output.startswith(f"{OTTER} is loaded.")


def test_it_flags_a_pin_that_was_not_kept_with_the_figures(rig, simulator, cards, monkeypatch):
    AllocationProfile.choose(rig, OTTER, Profile(Strategy.DEDICATED, (1,)))
    load = LMStudioSocket.load

    def deaf(self, request, *args):  # a daemon that counts its cards the other way round
        order = tuple(1 - index for index in request.profile.gpu_order)
        return load(self, layout.dataclasses.replace(request, profile=Profile(Strategy.DEDICATED, order)), *args)

    monkeypatch.setattr(LMStudioSocket, "load", deaf)
    told = done(rig, LOAD)
    assert told["is_kept"] is False
    assert "GPU 0" in " ".join(told["sentences"]) and "GiB" in " ".join(told["sentences"])


def test_it_says_what_the_channel_could_not_carry(rig, cards, monkeypatch):
    def unavailable(self, *args):
        raise SocketUnavailable(Reason.NOT_UNDERSTOOD, "no socket here")

    monkeypatch.setattr(LMStudioSocket, "load", unavailable)
    AllocationProfile.choose(rig, OTTER, Profile(Strategy.DEDICATED, (1,)))
    told = done(rig, LOAD)
    assert (told["channel"], told["dropped"]) == ("rest", ["one GPU alone"])
    assert "could not be told: one GPU alone." in Command.objects.get().output

    AllocationProfile.choose(rig, OTTER, Profile(Strategy.PRIORITY, (1, 0), offload_ratio=0.5))
    told = done(rig, LOAD, context_length=4096)
    assert (told["channel"], told["instance"], told["dropped"]) == ("cli", "otter-by-cli", ["the order of the GPUs"])
    assert cards.told[-1] == ("load", {"model": OTTER, "context_length": 4096, "gpu_ratio": 0.5})


def test_it_keeps_quiet_about_a_layout_that_it_cannot_measure(rig, cards, monkeypatch):
    monkeypatch.setattr(layout, "host_of", lambda node: None)
    told = done(rig, LOAD)
    assert "measured" not in told
    assert "could not be measured" in Command.objects.get().output


def test_it_fails_with_the_daemons_words_when_it_does_not_fit(rig, simulator):
    simulator.control(f"models/{OTTER}", {"fault": {"kind": "load_failure"}})
    command = Command.ask(rig, LOAD, model=OTTER)
    operations.run(command)
    command.refresh_from_db()
    assert command.state == "failed"
    assert "could not be loaded" in command.problem
    assert "simulated load failure" in command.output
