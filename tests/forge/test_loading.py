"""Plans and loads, on the simulated daemon with several cards, a fake `lms` beside it, and GPUs that a test sets."""

import dataclasses
import threading

import pytest

from daemonpulse.queue.models import Prompt
from fleet import operations
from fleet.allocation.profile import Profile, Strategy
from fleet.daemons.errors import DaemonError, Reason, SocketUnavailable
from fleet.daemons.lmstudio_socket import LMStudioSocket
from fleet.models import AllocationProfile, Command, Node
from fleet.models.command import LOAD, PLAN, UNLOAD
from forge import files, idle, loading
from forge.inventory import look
from forge.models import Instance, LoadProfile, Measurement, Model, Origin
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.fleet.test_pages import gpu, machine, words

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
    monkeypatch.setattr(loading, "host_of", lambda node: made)
    monkeypatch.setattr("forge.unloading.SETTLE_SECONDS", 0)
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
    assert told["need"]["source"] == "LM Studio's estimate"
    assert told["need"]["context_bytes"] > 0
    shares = [share["bytes_planned"] for share in told["plan"]["shares"]]
    assert abs(shares[0] - shares[1]) <= 1
    need = told["need"]
    assert sum(shares) == need["weights_bytes"] + need["context_bytes"] + 2 * need["overhead_bytes"]
    assert told["plan"]["fits"] is True
    assert told["verdict"] == "fits"
    assert simulator.state()["loads"] == 0


def test_the_nodes_page_says_of_a_plan_that_it_does_not_fit_and_why(rig, cards, client, alice):
    client.force_login(alice)
    full = [gpu(i, memory_total_bytes=24 * GIB, memory_free_bytes=2 * GIB) for i in range(2)]
    cards.telemetry = lambda: machine(*full)
    done(rig, PLAN, context_length=8192)
    page = words(client.get(f"/nodes/{rig.pk}/").content.decode())
    plan = page[page.index(f"{OTTER} context 8192") : page.index("Load it so")]
    assert plan.startswith(f"{OTTER} context 8192 does not fit ")
    assert "4.0 GiB are free" in plan and "are missing" in plan


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


def test_it_makes_no_second_copy_where_nobody_was_asked(rig, simulator):
    done(rig, LOAD, only_copy=True)
    command = Command.ask(rig, LOAD, model=OTTER, only_copy=True)
    operations.run(command)
    command.refresh_from_db()
    assert (command.state, simulator.state()["loads"]) == ("failed", 1)
    assert "loaded already" in command.problem


def test_it_flags_a_pin_that_was_not_kept_with_the_figures(rig, simulator, cards, monkeypatch):
    AllocationProfile.choose(rig, OTTER, Profile(Strategy.DEDICATED, (1,)))
    load = LMStudioSocket.load

    def deaf(self, request, *args):  # a daemon that counts its cards the other way round
        order = tuple(1 - index for index in request.profile.gpu_order)
        return load(self, dataclasses.replace(request, profile=Profile(Strategy.DEDICATED, order)), *args)

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
    monkeypatch.setattr(loading, "host_of", lambda node: None)
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


# Room for it, on one simulated card that is measured as it is


BEAVER, HERON, RAVEN, OWL = (
    "simulated/beaver-tools-8b", "simulated/heron-3b", "simulated/raven-raw-think-7b", "simulated/owl-thinker-14b",
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    """One card of 12 GiB, with 400 MiB of hidden overhead for each copy."""
    process = SimulatorProcess().start("--vram-gb", "12", "--speed", "50", "--overhead-mb", "400")
    yield process
    process.stop()


@pytest.fixture
def box(small, monkeypatch):
    small.reset()
    monkeypatch.setattr("forge.unloading.SETTLE_SECONDS", 0)
    node = Node.objects.create(name="box", base_url=small.url, is_simulated=True, state="online")
    look(node)
    files.fill(node)
    return node


def run(node, action, **parameters) -> Command:
    command = Command.ask(node, action, **parameters)
    operations.run(command)
    command.refresh_from_db()
    return command


def loaded(node) -> set[str]:
    return set(Instance.objects.of(node).values_list("identifier", flat=True))


def test_it_reads_what_a_models_file_tells_and_works_out_what_it_takes(box):
    otter = Model.objects.get(key=OTTER)
    assert otter.architecture.layers == 32
    assert otter.size.context == 8192 * 131_072
    assert otter.size.source == "its file"


def test_it_keeps_who_loaded_a_copy_what_it_took_and_how_long_it_may_be_idle(box):
    command = run(box, LOAD, model=HERON, context_length=4096, ttl_seconds=600)
    assert command.state == "done", command.problem
    copy = Instance.objects.get()
    assert (copy.identifier, copy.origin, copy.context_length, copy.ttl_seconds) == (HERON, Origin.PERSON, 4096, 600)
    assert copy.is_measured
    assert copy.total_bytes == 2_020_000_000 + 4096 * 114_688 + 400 * 2**20
    assert copy.unload_at is not None


def test_a_field_left_empty_on_the_page_is_for_the_daemon_whatever_is_saved(box):
    LoadProfile.choose(Model.objects.get(key=HERON), context_length=2048, parallel=7)
    run(box, LOAD, model=HERON)
    assert (Instance.objects.get().context_length, Instance.objects.get().parallel) == (2048, 7)
    run(box, UNLOAD, instance=HERON, model=HERON)
    run(box, LOAD, model=HERON, is_whole=True, context_length=4096)
    assert (Instance.objects.get().context_length, Instance.objects.get().parallel) == (4096, 4)


def test_it_makes_room_with_the_least_recently_used(box):
    for key in (HERON, RAVEN):
        assert run(box, LOAD, model=key).state == "done"
    Prompt.objects.all().delete()
    command = run(box, LOAD, model=BEAVER)
    assert command.state == "done", command.problem
    assert loaded(box) == {RAVEN, BEAVER}
    assert f"Makes room: {HERON}." in command.output


def test_it_never_unloads_a_busy_or_a_pinned_one_and_says_who_is_in_the_way(box, alice):
    for key in (HERON, RAVEN):
        run(box, LOAD, model=key)
    LoadProfile.choose(Model.objects.get(key=HERON), is_pinned=True)
    prompt, _ = Prompt.submit(owner=alice, model=RAVEN, text="x")
    Prompt.claim(prompt.lane_id, box.pk, "somebody")
    command = run(box, LOAD, model=BEAVER)
    assert command.state == "failed"
    assert "does not fit into" in command.problem
    assert f"{HERON} is pinned" in command.output
    assert f"{RAVEN} is at work" in command.output
    assert loaded(box) == {HERON, RAVEN}


def test_it_refuses_to_unload_what_is_at_work(box, alice):
    run(box, LOAD, model=HERON)
    prompt, _ = Prompt.submit(owner=alice, model=HERON, text="x")
    attempt = Prompt.claim(prompt.lane_id, box.pk, "somebody")[0]
    command = run(box, UNLOAD, instance=HERON, model=HERON)
    assert command.state == "failed"
    assert "at work for 1 prompt" in command.output
    assert Instance.objects.get().state == "loaded"

    attempt.prompt.cancel()
    assert run(box, UNLOAD, instance=HERON, model=HERON).state == "done"
    assert not loaded(box)


def test_it_refuses_to_unload_what_works_for_somebody_else(box, small):
    run(box, LOAD, model=HERON)
    small.control(f"models/{HERON}", {"tokens_per_second": 5})
    chat = box.connect().chat(_request(HERON))
    thread = threading.Thread(target=lambda: [None for _ in chat], daemon=True)
    thread.start()
    try:
        from tests.conftest import wait_for

        wait_for(lambda: small.state()["models"][HERON]["active"])
        command = run(box, UNLOAD, instance=HERON, model=HERON)
    finally:
        chat.close()
    assert command.state == "failed"
    assert "somebody else" in command.output
    assert Instance.objects.get().was_seen_busy


def _request(key):
    from fleet.daemons.types import ChatRequest

    return ChatRequest(key, "[[tokens=100000]]")


def test_it_learns_what_loads_really_take(box):
    estimates = []
    for context in (4096, 8192, 2048, 8192):
        command = run(box, LOAD, model=HERON, context_length=context)
        need = command.result["need"]
        total = sum(need[part] for part in ("weights_bytes", "context_bytes", "overhead_bytes", "correction_bytes"))
        estimates.append(total / Instance.objects.get().total_bytes)
        run(box, UNLOAD, instance=HERON, model=HERON)
    assert estimates[0] < 0.9
    assert abs(estimates[3] - 1) < 0.03
    assert Measurement.objects.count() == 4


def test_it_unloads_what_has_been_idle_for_its_time(box):
    run(box, LOAD, model=HERON, ttl_seconds=60)
    assert idle.step() == 0
    Instance.objects.update(used_at=loading.timezone.now() - loading.timezone.timedelta(seconds=61),
                            unload_at=loading.timezone.now())  # fmt: skip
    assert idle.step() == 1
    operations.run(Command.objects.open().get())
    assert not loaded(box)


def test_it_asks_for_an_unload_once(box):
    run(box, LOAD, model=HERON, ttl_seconds=1)
    then = loading.timezone.now()
    Instance.objects.update(unload_at=then, used_at=then - loading.timezone.timedelta(seconds=9))
    assert [idle.step(), idle.step()] == [1, 0]


def test_it_says_that_a_model_is_too_large_and_loads_it_anyway_when_told_to(box, small):
    command = run(box, LOAD, model=OWL, context_length=40_960)
    assert command.state == "failed"
    assert "does not fit" in command.problem
    assert small.state()["loads"] == 0
    command = run(box, LOAD, model=OWL, context_length=40_960, anyway=True)
    assert "insufficient memory" in command.output  # the daemon's own line


def test_it_calls_a_load_off(box, small):
    small.control(f"models/{HERON}", {"load_seconds": 2000})
    command = Command.ask(box, LOAD, model=HERON)
    cancelled = threading.Event()
    timer = threading.Timer(0.5, cancelled.set)
    timer.start()
    operations.run(command, cancelled=cancelled)
    command.refresh_from_db()
    assert command.state == "failed"
    assert small.state()["loads"] == 0
