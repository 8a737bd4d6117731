"""Will a model fit: sizes, verdicts and sentences. Pure; sizes in the tests are GiB."""

import dataclasses
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.allocation.planner import RAM_RESERVE_BYTES, RESERVE_BYTES
from fleet.allocation.profile import Profile, Strategy
from fleet.telemetry.readings import Gpu
from fleet.weights.architecture import Architecture
from fleet.weights.cache import cache_bytes, scratch_bytes
from forge.fit.learning import Learned, Load, learn
from forge.fit.room import RAM, Memory
from forge.fit.size import BACKEND_BYTES, UNREAD_SCRATCH_BYTES, Facts, Options, Told, size_of
from forge.fit.verdict import Verdict, fit

GIB = 2**30
FITS, TIGHT, TOO_LARGE, UNKNOWN = Verdict
AUTOMATIC, PRIORITY, EVEN, DEDICATED = Strategy
OTTER = Architecture(
    name="llama",
    layers=32,
    embedding_length=4096,
    heads=32,
    kv_heads=(8,) * 32,
    key_length=128,
    value_length=128,
    key_length_swa=128,
    value_length_swa=128,
    feed_forward_length=14_336,
    context_length=131_072,
    vocabulary=128_256,
    weights_bytes=4_920_000_000,
)
OF_FILE = Facts(4_930_000_000, OTTER, 131_072)
OVERHEAD = (BACKEND_BYTES["cuda"] + UNREAD_SCRATCH_BYTES) / GIB  # of a model whose file was not read
RESERVE, RAM_RESERVE = RESERVE_BYTES / GIB, RAM_RESERVE_BYTES / GIB


def gib(count):
    return round(count * GIB)


def gpu(index, free, total=80, **more):
    free = None if free is None else gib(free)
    return Gpu(index, f"Card {index}", memory_total_bytes=gib(total), memory_free_bytes=free, **more)


def memory(*free, ram=64, **more):
    return Memory(tuple(gpu(index, one) for index, one in enumerate(free)), None if ram is None else gib(ram), **more)


def told(weights, context=0.0, **more):
    return Told(gib(weights), None if context is None else gib(context), **more)


def judged(weights, place, profile=None, context=0.0, backend="cuda", **more):
    """The verdict on so many GiB of weights and context, as LM Studio estimates them."""
    options = Options(context_length=8192, **more.pop("options", {}))
    estimate = told(weights, context, **more)
    return fit(Facts(), options, place, profile or Profile(), backend, told=estimate)


# Sizes


def test_it_believes_the_file_before_the_estimate_and_that_before_the_disk():
    estimate = told(5)
    assert size_of(OF_FILE, Options(), "cuda", told=estimate).weights == 4_920_000_000
    assert size_of(Facts(4_930_000_000), Options(), "cuda", told=estimate).weights == gib(5)
    of_disk = size_of(Facts(4_930_000_000), Options(), "cuda")
    assert (of_disk.weights, of_disk.source, of_disk.is_complete) == (4_930_000_000, "its size on disk", False)
    nothing = size_of(Facts(), Options(), "cuda")
    assert (nothing.weights, nothing.total, nothing.source) == (None, None, "")


def test_it_counts_the_context_that_is_asked_for():
    asked = Options(context_length=16_384, parallel=2, key_type="q8_0", value_type="q8_0")
    size = size_of(OF_FILE, asked, "cuda", told=told(1, 1))
    assert size.context == cache_bytes(OTTER, 16_384, 2, "q8_0", "q8_0")
    assert size.context_length == 16_384
    assert size.overhead == BACKEND_BYTES["cuda"] + scratch_bytes(OTTER, 16_384, True, 512)
    assert size.total == size.weights + size.context + size.overhead


def test_without_one_it_counts_what_the_daemon_is_thought_to_take():
    assert size_of(OF_FILE, Options(), "cuda", default_context=8192).context == cache_bytes(OTTER, 8192, 4)
    short = Facts(None, OTTER, max_context=2048)
    assert size_of(short, Options(), "cuda", default_context=8192).context_length == 2048
    assert "4,096 tokens are assumed." in said(fit(OF_FILE, Options(), memory(24), Profile(), "cuda"))


def test_attention_without_flash_and_a_smaller_batch_change_the_work_buffers():
    plain = Options(context_length=32_768)
    slow = Options(context_length=32_768, flash_attention=False)
    small = Options(context_length=32_768, eval_batch_size=64)
    plain, slow, small = (size_of(OF_FILE, options, "cuda").overhead for options in (plain, slow, small))
    assert small < plain < slow


def test_a_simulated_daemon_has_no_overhead_and_an_unknown_engine_the_largest():
    assert size_of(OF_FILE, Options(), "simulated").overhead == 0
    assert BACKEND_BYTES[""] == max(BACKEND_BYTES.values())
    assert size_of(OF_FILE, Options(), "").overhead == size_of(OF_FILE, Options(), "never heard of").overhead


# Verdicts

EDGES = [  # free GiB on the one GPU beyond weights, context and overhead → verdict
    (RESERVE, FITS),
    (RESERVE - 0.01, TIGHT),
    (0, TIGHT),
    (-0.01, TOO_LARGE),
]


@pytest.mark.parametrize(("spare", "verdict"), EDGES)
def test_it_fits_with_the_reserve_and_is_tight_without(spare, verdict):
    found = judged(8, memory(10 + OVERHEAD + spare), context=2)
    assert found.verdict is verdict
    assert found.missing_bytes == (pytest.approx(gib(RESERVE - spare), abs=4) if verdict is TOO_LARGE else 0)


CASES = {
    # two GPUs, LM Studio splits: as one heap and in equal parts, less a layer on the second
    "both hold half": ((8, (8, 8)), {}, FITS),
    "equal parts do not fit": ((8, (9, 3)), {}, TIGHT),
    "as one heap it does not fit": ((16, (8, 8)), {}, TOO_LARGE),
    "only by filling both to the last byte": ((10, (5.5, 5.5)), {}, TIGHT),
    # the profile's wish
    "in order, the first takes it all": ((8, (10, 1)), {"profile": Profile(PRIORITY, (0, 1))}, FITS),
    "in order, over both": ((14, (10, 8)), {"profile": Profile(PRIORITY, (0, 1))}, FITS),
    "in order, the first alone named": ((14, (10, 80)), {"profile": Profile(PRIORITY, (0,))}, TOO_LARGE),
    "evenly": ((8, (6, 6)), {"profile": Profile(EVEN, (0, 1))}, FITS),
    "evenly, but one is too full": ((8, (40, 3.9)), {"profile": Profile(EVEN, (0, 1))}, TOO_LARGE),
    "alone on one": ((8, (2, 10)), {"profile": Profile(DEDICATED, (1,))}, FITS),
    "alone on the wrong one": ((8, (2, 10)), {"profile": Profile(DEDICATED, (0,))}, TOO_LARGE),
    "on one that is gone": ((8, (40,)), {"profile": Profile(DEDICATED, (3,))}, TOO_LARGE),
    "half of it on the GPU": ((16, (10,)), {"profile": Profile(offload_ratio=0.5)}, FITS),
    "nothing on the GPU": ((16, (1,)), {"profile": Profile(offload_ratio=0)}, FITS),
    "nothing on the GPU, too much for the rest": ((70, (1,)), {"profile": Profile(offload_ratio=0)}, TOO_LARGE),
    # the context outside
    "a context beside the GPU": ((8, (10,)), {"context": 20, "options": {"offload_kv_cache_to_gpu": False}}, FITS),
    "too much of it": ((8, (10,)), {"context": 70, "options": {"offload_kv_cache_to_gpu": False}}, TOO_LARGE),
    # no GPU
    "on the processor": ((8, ()), {"backend": "cpu"}, FITS),
    "just on the processor": ((63, ()), {"backend": "cpu"}, TIGHT),
    "too large for the processor": ((70, ()), {"backend": "cpu"}, TOO_LARGE),
    # what is in doubt
    "LM Studio is not sure": ((8, (40,)), {"confidence": "low"}, TIGHT),
    "LM Studio would not let it": ((8, (40,)), {"passes_guardrails": False}, TIGHT),
    "LM Studio is sure": ((8, (40,)), {"confidence": "high", "passes_guardrails": True}, FITS),
    # what is not known
    "a GPU's memory": ((8, (None,)), {}, UNKNOWN),
    "one of two": ((8, (40, None)), {}, UNKNOWN),
    "more than an empty GPU has": ((90, (None,)), {}, TOO_LARGE),
    "the context": ((8, (40,)), {"context": None}, UNKNOWN),
    "not even the weights fit": ((50, (40,)), {"context": None}, TOO_LARGE),
    "the GPUs of an engine for GPUs": ((8, ()), {}, UNKNOWN),
}


@pytest.mark.parametrize("name", CASES)
def test_it_judges(name):
    (weights, free), more, verdict = CASES[name]
    found = judged(weights, memory(*free), **more)
    assert found.verdict is verdict, found.sentences
    assert found.plan.fits is None or verdict is not UNKNOWN


def test_it_knows_nothing_without_the_size_of_the_weights():
    found = fit(Facts(), Options(), memory(80), Profile(), "cuda")
    assert (found.verdict, found.free_bytes, found.plan.shares) == (UNKNOWN, 80 * GIB, ())
    assert said(found) == "How large the model is, is not known. 80.0 GiB are free."


def test_ram_that_is_not_known_leaves_it_unknown_only_where_it_matters():
    assert judged(8, memory(ram=None), backend="cpu").verdict is UNKNOWN
    beside = {"offload_kv_cache_to_gpu": False}
    assert judged(8, memory(40, ram=None), context=2, options=beside).verdict is UNKNOWN
    assert judged(8, memory(40, ram=None), context=2).verdict is FITS


def test_what_would_be_evicted_first_counts_as_free():
    beside = memory(4, 4, freed_by_gpu={0: gib(8)})
    found = judged(8, beside, Profile(DEDICATED, (0,)))
    assert (found.verdict, found.free_bytes) == (FITS, gib(12))
    assert "12.0 GiB are free on GPU 0 once 8.0 GiB of other models are unloaded." in found.sentences
    assert judged(8, beside, Profile(DEDICATED, (1,))).verdict is TOO_LARGE
    on_cpu = Memory((), gib(4), {RAM: gib(8)})
    assert judged(8, on_cpu, backend="cpu").verdict is FITS


def test_a_budget_is_never_exceeded():
    assert judged(8, memory(40, budget_left_bytes=gib(8.8))).verdict is FITS
    over = judged(8, memory(40, budget_left_bytes=gib(8)))
    assert (over.verdict, over.missing_bytes) == (TOO_LARGE, gib(OVERHEAD))
    assert "8.0 GiB are left of what this node's models may hold." in over.sentences
    assert judged(8, memory(budget_left_bytes=gib(8)), backend="cpu").verdict is TOO_LARGE


def test_an_integrated_gpu_counts_only_where_there_is_no_other():
    pair = (gpu(0, 6), gpu(1, 40, is_integrated=True))
    assert judged(8, Memory(pair, gib(64))).verdict is TOO_LARGE
    assert judged(8, Memory(pair[1:], gib(64))).verdict is FITS
    assert judged(8, Memory(pair, gib(64)), Profile(DEDICATED, (1,))).verdict is FITS


def test_simulated_cards_keep_a_hundredth_and_pay_no_overhead():
    assert judged(9.9, memory(10), backend="simulated").verdict is FITS
    assert judged(9.95, memory(10), backend="simulated").verdict is TIGHT
    assert judged(10.1, memory(10), backend="simulated").verdict is TOO_LARGE


def test_a_model_over_two_gpus_may_leave_room_that_is_less_than_a_layer():
    size = size_of(OF_FILE, Options(8192), "cuda")
    layer = (size.weights + size.context) // OTTER.layers
    needed = size.total + size.overhead + 2 * RESERVE_BYTES + layer
    wish = Profile(PRIORITY, (0, 1))
    for spare, verdict in ((0, FITS), (-1, TIGHT)):
        place = memory(4, (needed + spare) / GIB - 4)
        assert fit(OF_FILE, Options(8192), place, wish, "cuda").verdict is verdict


def test_what_is_tight_is_still_laid_out_on_the_gpu():
    found = judged(8, memory(8.1 + OVERHEAD), context=0)
    assert found.verdict is TIGHT
    assert (found.plan.shares[0].bytes_planned, found.plan.system_bytes) == (gib(8 + OVERHEAD), 0)
    assert "It leaves less than should stay free: 512 MiB on each GPU for the driver and buffers." in found.sentences


def test_the_shares_hold_the_overhead_and_add_up():
    found = judged(14, memory(10, 9), Profile(PRIORITY, (0, 1)), context=1)
    shares = found.plan.shares
    assert [share.free_before for share in shares] == [gib(10), gib(9)]
    assert [share.free_before - share.bytes_planned for share in shares] == [share.free_after for share in shares]
    assert sum(share.bytes_planned for share in shares) == pytest.approx(gib(15 + 2 * OVERHEAD), abs=4)
    assert shares[0].free_after == RESERVE_BYTES


def test_a_gpu_that_would_be_too_small_when_empty_is_enough_to_say_no():
    found = judged(90, memory(None))
    assert found.verdict is TOO_LARGE
    assert "Even with nothing else in it, the GPUs' memory would be too small." in found.sentences


def test_what_finds_no_room_is_said_to_go_into_memory():
    found = judged(20, memory(16 + OVERHEAD + RESERVE))
    assert (found.verdict, found.missing_bytes, found.plan.system_bytes) == (TOO_LARGE, gib(4), gib(4))
    assert "4.0 GiB are missing, with 512 MiB kept free on each GPU." in found.sentences
    spill = "4.0 GiB would go into the machine's memory and run on the processor, which is slower."
    assert spill in found.sentences
    full = judged(20, memory(16 + OVERHEAD + RESERVE, ram=3))
    assert full.sentences[-1] == ("The machine's memory has 3.0 GiB free, 1.0 GiB of it should stay free: too little.")
    strict = judged(20, memory(16), Profile(strict_vram_limit=True))
    assert (strict.verdict, strict.plan.system_bytes) == (TOO_LARGE, 0)
    assert "processor" not in said(strict)


def test_it_says_what_it_needs_and_what_is_free():
    found = judged(4.6, memory(21.4), context=2)
    assert found.sentences == (
        "Needs 7.3 GiB: 4.6 GiB weights by LM Studio's estimate, 2.0 GiB for a context of 8,192 tokens, "
        "704 MiB overhead.",
        "21.4 GiB are free.",
    )
    learned = fit(OF_FILE, Options(8192), memory(8, 8), Profile(), "cuda", Learned(-gib(0.25), 3))
    assert "minus 256 MiB learned from the last 3 loads." in learned.sentences[0]
    assert learned.sentences[1] == "16.0 GiB are free on GPU 0 and GPU 1."


def said(found):
    return " ".join(found.sentences)


# The largest context


@pytest.mark.parametrize("free", [4, 5.5, 8, 12.3, 20, 40])
@pytest.mark.parametrize("backend", ["cuda", "simulated"])
def test_the_largest_context_fits_and_one_step_more_does_not(free, backend):
    place = memory(free)
    largest = fit(OF_FILE, Options(8192), place, Profile(), backend).largest_context
    assert largest % 256 == 0
    for tokens, may_fit in ((largest, True), (largest + 256, False)):
        if 0 < tokens <= 131_072:
            found = fit(OF_FILE, Options(tokens), place, Profile(), backend)
            assert (found.verdict in (FITS, TIGHT)) is may_fit
    assert (largest == 0) == (free == 4)
    assert (largest == 131_072) == (free == 40)


def test_the_largest_context_ends_where_the_model_does():
    short = Facts(None, OTTER, max_context=5000)
    found = fit(short, Options(2048), memory(40), Profile(), "cuda")
    assert found.largest_context == 5000
    assert found.sentences[-1] == "The largest context that fits: 5,000 tokens."


def test_the_largest_context_is_unknown_where_the_fit_is():
    assert fit(OF_FILE, Options(2048), memory(None), Profile(), "cuda").largest_context is None
    assert judged(8, memory(40)).largest_context is None  # how a context grows is not known


def test_what_was_learned_moves_the_largest_context():
    def largest(learned):
        return fit(OF_FILE, Options(2048), memory(12), Profile(), "simulated", learned).largest_context

    assert largest(Learned()) - largest(Learned(GIB, 3)) == 8192  # 128 KiB a token
    assert fit(OF_FILE, Options(2048), memory(5.7), Profile(), "cuda", Learned(2 * GIB, 3)).verdict is TOO_LARGE


# Always


@st.composite
def loads(draw):
    free = draw(st.lists(st.one_of(st.none(), st.floats(0, 40)), max_size=4))
    strategy = draw(st.sampled_from(Strategy))
    order = tuple(draw(st.permutations(range(len(free)))))[: draw(st.integers(0, 4))]
    ratio = draw(st.one_of(st.none(), st.sampled_from([0.0, 0.3, 1.0])))
    profile = Profile(strategy, () if strategy is AUTOMATIC else order, ratio, draw(st.booleans()))
    place = memory(*free, ram=draw(st.one_of(st.none(), st.floats(0, 64))))
    options = Options(draw(st.integers(1, 131_072)), offload_kv_cache_to_gpu=draw(st.booleans()))
    backend = draw(st.sampled_from(sorted(BACKEND_BYTES)))
    return OF_FILE, options, place, profile, backend, Learned(draw(st.integers(-GIB, GIB)), 3)


@settings(max_examples=60)
@given(loads(), st.integers(0, 20))
def test_more_memory_never_makes_it_worse(load, more):
    facts, options, place, profile, backend, learned = load
    order = (TOO_LARGE, TIGHT, FITS)
    grown = tuple(
        one if one.memory_free_bytes is None else gpu(one.index, one.memory_free_bytes / GIB + more, total=120)
        for one in place.gpus
    )
    before = fit(facts, options, place, profile, backend, learned)
    after = fit(facts, options, Memory(grown, place.ram_free_bytes), profile, backend, learned)
    if UNKNOWN not in (before.verdict, after.verdict):
        assert order.index(after.verdict) >= order.index(before.verdict)
        assert (after.largest_context or 0) >= (before.largest_context or 0)
    assert before.verdict is UNKNOWN or before.missing_bytes >= 0
    assert (before.missing_bytes == 0) or before.verdict is TOO_LARGE


@settings(max_examples=60)
@given(loads())
def test_what_fits_leaves_the_reserve_on_every_gpu_in_use(load):
    found = fit(*load)
    if found.verdict is FITS:
        for share in found.plan.shares:
            assert share.free_before is not None or not share.bytes_planned
            kept = 0 if load[4] == "simulated" else RESERVE_BYTES
            assert not share.bytes_planned or share.free_after >= kept


def test_it_is_quick_enough_for_every_key_press():
    large = Facts(None, dataclasses.replace(OTTER, layers=80, kv_heads=(8,) * 80), 131_072)

    def seconds(tokens):
        began = time.perf_counter()
        assert fit(large, Options(tokens), memory(6, 6), Profile(), "cuda").largest_context
        return time.perf_counter() - began

    assert min(seconds(100_000 + typed) for typed in range(30)) < 0.003


def test_a_last_load_that_took_far_more_is_left_out_and_named_as_a_doubt():
    odd = learn([Load(5 * GIB, 12 * GIB), Load(5 * GIB, 5 * GIB)])
    assert (odd.bytes, odd.count, odd.is_in_doubt) == (0, 1, True)
    assert not learn([Load(5 * GIB, 5 * GIB), Load(5 * GIB, 12 * GIB)]).is_in_doubt
    memory = Memory((Gpu(0, "GPU", memory_total_bytes=24 * GIB, memory_free_bytes=24 * GIB),), 64 * GIB)
    judged = fit(Facts(size_bytes=5 * GIB), Options(4096), memory, Profile(), "simulated", odd, Told(context_bytes=GIB))
    assert judged.verdict is Verdict.TIGHT
    assert any("more than twice" in sentence for sentence in judged.sentences)
