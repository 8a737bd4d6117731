"""The fleet's pages: what they say, what they cost, and who may press what."""

import re
import time
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from fleet.agent.keys import AgentKey
from fleet.models import AllocationProfile, Command, Node, Reading, Sample
from fleet.telemetry.readings import Gpu, GpuProcess, Machine
from forge.models import Model
from tests.fleet.test_http import JSON_HEAD, CannedServer, sized

pytestmark = pytest.mark.django_db
GIB = 2**30
KEY = AgentKey.make().to_text()
KEY_WITH_CERTIFICATE = AgentKey.make().with_fingerprint("ab" * 32).to_text()


def gpu(index=0, **fields):
    figures = {
        "memory_total_bytes": 24 * GIB, "memory_used_bytes": 18 * GIB, "memory_free_bytes": 6 * GIB,
        "utilization_percent": 94.0, "temperature_celsius": 71.0, "power_watts": 320.0, "power_limit_watts": 450.0,
        "processes": (GpuProcess(4711, "llmster", 17 * GIB, True),),
    }  # fmt: skip
    return Gpu(index, "NVIDIA GeForce RTX 4090", "nvml", f"GPU-{index}", **figures | fields)


def machine(*gpus, **fields):
    told = {"hostname": "attic", "cpu_percent": 12.0, "cpu_count": 16, "ram_total_bytes": 64 * GIB,
            "ram_used_bytes": 20 * GIB, "driver_version": "555.42", "cuda_version": "12.5"}  # fmt: skip
    return Machine(time.time(), gpus=gpus, **told | fields)


@pytest.fixture
def rig(db):
    node = Node.objects.create(name="rig", base_url="http://127.0.0.1:9", state="online", latency_seconds=0.004)
    Model.objects.create(
        node=node, key="acme/otter", name="Otter", type="llm", loaded=["acme/otter"], size_bytes=5 * GIB
    )
    Model.objects.create(node=node, key="acme/heron", name="Heron", type="llm", loaded=[])
    return node


@pytest.fixture
def html_of(client, alice):
    client.force_login(alice)
    return lambda path, **query: client.get(path, query).content.decode()


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


# The overview


def test_it_shows_each_node_with_what_its_machine_told(html_of, rig):
    Reading.of(rig).keep(machine(gpu(), gpu(1, problem="The GPU is lost. Restart the machine.")))
    rig.change(tags=["attic", "fast"])
    Node.objects.update(state="online")
    said = words(html_of("/nodes/"))
    for part in ("rig", "online", "attic", "fast", "4 ms", "loaded: acme/otter", "0 running, 0 waiting",
                 "18.0 of 24.0 GiB", "94 % busy", "71 °C", "The GPU is lost.",
                 "CPU 12 %, RAM 20.0 of 64.0 GiB"):  # fmt: skip
        assert part in said, part


def test_it_shows_what_is_unknown_as_unknown(html_of, rig):
    unknown = dict.fromkeys(
        ("memory_total_bytes", "memory_used_bytes", "memory_free_bytes", "utilization_percent", "temperature_celsius",
         "power_watts", "power_limit_watts", "processes"))  # fmt: skip
    Reading.of(rig).keep(machine(gpu(**unknown), cpu_percent=None, ram_used_bytes=None))
    assert "GPU 0 RTX 4090 VRAM unknown" in words(html_of("/nodes/"))
    said = words(html_of(f"/nodes/{rig.pk}/"))
    assert "Temperature unknown" in said
    assert "Its processes are unknown." in said
    assert "None" not in said


def test_it_says_that_there_is_no_gpu_and_why_none_is_known(html_of, rig):
    Reading.of(rig).keep(machine(gpu_note="No NVIDIA driver was found."))
    assert "No NVIDIA driver was found." in words(html_of("/nodes/"))
    Node.objects.create(name="far", base_url="http://192.0.2.1:1234")
    assert "GPUs unknown: no agent on its machine." in words(html_of("/nodes/"))


@pytest.mark.parametrize(
    ("fields", "status", "sentence", "button"),
    [
        ({"state": "offline", "reason": "unreachable"},
         {"state": "server_down"}, "server is not running", "Start the server"),
        ({"state": "offline", "reason": "unreachable"},
         {"state": "not_bootstrapped", "advice": "Run lms bootstrap."}, "Run lms bootstrap.", ""),
        ({"state": "offline", "reason": "timeout"}, {"state": "ready"}, "silent for too long", "Restart the server"),
        ({}, {"state": "ready", "advice": "It cannot be started or stopped from here."}, "cannot be started", ""),
        ({"state": "offline", "reason": "unreachable", "kind": "openai"}, None, "Is the daemon running?", ""),
        ({"state": "stalled"}, None, "takes longer than 5 seconds", ""),
        ({"state": "unauthorized", "reason": "unauthorized"}, None, "refused our token", ""),
        ({"is_enabled": False}, None, "gets no new prompts", ""),
        ({"state": "offline", "reason": "unreachable", "base_url": "http://192.0.2.1:1"}, None, "With an agent", ""),
    ],
)  # fmt: skip
def test_it_says_what_to_do(html_of, rig, fields, status, sentence, button):
    Node.objects.update(**fields)
    if status:
        Reading.of(rig).keep_status(status)
    html = html_of("/nodes/")
    assert sentence in words(html)
    assert [label for label in ("Start the server", "Restart the server") if f">{label}</button>" in html] == (
        [button] if button else []
    )


def test_it_tells_of_vram_that_is_held_for_nothing(html_of, rig):
    Reading.objects.create(
        node=rig, orphans=[{"pid": 4711, "name": "llmster", "memory_bytes": 6 * GIB}], orphaned_since=timezone.now()
    )
    for path in ("/nodes/", f"/nodes/{rig.pk}/"):
        assert "6.0 GiB by process 4711 (llmster)" in words(html_of(path))


def ten_nodes_with_eight_gpus():
    for n in range(10):
        node = Node.objects.create(
            name=f"rig {n}", base_url=f"http://127.0.0.1:{n + 10}", state="online", latency_seconds=0.01, tags=["rack"]
        )
        Reading.of(node).keep(machine(*(gpu(index) for index in range(8))))
        Model.objects.bulk_create(
            Model(node=node, key=f"acme/model-{m}", name=f"Model {m}", type="llm", loaded=["x"] if m < 3 else [])
            for m in range(10)
        )


def test_it_shows_ten_nodes_with_eight_gpus_each_soon_and_in_few_bytes(client, alice):
    ten_nodes_with_eight_gpus()
    client.force_login(alice)
    client.get("/nodes/")  # templates are compiled
    times = []
    for _ in range(3):
        started = time.thread_time()  # seconds of the processor: what other tests take is not the page's
        answer = client.get("/nodes/")
        times.append(time.thread_time() - started)
    assert answer.content.count(b'class="gpu"') == 80
    assert len(answer.content) <= 100_000
    assert min(times) <= 0.2, times


def test_it_asks_the_database_no_more_for_ten_nodes_than_for_one(client, alice, rig):
    client.force_login(alice)
    Reading.of(rig).keep(machine(gpu()))
    with CaptureQueriesContext(
        connection,
    ) as for_one:
        client.get("/nodes/")
    ten_nodes_with_eight_gpus()
    with CaptureQueriesContext(connection) as for_eleven:
        client.get("/nodes/")
    assert len(for_eleven) == len(for_one)


def test_it_escapes_what_machines_say(html_of, rig):
    nasty = "<script>alert(1)</script>"
    Reading.of(rig).keep(machine(gpu(processes=(GpuProcess(1, nasty, GIB, False),)), hostname=nasty, gpu_note=nasty))
    Reading.of(rig).keep_status({"state": nasty, "advice": nasty, "version": nasty})
    command = Command.ask(rig, "daemon_update")
    command.claim()
    command.beat(nasty)
    for path in ("/nodes/", f"/nodes/{rig.pk}/"):
        assert nasty not in html_of(path)
    assert "&lt;script&gt;" in html_of(f"/nodes/{rig.pk}/")


# One node


def test_it_shows_one_node_whole(html_of, rig):
    Reading.of(rig).keep(machine(gpu(throttle_reasons=("slowed by heat",), ecc_errors=2)))
    Reading.of(rig).keep_status(
        {"state": "ready", "version": "0.0.23+1", "daemon_running": True, "daemon_pid": 4242, "headless": False,
         "server_running": True})  # fmt: skip
    said = words(html_of(f"/nodes/{rig.pk}/"))
    for part in ("attic", "555.42", "CUDA 12.5", "320 of 450 W", "Slowed by heat.", "Memory errors 2",
                 "llmster inference 4711",
                 "0.0.23+1", "process 4242", "acme/heron", "Stop the server", "Test now"):  # fmt: skip
        assert part in said, part


def test_it_keeps_what_it_was_told_and_what_came_of_it(html_of, rig, alice):
    command = Command.ask(rig, "server_stop", alice)
    command.claim()
    command.beat("Stopped the server on port 1234.")
    command.finish({})
    said = words(html_of(f"/nodes/{rig.pk}/"))
    assert "Stop the server" in said
    assert "by alice" in said
    assert "Stopped the server on port 1234." in said


def test_it_gives_the_figures_of_its_graphs(client, alice, rig):
    client.force_login(alice)
    Sample.take(rig, 0.02, machine(gpu()))
    answer = client.get(f"/nodes/{rig.pk}/samples/", {"range": "1h"}).json()
    assert answer["gpus"][0]["vram"] == [18 * GIB]
    assert answer["latency"] == [0.02]
    assert client.get(f"/nodes/{rig.pk}/samples/", {"range": "9y"}).status_code == 400


# What can be done


def post(client, path, **data):
    return client.post(path, data, follow=True)


def test_it_has_commands_done(client, alice, rig):
    client.force_login(alice)
    for action in (
        "server_start",
        "server_stop",
        "server_restart",
        "daemon_up",
        "daemon_down",
        "daemon_update",
        "headless_on",
    ):
        post(client, f"/nodes/{rig.pk}/commands/", action=action)
        assert Command.objects.latest("asked_at").action == action
    assert Command.objects.filter(user=alice, node=rig, state="waiting").count() == 7


def test_it_takes_a_second_press_for_the_first(client, alice, rig):
    client.force_login(alice)
    for _ in range(2):
        post(client, f"/nodes/{rig.pk}/commands/", action="server_restart")
    assert Command.objects.count() == 1


def test_it_says_how_old_figures_are(html_of, rig):
    Reading.of(rig).keep(machine(gpu()))
    assert "As of" not in words(html_of("/nodes/"))
    Reading.objects.update(read_at=timezone.now() - timedelta(seconds=46))
    assert "As of" in words(html_of("/nodes/"))
    assert "These figures are from" in words(html_of(f"/nodes/{rig.pk}/"))


@pytest.mark.parametrize("action", ["", "load", "rm -rf /", "query"])
def test_it_has_nothing_else_done(client, alice, rig, action):
    client.force_login(alice)
    assert "There is no such command." in post(client, f"/nodes/{rig.pk}/commands/", action=action).content.decode()
    assert not Command.objects.exists()


def test_it_has_nothing_done_where_there_is_no_way(client, alice, rig):
    client.force_login(alice)
    Node.objects.update(base_url="http://192.0.2.1:1")
    answer = post(client, f"/nodes/{rig.pk}/commands/", action="server_stop")
    assert "cannot be managed from here" in answer.content.decode()
    assert not Command.objects.exists()


def test_it_lets_bob_look_and_press_nothing(client, bob, rig):
    client.force_login(bob)
    html = client.get(f"/nodes/{rig.pk}/").content.decode()
    assert "acme/otter" in html
    assert "<button" not in html.split("<main")[1]
    for verb in ("commands", "look", "layout", "profile"):
        assert client.post(f"/nodes/{rig.pk}/{verb}/", {"action": "server_stop"}).status_code == 403
    assert client.get(f"/nodes/{rig.pk}/edit/").status_code == 403
    assert client.get("/nodes/offers/").status_code == 403
    assert not Command.objects.exists()


def test_it_looks_at_once_when_asked(client, alice, rig):
    client.force_login(alice)
    assert "being looked at" in post(client, f"/nodes/{rig.pk}/look/").content.decode()
    assert Node.objects.get().look_wanted_at is not None


# Changing a node


def fields(**changed):
    return {"name": "rig", "base_url": "http://127.0.0.1:9", "kind": "lmstudio"} | changed


def test_it_changes_what_was_changed_and_keeps_the_secrets(client, alice, rig):
    client.force_login(alice)
    key = AgentKey.make().to_text()
    rig.change(token="sk-old", agent_url="https://127.0.0.1:8643", agent_key=key)
    Node.objects.update(state="online")
    path = f"/nodes/{rig.pk}/edit/"
    assert "sk-old" not in client.get(path).content.decode()
    assert key not in client.get(path).content.decode()
    post(client, path, **fields(name="attic", tags="fast, attic, fast", notes="under the roof",
                               agent_url="https://127.0.0.1:8643", starts_with_up="on"))  # fmt: skip
    node = Node.objects.get()
    assert (node.name, node.tags, node.notes, node.starts_with_up) == (
        "attic",
        ["fast", "attic"],
        "under the roof",
        True,
    )
    assert (node.token, node.agent_key, node.state) == ("sk-old", key, "online")
    Reading.of(rig).keep(machine(gpu()))
    post(client, path, **fields(base_url="http://127.0.0.1:10", token="sk-new"))
    node = Node.objects.get()
    assert (node.base_url, node.token, node.state) == ("http://127.0.0.1:10", "sk-new", "unknown")
    assert node.look_wanted_at is not None
    assert not Reading.objects.exists()  # it may be another machine
    post(client, path, **fields(base_url="http://127.0.0.1:10", forget_token="on"))
    assert Node.objects.get().token == ""


def test_it_sends_no_stored_secret_to_another_address(client, alice, rig):
    client.force_login(alice)
    rig.change(token="sk-old", agent_url="http://127.0.0.1:8643", agent_key=KEY)
    path = f"/nodes/{rig.pk}/edit/"
    for changed, field in [
        ({"base_url": "http://192.0.2.1:9", "agent_url": "http://127.0.0.1:8643"}, "token"),
        ({"agent_url": "http://192.0.2.1:8643"}, "agent_key"),
    ]:
        answer = client.post(path, fields(**changed))
        assert [error.code for error in answer.context["form"].errors.as_data()[field]] == ["other_address"]
    assert Node.objects.get().base_url == "http://127.0.0.1:9"
    post(client, path, **fields(base_url="http://192.0.2.1:9", forget_token="on", agent_url="http://localhost:8643"))
    node = Node.objects.get()
    assert (node.base_url, node.token, node.agent_key) == ("http://192.0.2.1:9", "", KEY)


@pytest.mark.parametrize("kind", ["", "lmstudio"])
def test_it_tests_what_is_written_and_saves_nothing(client, alice, kind):
    client.force_login(alice)
    new = {"name": "new", "kind": kind, "base_url": "http://127.0.0.1:9", "test": "1"}
    answer = client.post("/nodes/add/", new)
    assert "Nothing answers" in words(answer.content.decode())
    with CannedServer(sized(JSON_HEAD, b'{"lmstudio": true}')) as server:
        said = words(client.post("/nodes/add/", new | {"base_url": server.url, "token": "sk-x"}).content.decode())
        assert "It answers, as LM Studio. Nothing is saved yet." in said
        assert "again: for safety they are not sent back" in said
        agent = {"agent_url": "http://127.0.0.1:9", "agent_key": KEY}
        answer = client.post("/nodes/add/", new | agent | {"base_url": server.url})
        assert "Nothing answers at the address of its agent." in words(answer.content.decode())
    assert not Node.objects.exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("http://127.0.0.1:1234", "http://localhost:1234"),
        ("http://box", "http://box:80"),
        ("https://box:443/llm", "https://box/llm/"),
        ("http://localhost:1234", "http://[::1]:1234"),
    ],
)
def test_it_refuses_an_address_twice_however_it_is_written(client, alice, old, new):
    Node.objects.create(name="old", base_url=old)
    client.force_login(alice)
    answer = client.post("/nodes/add/", {"name": "new", "kind": "openai", "base_url": new})
    assert [error.code for error in answer.context["form"].errors.as_data()["base_url"]] == ["duplicate"]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"base_url": "http://127.0.0.1:11"}, "base_url"),
        ({"name": "other"}, "name"),
        ({"agent_url": "http://127.0.0.1:8643"}, "agent_key"),
        ({"agent_url": "ftp://x", "agent_key": KEY}, "agent_url"),
        ({"agent_url": "http://127.0.0.1:8643", "agent_key": "no key"}, "agent_key"),
        ({"agent_url": "http://127.0.0.1:8643", "agent_key": KEY_WITH_CERTIFICATE}, "agent_url"),
        ({"agent_url": "http://127.0.0.1:8643/path", "agent_key": KEY}, "agent_url"),
        ({"tags": ", ".join(str(n) for n in range(11))}, "tags"),
        ({"tags": "x" * 31}, "tags"),
    ],
)
def test_it_refuses_what_cannot_be(client, alice, rig, changed, field):
    Node.objects.create(name="other", base_url="http://127.0.0.1:11")
    client.force_login(alice)
    answer = client.post(f"/nodes/{rig.pk}/edit/", fields(**changed))
    assert answer.status_code == 422
    assert list(answer.context["form"].errors) == [field]
    assert Node.objects.get(pk=rig.pk).base_url == "http://127.0.0.1:9"


# Layout


def test_it_keeps_a_profile_for_a_node_and_for_a_model(client, alice, rig):
    client.force_login(alice)
    Reading.of(rig).keep(machine(gpu(), gpu(1)))
    post(client, f"/nodes/{rig.pk}/profile/", model="", strategy="even")
    post(client, f"/nodes/{rig.pk}/profile/", model="acme/otter", strategy="dedicated", gpu_order="1")
    post(
        client,
        f"/nodes/{rig.pk}/profile/",
        model="acme/otter",
        strategy="priority",
        gpu_order="1, 0",
        offload_ratio="0.8",
    )
    assert AllocationProfile.objects.count() == 2
    chosen = AllocationProfile.chosen(rig, "acme/otter")
    assert (chosen.strategy, chosen.gpu_order, chosen.offload_ratio) == ("priority", (1, 0), 0.8)
    assert AllocationProfile.chosen(rig, "acme/heron").strategy == "even"
    said = words(client.get(f"/nodes/{rig.pk}/").content.decode())
    assert "It counts for every load from here" in said
    assert "acme/otter : GPUs are filled in the order 1, 0, 80% of it on GPUs." in said
    post(client, f"/nodes/{rig.pk}/profile/{AllocationProfile.objects.get(model='').pk}/removal/")
    assert AllocationProfile.chosen(rig, "acme/heron").strategy == "automatic"


@pytest.mark.parametrize(
    "data",
    [{"strategy": "dedicated"}, {"strategy": "dedicated", "gpu_order": "7"}, {"strategy": "priority", "gpu_order": "a"},
     {"strategy": "even", "offload_ratio": "1.5"}, {"strategy": "tensor"}, {"strategy": "even", "model": "nobody"}],
)  # fmt: skip
def test_it_refuses_a_profile_that_cannot_be(client, alice, rig, data):
    client.force_login(alice)
    Reading.of(rig).keep(machine(gpu(), gpu(1)))
    assert client.post(f"/nodes/{rig.pk}/profile/", data).status_code == 422
    assert not AllocationProfile.objects.exists()


def test_it_has_a_plan_made_and_a_model_loaded(client, alice, rig):
    client.force_login(alice)
    post(client, f"/nodes/{rig.pk}/layout/", model="acme/otter", context_length="8192")
    post(client, f"/nodes/{rig.pk}/layout/", model="acme/otter", load="1")
    asked = [(command.action, command.parameters) for command in Command.objects.order_by("asked_at")]
    assert asked == [
        ("plan_load", {"model": "acme/otter", "context_length": 8192}),
        ("load_model", {"model": "acme/otter", "only_copy": True}),
    ]
    for data in ({"model": "nobody"}, {"model": "acme/otter", "context_length": "0"}):
        assert client.post(f"/nodes/{rig.pk}/layout/", data).status_code == 422
