"""Verdicts held against the truth: real metadata read from model files, and a daemon that loads them or cannot.

The files are sparse (tests/fleet/sparse_gguf.py); the simulated daemon gets their sizes on disk and the bytes of
cache per token that are known of these models, so nothing of what is tested here comes from forge.fit.
"""

import json
from dataclasses import dataclass

import pytest
import requests

from fleet.allocation.profile import Profile
from fleet.telemetry.readings import Gpu, Machine
from fleet.weights.reading import read
from forge import sizing
from forge.eviction import Resident
from forge.fit.learning import Learned, Load, learn
from forge.fit.room import Memory
from forge.fit.size import Facts, Options, size_of
from forge.fit.verdict import Verdict, fit
from tests.fleet.simulator_fixture import INSTANT, SimulatorProcess
from tests.fleet.sparse_gguf import sparse_model

GIB = 2**30
FITS, TIGHT, TOO_LARGE, UNKNOWN = Verdict
HIDDEN_MB = 900
MODELS = {  # key → metadata, and bytes of cache for a token as f16
    "heron-3b": ({"layers": 28, "embedding": 3072, "heads": 24, "head_length": 128, "feed_forward": 8192}, 114_688),
    "otter-8b": ({}, 131_072),
    "owl-14b": (
        {"architecture": "qwen3", "layers": 40, "embedding": 5120, "heads": 40, "head_length": 128}
        | {"feed_forward": 17_408, "vocabulary": 151_936},
        163_840,
    ),
    "moose-30b-a3b": (
        {"architecture": "qwen3moe", "layers": 48, "embedding": 2048, "kv_heads": 4, "head_length": 128}
        | {"feed_forward": 768, "experts": 128, "vocabulary": 151_936},
        98_304,
    ),
    "tortoise-70b": ({"layers": 80, "embedding": 8192, "heads": 64, "feed_forward": 28_672}, 327_680),
}
CARDS = {"8 GB": (8, 1), "24 GB": (24, 1), "2 × 24 GB": (48, 2)}
CASES = [
    ("8 GB", "heron-3b", 8_192, FITS),
    ("8 GB", "heron-3b", 32_768, FITS),
    ("8 GB", "heron-3b", 65_536, TOO_LARGE),
    ("8 GB", "otter-8b", 8_192, FITS),
    ("8 GB", "otter-8b", 24_576, FITS),
    ("8 GB", "otter-8b", 28_160, TIGHT),
    ("8 GB", "otter-8b", 32_768, TOO_LARGE),
    ("8 GB", "owl-14b", 4_096, TOO_LARGE),
    ("8 GB", "moose-30b-a3b", 4_096, TOO_LARGE),
    ("24 GB", "otter-8b", 131_072, FITS),
    ("24 GB", "owl-14b", 40_960, FITS),
    ("24 GB", "owl-14b", 131_072, TOO_LARGE),
    ("24 GB", "moose-30b-a3b", 32_768, FITS),
    ("24 GB", "moose-30b-a3b", 131_072, TOO_LARGE),
    ("24 GB", "tortoise-70b", 4_096, TOO_LARGE),
    ("2 × 24 GB", "moose-30b-a3b", 131_072, FITS),
    ("2 × 24 GB", "tortoise-70b", 8_192, FITS),
    ("2 × 24 GB", "tortoise-70b", 20_480, FITS),
    ("2 × 24 GB", "tortoise-70b", 28_160, TIGHT),
    ("2 × 24 GB", "tortoise-70b", 40_960, TOO_LARGE),
]


@dataclass
class Node:
    """A simulated daemon with cards of one size, asked as DaemonPulse asks."""

    simulator: SimulatorProcess

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        rows = enumerate(self.simulator.state()["gpus"])
        return tuple(
            Gpu(at, f"Card {at}", memory_total_bytes=row["total_bytes"], memory_free_bytes=row["free_bytes"])
            for at, row in rows
        )

    @property
    def free(self) -> int:
        return sum(gpu.memory_free_bytes for gpu in self.gpus)

    def load(self, model: str, context: int) -> tuple[str, str]:
        """The instance, and what it says when it cannot."""
        body = {"model": model, "context_length": context}
        answer = requests.post(f"{self.simulator.url}/api/v1/models/load", json=body, timeout=10)
        return answer.json().get("instance_id", ""), "" if answer.ok else answer.text

    def unload(self, instance: str) -> None:
        body = {"instance_id": instance}
        requests.post(f"{self.simulator.url}/api/v1/models/unload", json=body, timeout=10).raise_for_status()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {key: sparse_model(folder / f"{key}.gguf", **more)[0] for key, (more, _) in MODELS.items()}


@pytest.fixture(scope="module")
def facts(files):
    """What DaemonPulse knows of each: its size from the daemon, and what its file says."""
    return {key: Facts(path.stat().st_size, read(path), 131_072) for key, path in files.items()}


@pytest.fixture(scope="module")
def node(files, tmp_path_factory):
    """Start simulated daemons by the size of their cards, and such options; each is started once."""
    scenario = tmp_path_factory.mktemp("scenario") / "models.json"
    models = [
        {"key": key, "size_bytes": path.stat().st_size, "kv_bytes_per_token": MODELS[key][1], **INSTANT}
        for key, path in files.items()
    ]
    for model in models:
        model["max_context_length"] = 131_072
    scenario.write_text(json.dumps({"replace": True, "models": models}))
    started = {}

    def start(cards: str, *more: str) -> Node:
        if (cards, more) not in started:
            vram, count = CARDS[cards]
            arguments = ("--scenario", str(scenario), "--vram-gb", str(vram), "--gpus", str(count), *more)
            started[cards, more] = SimulatorProcess().start(*arguments)
        return Node(started[cards, more])

    yield start
    for simulator in started.values():
        simulator.stop()


def test_twenty_verdicts_come_true(facts, node):
    tight = []
    for case in CASES:
        cards, model, context, expected = case
        here = node(cards)
        found = fit(facts[model], Options(context), Memory(here.gpus, 64 * GIB), Profile(), "simulated")
        instance, refusal = here.load(model, context)
        if instance:
            here.unload(instance)
        assert instance or "insufficient memory" in refusal
        assert found.verdict in ((FITS, TIGHT) if instance else (TOO_LARGE, TIGHT)), (case, found.sentences)
        assert found.verdict is expected, (case, found.sentences)
        assert bool(found.missing_bytes) == (expected is TOO_LARGE)
        tight += [(cards, model)] if found.verdict is TIGHT else []
    assert len(CASES) == 20
    assert tight == [("8 GB", "otter-8b"), ("2 × 24 GB", "tortoise-70b")]  # less than a hundredth to spare


def test_the_largest_context_loads_and_a_little_more_does_not(facts, node):
    here = node("8 GB")
    for model in ("heron-3b", "otter-8b"):
        largest = fit(facts[model], Options(4096), Memory(here.gpus, None), Profile(), "simulated").largest_context
        instance, _ = here.load(model, largest)
        here.unload(instance)
        assert here.load(model, largest + 512)[0] == ""  # one step, and the metadata that counts as weights there


def test_what_is_loaded_leaves_less_and_what_goes_gives_it_back(facts, node):
    here = node("24 GB")
    asked = facts["owl-14b"], Options(40_960)
    instance, _ = here.load("moose-30b-a3b", 16_384)
    beside = Memory(here.gpus, None)
    assert fit(*asked, beside, Profile(), "simulated").verdict is TOO_LARGE
    assert here.load("owl-14b", 40_960)[0] == ""
    held = beside.gpus[0].memory_total_bytes - beside.gpus[0].memory_free_bytes
    moose = Resident(instance, "moose-30b-a3b", {0: held}, used_at=0)
    has_room = sizing.has_room(size_of(*asked, "simulated"), Profile(), Machine(0, gpus=here.gpus), [moose], None)
    assert (has_room(frozenset()), has_room(frozenset({instance}))) == (False, True)
    freed = Memory(beside.gpus, None, freed_by_gpu={0: held})
    assert fit(*asked, freed, Profile(), "simulated").verdict is FITS
    here.unload(instance)
    instance, _ = here.load("owl-14b", 40_960)
    here.unload(instance)


def estimated(facts, context, learned=Learned()):  # noqa: B008 (it is immutable)
    return size_of(facts, Options(context), "simulated", learned).total


def loaded(here, facts, model, context, meanwhile=None):
    """Load it as it is measured: what the cards have less afterwards; `meanwhile` another model comes too."""
    before = here.free
    instances = [here.load(model, context)[0], *([here.load(*meanwhile)[0]] if meanwhile else [])]
    measured = before - here.free
    for instance in instances:
        here.unload(instance)
    return Load(estimated(facts, context), measured, context)


@pytest.mark.parametrize("disturbed", [None, 0, 1, 2])
def test_after_three_loads_the_estimate_is_within_3_percent(facts, node, disturbed):
    here, otter = node("24 GB", "--overhead-mb", str(HIDDEN_MB)), facts["otter-8b"]
    loads = [
        loaded(here, otter, "otter-8b", context, ("heron-3b", 8192) if place == disturbed else None)
        for place, context in enumerate((4_096, 32_768, 16_384))
    ]
    before = here.free
    instance, _ = here.load("otter-8b", 60_000)
    taken = before - here.free
    here.unload(instance)
    learned = learn(loads[::-1])
    assert estimated(otter, 60_000) == pytest.approx(taken, rel=0.1)
    assert estimated(otter, 60_000) != pytest.approx(taken, rel=0.03)  # not before it was learned
    assert estimated(otter, 60_000, learned) == pytest.approx(taken, rel=0.03)
    assert learned.bytes == pytest.approx(HIDDEN_MB * 2**20, rel=0.02)


def test_an_overhead_that_was_learned_makes_the_verdict_right(facts, node):
    here, otter = node("24 GB", "--overhead-mb", str(HIDDEN_MB)), facts["otter-8b"]
    learned = learn([loaded(here, otter, "otter-8b", 8_192)] * 3)
    beside, _ = here.load("heron-3b", 8_192)
    asked = otter, Options(124_928), Memory(here.gpus, None), Profile(), "simulated"
    refusal = here.load("otter-8b", 124_928)[1]
    here.unload(beside)
    assert "insufficient memory" in refusal
    assert fit(*asked).verdict is FITS  # so it seems to whoever never loaded it
    assert fit(*asked, learned).verdict is TOO_LARGE
