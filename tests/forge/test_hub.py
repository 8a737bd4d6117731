"""The hub: what is made of its answers and of its silence, and the pages that show it."""

import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.models import Node, Reading
from fleet.telemetry.readings import Gpu, Machine
from forge.hub import client as hub_client
from forge.hub import search as hub
from forge.hub.labels import basis, offers
from forge.hub.place import HubUnavailable
from forge.hub.search import Quantization, quantization_of, quantizations
from tests.forge.hub_fixture import GIB, HERON, OTTER, SHARD_BYTES, Hub, listed

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def stand_in(monkeypatch):
    with Hub() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield made


def crowd(count: int) -> list[dict]:
    return [listed(f"acme/bird-{n:02}", downloads=1000 - n) for n in range(count)]


def ids(results) -> list[str]:
    return [found.id for found in results.models]


# Searching


def test_it_finds_models_by_name_and_format(stand_in):
    found = hub.search("OTTER").models[0]
    assert (found.id, found.author, found.downloads, found.likes) == (OTTER["id"], "acme", 90_000, 10)
    assert found.url == f"{stand_in.url}/acme/Otter-8B-GGUF"
    assert (found.updated.year, found.is_gated) == (2026, False)
    assert ids(hub.search(format="mlx")) == [HERON["id"]]
    assert ids(hub.search("no such bird")) == []


def test_it_sorts_as_asked(stand_in):
    stand_in.repositories = [
        listed("acme/a", downloads=1, likes=3, trendingScore=2),
        listed("acme/b", downloads=2, likes=1, trendingScore=3),
        listed("acme/c", downloads=3, likes=2, trendingScore=1),
    ]
    best = {sort: ids(hub.search(sort=sort))[0] for sort in hub.SORTS}
    assert best == {"downloads": "acme/c", "likes": "acme/a", "trending": "acme/b"}


def test_it_gives_one_page_after_the_other_and_each_model_once(stand_in, monkeypatch):
    monkeypatch.setattr(hub, "PER_PAGE", 4)  # the stand-in gives three at a time
    stand_in.repositories = crowd(10)
    pages = [hub.search(page=number) for number in (1, 2, 3)]
    assert [len(page.models) for page in pages] == [4, 4, 2]
    assert [page.has_more for page in pages] == [True, True, False]
    assert len({id for page in pages for id in ids(page)}) == 10


def test_it_sends_a_token_only_if_there_is_one(stand_in, monkeypatch):
    hub.search()
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    hub.search()
    sent = [headers.get("authorization") for _, headers in stand_in.requests]
    assert sent == [None, "Bearer hf_of_the_test"]


def test_it_asks_for_nothing_else(stand_in, monkeypatch, tmp_path):
    """Left alone, the library fetches a list of programs that may run it, once a process and day."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", stand_in.url)
    monkeypatch.setattr("huggingface_hub.constants.AGENT_HARNESSES_PATH", str(tmp_path / "list"), raising=False)
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", None, raising=False)
    hub.search()
    hub.repository(OTTER["id"])
    assert [path.partition("?")[0] for path, _ in stand_in.requests] == ["/api/models", f"/api/models/{OTTER['id']}"]


def test_it_takes_no_token_elsewhere(stand_in, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    monkeypatch.setattr(hub, "PER_PAGE", 4)
    stand_in.repositories = crowd(10)
    with Hub() as other:
        stand_in.next_host = other.url
        with pytest.raises(HubUnavailable, match="not the hub"):
            hub.search()
        assert other.requests == []


def test_it_leaves_out_what_is_no_repository_and_believes_no_figure(stand_in):
    stand_in.repositories = [
        listed("acme/../../settings"), listed(HOSTILE), listed("../.."),
        listed("acme/odd", author=["x"], downloads=10**30, likes=True, gated="auto", lastModified=None),
    ]  # fmt: skip
    (found,) = hub.search().models
    assert (found.id, found.author, found.downloads, found.likes) == ("acme/odd", "acme", None, None)
    assert found.is_gated and found.updated is None


@pytest.mark.parametrize(
    ("trouble", "words"),
    [(500, "trouble of its own (it answered 500)"), (503, "trouble"), (429, "asked too often"), (401, "HF_TOKEN"),
     (403, "terms"), (404, "does not have this"), (400, "did not accept"), ("garbage", "not the hub"),
     ("odd", "not the hub"), ("slow", "too long"), ("endless", "too long")],
)  # fmt: skip
def test_it_says_at_once_what_is_wrong_with_the_hub(stand_in, monkeypatch, trouble, words):
    stand_in.trouble = trouble
    if words == "too long":
        monkeypatch.setattr(hub_client, "TOTAL_SECONDS", 1.0)
    for ask in (hub.search, lambda: hub.repository(OTTER["id"])):
        began = time.monotonic()
        with pytest.raises(HubUnavailable) as raised:
            ask()
        assert words in str(raised.value)
        assert time.monotonic() - began < 5, "it was tried again and again"
    assert len(stand_in.requests) == 2


def test_it_says_at_once_that_there_is_no_way_to_the_hub(stand_in):
    stand_in.close()
    began = time.monotonic()
    with pytest.raises(HubUnavailable, match="cannot be reached from this server"):
        hub.search()
    assert time.monotonic() - began < 5  # it would be 23 s with the library's own tries


def test_it_reads_no_answer_without_end(stand_in, monkeypatch):
    monkeypatch.setattr(hub_client, "MAX_BYTES", 20_000)
    stand_in.trouble = "endless"
    with pytest.raises(HubUnavailable, match="not the hub"):
        hub.search()


def test_it_keeps_threads_free_for_other_pages(stand_in, monkeypatch):
    monkeypatch.setattr(hub, "WAIT_SECONDS", 0.05)
    for _ in range(hub.MAX_AT_A_TIME):
        hub._places.acquire()
    try:
        with pytest.raises(HubUnavailable, match="by others"):
            hub.search()
    finally:
        hub._places.release(hub.MAX_AT_A_TIME)
    assert ids(hub.search())


def test_it_loads_the_hubs_library_only_to_search():
    script = (
        "import os, sys, django; os.environ['DJANGO_SETTINGS_MODULE'] = 'daemonpulse.settings'; django.setup();"
        "import forge.downloads.urls, forge.downloads.downloader; print('huggingface_hub' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "False"


# What a repository has


def test_it_adds_up_the_shards_and_leaves_out_what_is_no_model(stand_in):
    assert hub.repository(OTTER["id"]).files == (
        Quantization("Q4_K_M", 5 * GIB, 1, "Q4_K_M"),
        Quantization("Q8_0", 9 * GIB, 1, "Q8_0"),
        Quantization("BF16", SHARD_BYTES * 3 // 2, 2, "BF16"),
    )


def test_it_takes_an_mlx_repository_as_one(stand_in):
    assert hub.repository(HERON["id"]).files == (Quantization("4-bit", 3 * GIB, 2),)


def test_it_says_unknown_where_a_size_is_missing():
    told = quantizations("acme/x", {"x-Q4_0-00001-of-00002.gguf": 5, "x-Q4_0-00002-of-00002.gguf": None})
    assert told == (Quantization("Q4_0", None, 2, "Q4_0"),)
    assert quantizations("acme/x", {"README.md": 5}) == ()


@pytest.mark.parametrize("id", ["", "acme", "acme/otter/x", "../..", "acme/..", "acme/a?b", "acme/a b", "äcme/a"])
def test_it_asks_for_no_other_path(stand_in, id):
    with pytest.raises(ValueError, match="owner/name"):
        hub.repository(id)
    assert stand_in.requests == []


@pytest.mark.parametrize(
    ("file", "name"),
    [("Otter-8B-Q4_K_M.gguf", "Q4_K_M"), ("otter.iq3_xxs.gguf", "IQ3_XXS"), ("ggml-model-f16.gguf", "F16"),
     ("UD-Q4_K_XL/o-UD-Q4_K_XL-00001-of-00003.gguf", "UD-Q4_K_XL"), ("Q8_0/o-00001-of-00002.gguf", "Q8_0"),
     ("o-q4_k_m_instruct.gguf", "Q4_K_M"), ("o-MXFP4.gguf", "MXFP4"), ("o-q4_0_4_4.gguf", "Q4_0_4_4"),
     ("Q4-otter-BF16.gguf", "BF16"), ("otter.gguf", ""), ("FAQ4.gguf", "")],
)  # fmt: skip
def test_it_reads_the_quantization_from_a_files_name(file, name):
    assert quantization_of(file) == name


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=40).map(lambda text: f"{text}.gguf"), st.none() | st.integers(0, 2**50)))
def test_it_makes_something_of_any_files(files):
    for one in quantizations("acme/otter", files):
        assert one.files >= 1 and one.name
        assert one.size_bytes is None or one.size_bytes <= sum(size or 0 for size in files.values())


# What fits


@pytest.fixture
def rig(db):
    """A node with one GPU of 24 GiB, of which 12 are free."""
    node = Node.objects.create(name="rig", base_url="http://127.0.0.1:9", state="online")
    gpu = Gpu(0, "NVIDIA RTX", "nvml", memory_total_bytes=24 * GIB, memory_used_bytes=12 * GIB,
              memory_free_bytes=12 * GIB)  # fmt: skip
    Reading.of(node).keep(Machine(time.time(), ram_total_bytes=64 * GIB, ram_used_bytes=4 * GIB, gpus=(gpu,)))
    return node


def verdicts(node, *sizes):
    return [offer.verdict for offer in offers(tuple(Quantization("Q4_0", size, 1) for size in sizes), node)]


def test_it_says_what_fits_on_the_node(rig):
    assert verdicts(rig, 5 * GIB, 40 * GIB, None) == ["fits", "does not fit", "unknown"]
    assert "12.0 GiB of GPU memory. A context is not counted" in basis(rig)


def test_it_judges_a_machine_without_gpus_by_its_ram(rig):
    Reading.of(rig).keep(Machine(time.time(), ram_total_bytes=16 * GIB, ram_used_bytes=4 * GIB))
    rig = Node.objects.get()
    assert verdicts(rig, 5 * GIB, 40 * GIB) == ["fits", "does not fit"]
    assert "12.0 GiB of RAM" in basis(rig)


def test_it_claims_nothing_of_a_node_it_knows_nothing_of(db, rig):
    Reading.objects.all().delete()
    assert verdicts(Node.objects.get(), 5 * GIB) == ["unknown"]
    assert verdicts(None, 5 * GIB) == ["unknown"]


# The pages


@pytest.fixture
def html_of(client, alice, stand_in):
    client.force_login(alice)
    return lambda path, **headers: client.get(f"/models/hub/{path}", headers=headers).content.decode()


def test_the_page_is_there_before_the_hub_was_asked(html_of, stand_in):
    html = html_of("?text=otter&sort=likes")
    assert 'hx-get="/models/hub/results/?text=otter&amp;sort=likes"' in html and "Searching…" in html
    assert stand_in.requests == []


def test_it_shows_the_results_without_scripts_too(html_of):
    for path in ("?text=otter&results=1", "results/?text=otter"):
        html = html_of(path)
        assert OTTER["id"] in html and "90,000" in html
        assert 'rel="noreferrer external"' in html
        assert "/models/hub/acme/Otter-8B-GGUF/" in html


def test_it_pages(html_of, stand_in, monkeypatch):
    monkeypatch.setattr(hub, "PER_PAGE", 4)
    stand_in.repositories = crowd(6)
    assert "?text=bird&amp;format=gguf&amp;sort=downloads&amp;page=2" in html_of("results/?text=bird")
    second = html_of("results/?text=bird&page=2")
    assert "bird-05" in second and "bird-00" not in second and 'rel="next"' not in second


def test_it_says_so_when_nothing_is_found(html_of):
    assert "Nothing in the hub is like that" in html_of("results/?text=xyzzy")


def test_the_rest_works_without_a_way_to_the_hub(html_of, stand_in):
    stand_in.close()
    assert "Searching…" in html_of("")
    for path in ("results/?text=a", "?text=a&results=1", "acme/otter/"):
        html = html_of(path)
        assert "cannot be reached from this server" in html and "Try again" in html


def test_it_offers_what_a_repository_has_to_those_who_may(html_of, rig, client, bob):
    html = html_of(f"{OTTER['id']}/", **{"HX-Request": "true"})
    assert "<html" not in html
    for part in ("Q4_K_M", "5.0 GiB", "in 2 files", "chip-fits", "chip-over", "A context is not counted",
                 'name="source" value="https://huggingface.co/acme/Otter-8B-GGUF"', 'name="quantization" value="Q8_0"',
                 f'name="size_bytes" value="{9 * GIB}"'):  # fmt: skip
        assert part in html, part
    assert "<html" in html_of(f"{OTTER['id']}/")
    client.force_login(bob)
    assert "<form" not in html_of(f"{OTTER['id']}/", **{"HX-Request": "true"})


def test_it_asks_which_node_where_there_are_several(html_of, rig):
    Node.objects.create(name="attic", base_url="http://127.0.0.1:8")
    assert "Choose a node" in html_of(f"{OTTER['id']}/") and "chip-fits" not in html_of(f"{OTTER['id']}/")
    assert "chip-fits" in html_of(f"{OTTER['id']}/?node=rig")


def test_it_shows_hostile_texts_as_texts(html_of, stand_in):
    stand_in.repositories = [listed("acme/x", author=HOSTILE, gated=HOSTILE) | {
        "siblings": [{"rfilename": f"{HOSTILE}-Q4_0.gguf", "size": 5}]}]  # fmt: skip
    assert HOSTILE not in html_of("results/") + html_of("acme/x/") + html_of(f"?text={HOSTILE}&results=1")
    assert "Q4_0" in html_of("acme/x/")


def test_it_knows_no_other_names(client, alice, stand_in):
    client.force_login(alice)
    assert client.get("/models/hub/acme/a%20b/").status_code == 404
    assert stand_in.requests == []


def test_charlie_is_sent_to_sign_in(client, db):
    for path in ("", "results/", "acme/otter/"):
        assert client.get(f"/models/hub/{path}").status_code == 302
