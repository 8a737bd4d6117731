"""Forge's pages: what they say of models, copies and loads, what they cost, and that they live."""

import asyncio
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from daemonpulse.consumers import in_thread
from fleet import attention
from fleet.models import Command, Node, Reading
from fleet.models.command import LOAD, UNLOAD
from fleet.telemetry.readings import Gpu
from forge import listing
from forge.fit.size import Told
from forge.models import Instance, LoadProfile, Measurement, Model, NodePolicy, Origin
from tests.fleet.test_pages import gpu, machine, words
from tests.sockets import Browser, browser, own_tail, signed_in

pytestmark = pytest.mark.django_db
GIB = 2**30
HOSTILE = "<script>alert(1)</script>\"'><img src=x>"
# A plain transformer, as a model's file tells it.
SHAPE = {
    "name": "llama", "layers": 32, "embedding_length": 4096, "heads": 32, "kv_heads": [8] * 32, "key_length": 128,
    "value_length": 128, "key_length_swa": 128, "value_length_swa": 128, "feed_forward_length": 14336,
    "context_length": 131072, "vocabulary": 128256, "weights_bytes": 5 * GIB,
}  # fmt: skip


@pytest.fixture
def rig(db):
    return Node.objects.create(name="rig", base_url="http://127.0.0.1:9", state="online")


def add(node, key, **fields):
    known = {"name": key.rpartition("/")[2].capitalize(), "type": "llm", "loaded": [], "publisher": "acme",
             "architecture_name": "llama", "parameters": "8B", "quantization": "Q4_K_M", "format": "gguf",
             "size_bytes": 5 * GIB, "context_length": 131_072}  # fmt: skip
    return Model.objects.create(node=node, key=key, **known | fields)


@pytest.fixture
def otter(rig):
    return add(rig, "acme/otter-8b", metadata=SHAPE)


def copy_of(model, identifier=None, **fields):
    identifier = identifier or model.key
    model.loaded = [*(model.loaded or []), identifier]
    model.save()
    known = {"origin": Origin.PERSON, "context_length": 8192, "parallel": 4}
    return Instance.objects.create(model=model, identifier=identifier, **known | fields)


@pytest.fixture
def said(client, alice):
    client.force_login(alice)
    return lambda path, **query: words(client.get(path, query).content.decode())


# The list


def test_it_shows_one_row_for_each_key_with_its_nodes(said, rig, otter):
    attic = Node.objects.create(name="attic", base_url="http://127.0.0.1:10", state="offline")
    add(attic, otter.key, quantization="Q8_0")
    add(rig, "acme/heron-3b", vision=True, tools=True, reasoning_options=["off", "low", "high"],
        variants=["acme/heron-3b@q4_k_m", "acme/heron-3b@q8_0"], loaded=["a", "b"])  # fmt: skip
    add(rig, "acme/owl", gone_at=timezone.now())
    load = Command.ask(rig, LOAD, model=otter.key)
    load.claim()
    load.beat(progress=0.42)
    told = said("/models/")
    assert told.count("acme/otter-8b") == 1
    for part in ("Q8_0, Q4_K_M", "attic node offline", "rig loading 42 %", "rig loaded ×2", "vision tools",
                 "reasoning: low, high", "variants: q4_k_m, q8_0", "131,072", "5.0 GiB"):  # fmt: skip
        assert part in told, part
    assert "acme/owl" not in told


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ({"q": "OTTER"}, ["acme/otter"]),
        ({"q": "zoo qwen"}, ["zoo/heron"]),
        ({"node": "attic"}, ["zoo/heron"]),
        ({"state": "loaded"}, ["zoo/heron"]),
        ({"state": "disk"}, ["acme/otter", "acme/reed"]),
        ({"type": "embedding"}, ["acme/reed"]),
        ({"capability": "vision"}, ["zoo/heron"]),
        ({"capability": "reasoning"}, ["acme/otter"]),
        ({"format": "mlx"}, ["zoo/heron"]),
        ({"sort": "size"}, ["zoo/heron", "acme/otter", "acme/reed"]),
        ({"sort": "parameters"}, ["acme/otter", "zoo/heron", "acme/reed"]),
        ({"sort": "loaded"}, ["zoo/heron", "acme/otter", "acme/reed"]),
        ({}, ["acme/otter", "acme/reed", "zoo/heron"]),
        ({"sort": "nonsense", "node": "nobody"}, ["acme/otter", "acme/reed", "zoo/heron"]),
        ({"q": "nothing like it"}, []),
    ],
)
def test_it_searches_filters_and_sorts(client, alice, rig, query, keys):
    attic = Node.objects.create(name="attic", base_url="http://127.0.0.1:10", state="online")
    add(rig, "acme/otter", reasoning_options=["off", "on"], parameters="70B")
    add(attic, "zoo/heron", publisher="zoo", architecture_name="qwen3", name="A heron".replace("A ", "Z"), loaded=["x"],
        vision=True, format="mlx", size_bytes=9 * GIB, parameters="8x7B")  # fmt: skip
    add(rig, "acme/reed", type="embedding", parameters="", size_bytes=GIB, name="Reed")
    client.force_login(alice)
    assert [row.model.key for row in client.get("/models/", query).context["rows"]] == keys


@pytest.mark.parametrize(
    ("told", "count"), [("8B", 8e9), ("8x7B", 56e9), ("26B-A4B", 26e9), ("270M", 270e6), ("", 0), ("many", 0)]
)
def test_it_reads_how_many_parameters_there_are(told, count):
    assert listing.parameter_count(told) == pytest.approx(count)


def test_it_teaches_while_there_is_nothing(said, bob, client, rig):
    assert "Search the hub for one that fits" in said("/models/")
    rig.remove()
    assert "Add the first one" in said("/models/")
    client.force_login(bob)
    assert "Ask whoever looks after DaemonPulse" in said("/models/")


def test_it_asks_the_database_as_often_for_many_models_as_for_few(client, alice, rig):
    client.force_login(alice)

    def queries(path):
        with CaptureQueriesContext(connection) as captured:
            assert client.get(path).status_code == 200
        return len(captured)

    for n in range(3):
        first = copy_of(add(rig, f"acme/otter-{n}", metadata=SHAPE)).model
    paths = ("/models/", f"/models/{first.pk}/", f"/nodes/{rig.pk}/")
    few = [queries(path) for path in paths]
    for n in range(3, 30):
        copy_of(add(rig, f"acme/otter-{n}"))
    assert [queries(path) for path in paths] == few
    assert few[0] <= 8


# One model


def test_it_shows_what_a_copy_is_and_how_long_it_stays(said, otter):
    soon = timezone.now() + timedelta(minutes=5)
    copy_of(otter, bytes_by_gpu={"0": 5 * GIB, "1": GIB}, is_measured=True, ttl_seconds=300, unload_at=soon)
    copy_of(otter, "theirs", origin=Origin.ELSEWHERE, context_length=None, parallel=None)
    copy_of(otter, "jit", origin=Origin.JUST_IN_TIME, told_ttl_seconds=3600, bytes_by_gpu={"0": 5 * GIB})
    told = said(f"/models/{otter.pk}/")
    for part in ("by hand", "8,192 tokens", "Slots 4", "6.0 GiB, measured", f"unloaded at {soon:%H:%M:%S} UTC",
                 "by whom is not known", "Context unknown", "Slots unknown", "Memory unknown", "it stays",
                 "just in time", "5.0 GiB, estimated", "LM Studio lets it go at"):  # fmt: skip
        assert part in told, part


def test_it_says_why_a_copy_cannot_be_ejected(client, alice, otter, monkeypatch):
    from forge import use

    client.force_login(alice)
    copy_of(otter)
    path = f"/models/{otter.pk}/"
    monkeypatch.setattr(use, "of", lambda nodes: {(otter.node_id, otter.key): use.Use(running=2)})
    told = client.get(path).content.decode()
    assert "2 prompts run on it. Eject it when it is idle." in told
    assert "it counts from the end of that" in told
    monkeypatch.setattr(use, "of", lambda nodes: {})
    Instance.objects.update(busy_seen_at=timezone.now())
    assert "It works for somebody else." in words(client.get(path).content.decode())
    Instance.objects.update(busy_seen_at=None)
    assert "Eject it when it is idle" not in client.get(path).content.decode()
    Command.ask(otter.node, UNLOAD, instance=otter.key, model=otter.key)
    assert "It is being unloaded." in client.get(path).content.decode()


def test_it_shows_how_far_a_load_is_and_what_became_of_it(said, rig, otter):
    path = f"/models/{otter.pk}/"
    command = Command.ask(rig, LOAD, model=otter.key)
    assert "Waits for its turn" in said(path)
    command.claim()
    command.beat("Makes room: heron.\n", 0.25)
    told = said(path)
    assert "25 %" in told and "Makes room: heron." in told and "Cancel" in told
    command.beat("Makes room: heron.\nllama_model_load: error loading model\n")
    command.fail("The model could not be loaded.")
    told = said(path)
    assert "The model could not be loaded. llama_model_load: error loading model" in told
    assert "Makes room" not in told
    again = Command.ask(rig, LOAD, model=otter.key)
    again.claim()
    again.finish({"dropped": ["the number of parallel slots"], "sentences": [], "load_seconds": 2.5})
    told = said(path)
    assert "LM Studio could not be told: the number of parallel slots." in told
    assert "could not be loaded" not in told


def test_it_warns_of_what_lm_studio_unloads_by_itself(client, alice, otter):
    client.force_login(alice)
    NodePolicy.note_auto_evict(otter.node, "acme/heron", "acme/otter-8b")
    for path in (f"/models/{otter.pk}/", f"/nodes/{otter.node_id}/"):
        told = words(client.get(path).content.decode())
        assert "It let go of acme/heron for acme/otter-8b" in told
        assert "switch off “Only Keep Last JIT Loaded Model”" in told
    answer = client.post(f"/models/nodes/{otter.node_id}/warning/dismissal/", {"where": otter.pk})
    assert answer["Location"] == f"/models/{otter.pk}/"
    assert "It let go of" not in client.get(f"/models/{otter.pk}/").content.decode()


def test_it_says_that_a_model_is_gone_and_offers_no_load(said, otter):
    Model.objects.update(gone_at=timezone.now())
    told = said(f"/models/{otter.pk}/")
    assert "It was on this node’s disk until" in told
    assert "Load it" not in told


def test_it_explains_that_another_kind_of_server_loads_nothing(said, otter):
    Node.objects.update(kind="openai")
    Model.objects.update(loaded=None)
    told = said(f"/models/{otter.pk}/")
    assert "which has no call for loading and unloading" in told
    assert "does not tell what is loaded" in told
    assert "Does it fit?" not in told


def test_it_links_to_the_same_model_elsewhere(client, alice, otter):
    client.force_login(alice)
    attic = Node.objects.create(name="attic", base_url="http://127.0.0.1:10", state="online")
    there = add(attic, otter.key, loaded=["x"])
    html = client.get(f"/models/{otter.pk}/").content.decode()
    assert f'<a href="/models/{there.pk}/">attic</a> <span class="chip chip-online">loaded</span>' in html


@pytest.mark.parametrize("path", ["/models/", "/models/{pk}/", "/nodes/{node}/", "/models/{pk}/fit/"])
def test_it_escapes_what_a_node_calls_its_models(client, alice, rig, path):
    client.force_login(alice)
    model = add(rig, HOSTILE, name=HOSTILE, publisher=HOSTILE, architecture_name=HOSTILE, parameters=HOSTILE[:40],
                quantization=HOSTILE[:40], selected_variant=HOSTILE, variants=[HOSTILE, "b"], metadata_problem=HOSTILE,
                reasoning_options=[HOSTILE])  # fmt: skip
    copy_of(model, HOSTILE)
    html = client.get(path.format(pk=model.pk, node=rig.pk)).content.decode()
    assert "<script>alert" not in html
    assert "<img src=x>" not in html


# The fit


def test_it_judges_a_load_while_somebody_types(said, otter):
    Reading.of(otter.node).keep(machine(gpu(memory_used_bytes=16 * GIB, memory_free_bytes=8 * GIB)))
    path = f"/models/{otter.pk}/fit/"
    told = said(path, context_length=4096)
    assert "Does it fit? fits" in told
    assert "Weights 5.0 GiB Context 512 MiB" in told
    assert "8.0 GiB free" in told
    told = said(path, context_length=131072)
    assert "does not fit" in told and "Load anyway" in told
    assert "are missing" in told and "The largest context that fits:" in told and "Use " in told


def test_it_tells_what_would_go_first_and_what_is_in_the_way(said, rig, otter):
    Reading.of(rig).keep(machine(gpu(memory_used_bytes=20 * GIB, memory_free_bytes=4 * GIB)))
    heron = add(rig, "acme/heron-3b", metadata=SHAPE)
    there = copy_of(heron, bytes_by_gpu={"0": 15 * GIB}, used_at=timezone.now() - timedelta(minutes=4))
    path = f"/models/{otter.pk}/fit/"
    told = said(path, context_length=4096)
    assert "Unloads acme/heron-3b first: idle for" in told
    assert "19.0 GiB free then" in told
    LoadProfile.choose(heron, is_pinned=True)
    told = said(path, context_length=4096)
    assert "acme/heron-3b is pinned." in told
    assert "does not fit" in told
    LoadProfile.choose(heron, is_pinned=False)
    there.touch(timezone.now(), seen_busy=True)
    assert "acme/heron-3b is at work." in said(path, context_length=4096)


def test_it_tells_what_earlier_loads_taught(said, rig, otter):
    Reading.of(rig).keep(machine(gpu(memory_used_bytes=0, memory_free_bytes=24 * GIB)))
    for _ in range(2):
        Measurement.keep(key=otter.key, quantization="Q4_K_M", backend="cuda", source="file", node=rig,
                         estimated_bytes=6 * GIB, measured_bytes=6 * GIB + 300 * 2**20)  # fmt: skip
    assert "Learned from 2 loads +300 MiB" in said(f"/models/{otter.pk}/fit/")


def test_it_shows_each_gpus_part_and_how_old_the_reading_is(said, rig, otter):
    cards = (gpu(memory_used_bytes=14 * GIB, memory_free_bytes=10 * GIB),
             gpu(1, memory_used_bytes=14 * GIB, memory_free_bytes=10 * GIB))  # fmt: skip
    reading = Reading.of(rig)
    reading.keep(machine(*cards))
    Reading.objects.update(read_at=timezone.now() - timedelta(minutes=3), problem="The agent is away.")
    told = said(f"/models/{otter.pk}/fit/")
    assert "GPU 0" in told and "GPU 1" in told and "planned" in told
    assert "ago: that is old. The agent is away." in told


def test_it_calls_unknown_what_it_cannot_know(said, rig):
    model = add(rig, "acme/puzzle", size_bytes=None)
    told = said(f"/models/{model.pk}/")
    assert "Does it fit? unknown" in told
    assert "What it needs is unknown" in told
    assert "How much memory is free there is not known" in told
    assert "None" not in told.replace("None. A prompt", "")


def test_it_shows_lm_studios_own_estimate(said, otter, monkeypatch):
    path = f"/models/{otter.pk}/estimate/"
    asked = []
    answers = iter([Told(5 * GIB, GIB, 6 * GIB, "low", False), None])

    def estimate(wish, machine):
        asked.append(wish.options["context_length"])
        return next(answers)

    monkeypatch.setattr("forge.loading.estimate", estimate)
    told = said(path, context_length=2048)
    for part in ("6.0 GiB", "Confidence low", "are against it", "does not see memory that other programs hold"):
        assert part in told, part
    assert asked == [2048]
    assert "It could not be asked" in said(path)


# Sockets


def play(scene) -> None:
    attention._attention = None
    with own_tail():
        asyncio.run(scene())


live = pytest.mark.django_db(transaction=True)


@live
def test_it_refuses_charlie_and_knows_no_other_model(alice):
    async def scene():
        assert await Browser("/ws/models/").refused() == (4401, "")
        assert await Browser("/ws/models/1/").refused() == (4401, "")
        code, heard = await Browser("/ws/models/999/", await in_thread(signed_in)(alice)).refused()
        assert code == 4404
        assert "Its node was removed" in heard

    play(scene)


@live
def test_it_sends_the_row_that_changed_and_keeps_to_the_filter(alice, rig):
    otter, heron = add(rig, "acme/otter"), add(rig, "acme/heron")

    async def scene():
        async with browser("/ws/models/?q=otter", alice) as page:
            assert "acme/heron" not in await page.hears()
            await in_thread(Command.ask)(rig, LOAD, model=heron.key)
            await in_thread(Command.ask)(rig, LOAD, model=otter.key)
            html = await page.hears_until("loading")
            assert f'id="row-{otter.pk}"' in html
            assert 'id="models"' not in html
        assert await in_thread(lambda: Node.objects.get().watched_until > timezone.now())()

    play(scene)


@live
def test_it_shows_a_load_as_it_goes_and_asks_for_another_fit(alice, bob, rig, otter):
    path = f"/ws/models/{otter.pk}/"

    async def scene():
        async with browser(path, alice) as page:
            before = await page.hears_until('id="fit-news"')
            command = await in_thread(Command.ask)(rig, LOAD, model=otter.key)
            await in_thread(command.claim)()
            await in_thread(command.beat)(None, 0.5)
            html = await page.hears_until('value="0.500"')
            assert 'id="model-now"' in html
            await in_thread(copy_of)(otter)
            await in_thread(command.finish)({})
            assert "by hand" in await page.hears_until('id="model-copies"')
            assert "Load another copy" in await page.hears_until('id="model-actions"')
            assert await page.hears_until('id="fit-news"') != before
        async with browser(path, bob) as page:
            assert "<button" not in await page.hears_until('id="model-copies"')

    play(scene)


@pytest.mark.parametrize(
    "card",
    [
        Gpu(0, "AMD Radeon RX 7900 XTX", "survey", memory_total_bytes=24 * GIB),
        Gpu(0, "Apple M3 Max", "survey", memory_total_bytes=48 * GIB, is_integrated=True),
        Gpu(0, "", "survey"),
    ],
    ids=["amd", "apple", "unnamed"],
)
def test_it_judges_nothing_but_says_so_where_no_free_memory_is_told(said, otter, card):
    Reading.of(otter.node).keep(machine(card))
    told = said(f"/models/{otter.pk}/")
    assert "Does it fit? unknown" in told
    assert "How much is free on GPU 0 is not known." in told
    assert "make room" not in told
    assert "acme/otter-8b" in said("/models/")
