"""The simulated machine: cards that can be measured, and what a load really takes (contract §9)."""

import pytest
import requests

from fleet.allocation.profile import Profile, Strategy
from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.lmstudio import LMStudio
from fleet.daemons.types import LoadRequest
from fleet.hosts import SimulatedMachine, host_of
from fleet.lms.actions import Action
from fleet.models import Node
from fleet.simulator.catalogue import MODELS
from fleet.weights.architecture import Architecture
from fleet.weights.cache import cache_bytes
from tests.conftest import wait_for

OTTER, HERON, TORTOISE = "simulated/otter-8b", "simulated/heron-3b", "simulated/tortoise-slow-70b"
GIB = 2**30
OVERHEAD = 512 * 2**20
SIMULATOR = ("--gpus", "2", "--vram-gb", "40", "--overhead-mb", "512", "--ram-gb", "8", "--speed", "20")


@pytest.fixture
def node(simulator):
    return Node(name="demo", base_url=simulator.url, is_simulated=True)


@pytest.fixture
def host(node):
    return host_of(node)


@pytest.fixture
def daemon(node):
    return node.connect()


def used(host):
    return [gpu.memory_used_bytes for gpu in host.telemetry().gpus]


def test_a_simulated_node_has_a_machine_of_its_own(node, host):
    assert isinstance(host, SimulatedMachine)
    assert (node.has_host, node.can_be_managed) == (True, False)
    machine = host.telemetry()
    assert (machine.hostname, machine.gpu_note) == ("simulated", "These cards are simulated.")
    assert (machine.ram_total_bytes, machine.ram_used_bytes, machine.cpu_name) == (8 * GIB, 0, "")
    assert [(gpu.index, gpu.name, gpu.source) for gpu in machine.gpus] == [
        (0, "Simulated GPU", "simulated"), (1, "Simulated GPU", "simulated"),
    ]  # fmt: skip
    assert {(gpu.memory_total_bytes, gpu.memory_used_bytes, gpu.memory_free_bytes) for gpu in machine.gpus} == {
        (20 * GIB, 0, 20 * GIB)
    }


def test_a_load_takes_more_than_its_estimate_by_the_hidden_overhead(host, daemon):
    request = LoadRequest(HERON, profile=Profile(Strategy.DEDICATED, (1,)), gpu_indices=(0, 1))
    estimated = daemon.estimate(request)["total_vram_bytes"]
    assert estimated == 2_020_000_000 + 8192 * 114_688
    daemon.load_with(request)
    assert used(host) == [0, estimated + OVERHEAD]
    daemon.unload(HERON)
    assert used(host) == [0, 0]


def test_what_is_not_on_the_cards_is_in_the_machines_memory(host, daemon):
    request = LoadRequest(OTTER, context_length=1000, profile=Profile(offload_ratio=0.5))
    whole = 4_920_000_000 + 131_072_000 + OVERHEAD
    daemon.load_with(request)
    machine = host.telemetry()
    assert sum(used(host)) == machine.ram_used_bytes == whole // 2
    for _ in range(2):
        daemon.load_with(request)
    with pytest.raises(DaemonError) as caught:  # 4 × 2.6 GiB
        daemon.load_with(request)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert "of RAM" in caught.value.detail


@pytest.mark.parametrize("follow", [{}, {"on_progress": lambda part: None}], ids=["rest", "socket"])
def test_a_cache_that_is_kept_off_the_cards_is_in_the_machines_memory(host, daemon, follow):
    request = LoadRequest(OTTER, context_length=1000, offload_kv_cache_to_gpu=False)
    assert daemon.estimate(request)["total_vram_bytes"] == 4_920_000_000
    daemon.load_with(request, **follow)
    assert sum(used(host)) == 4_920_000_000 + OVERHEAD
    assert host.telemetry().ram_used_bytes == 131_072_000


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.key)
def test_its_files_tell_what_its_models_take(host, model):
    told = host.execute(Action.METADATA, {"model": model.key, "size_bytes": None})
    found = Architecture.from_json(told["architecture"])
    assert (told["format"], found.weights_bytes, found.file_type) == ("gguf", model.size_bytes, model.quantization)
    assert cache_bytes(found, 1024) == model.cache_bytes(1024)


def test_a_file_that_is_not_there_has_nothing_to_tell(host):
    for key in ("no/such", "", "ä&b=1"):
        with pytest.raises(DaemonError) as caught:
            host.execute(Action.METADATA, {"model": key})
        assert caught.value.reason is Reason.MODEL_NOT_FOUND


def test_its_disk_fills_with_downloads(host, daemon, simulator):
    before = host.telemetry().disk_free_bytes
    job = daemon.download("acme/vole-1b")
    assert wait_for(lambda: daemon.download_status(job.job_id).status == "completed")
    assert before - host.telemetry().disk_free_bytes == job.total_bytes


def test_its_cards_work_as_hard_as_their_slots(simulator, host, daemon):
    daemon.load_with(LoadRequest(HERON, profile=Profile(Strategy.DEDICATED, (1,)), gpu_indices=(0, 1)))
    simulator.control(f"models/{HERON}", {"tokens_per_second": 1})
    assert [gpu.utilization_percent for gpu in host.telemetry().gpus] == [0, 0]
    body = {"model": HERON, "input": "hello", "stream": True}
    with requests.post(f"{simulator.url}/api/v1/chat", json=body, stream=True, timeout=5):
        assert wait_for(lambda: [gpu.utilization_percent for gpu in host.telemetry().gpus] == [0, 25])


def test_there_is_nothing_to_manage_on_it(host):
    for call in (host.status, lambda: host.execute("server_start", {})):
        with pytest.raises(DaemonError) as caught:
            call()
        assert caught.value.reason is Reason.BAD_REQUEST
    assert list(host.logs("server")) == []


def test_an_address_without_a_simulated_machine_is_not_understood(simulator):
    for url, reason in ((f"{simulator.url}/v1", Reason.NOT_UNDERSTOOD), ("http://127.0.0.1:9", Reason.UNREACHABLE)):
        with pytest.raises(DaemonError) as caught:
            SimulatedMachine(url).telemetry()
        assert caught.value.reason is reason


def test_an_explicit_load_never_makes_room(daemon, simulator):
    daemon.load(OTTER)
    body = {"model": HERON, "input": "hello"}
    requests.post(f"{simulator.url}/api/v1/chat", json=body, timeout=5)  # just in time
    daemon.load(TORTOISE)
    with pytest.raises(DaemonError):
        daemon.load(TORTOISE)
    assert simulator.state()["evictions"] == 0
    assert set(simulator.state()["landed"]) == {OTTER, HERON, TORTOISE}


@pytest.mark.parametrize(
    ("key", "bytes_per_token"),
    [(OTTER, 131_072), (HERON, 114_688), ("simulated/raven-raw-think-7b", 57_344), (TORTOISE, 327_680)],
)
def test_a_models_cache_follows_from_its_shape(key, bytes_per_token):
    model = next(model for model in MODELS if model.key == key)
    assert model.cache_bytes(1000) == 1000 * bytes_per_token


def test_the_daemon_of_a_simulated_node_is_as_any_other(daemon):
    assert isinstance(daemon, LMStudio)
