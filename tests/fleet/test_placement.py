"""Where a load went, against what was wished: figures in, sentences out."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.allocation.placement import Growth, growth, verdict
from fleet.allocation.planner import RESERVE_BYTES, Need, plan
from fleet.allocation.profile import Profile, Strategy
from fleet.telemetry.readings import Gpu, Machine

GIB = 2**30
PRIORITY, EVEN, DEDICATED = Strategy.PRIORITY, Strategy.EVEN, Strategy.DEDICATED


def machine(*gpus):
    return Machine(at=1.0, gpus=gpus)


def card(index, used=None, uuid="", **more):
    return Gpu(index, f"Card {index}", uuid=uuid, memory_used_bytes=used, **more)


def grown(*gib):
    return [Growth(index, f"Card {index}", None if size is None else int(size * GIB)) for index, size in enumerate(gib)]


def planned(gib, profile, rooms=(20, 20)):
    gpus = [Gpu(index, "", memory_free_bytes=room * GIB + RESERVE_BYTES) for index, room in enumerate(rooms)]
    return plan(Need(int(gib * GIB), 0), gpus, 100 * GIB, profile)


def judged(gib, profile, *sizes, rooms=(20, 20)):
    return verdict(profile, planned(gib, profile, rooms), grown(*sizes))


# Growth


def test_it_measures_the_growth_of_each_gpu():
    before = machine(card(0, GIB, "a"), card(1, 2 * GIB, "b"))
    after = machine(card(0, 4 * GIB, "a"), card(1, 2 * GIB, "b"))
    assert [(one.gpu_index, one.bytes) for one in growth(before, after)] == [(0, 3 * GIB), (1, 0)]


def test_a_gpu_is_known_again_by_its_uuid_whatever_its_number():
    before = machine(card(0, GIB, "a"), card(1, 2 * GIB, "b"))
    after = machine(card(0, 5 * GIB, "b"), card(1, GIB, "a"))
    assert [(one.gpu_index, one.bytes) for one in growth(before, after)] == [(0, 3 * GIB), (1, 0)]


def test_a_gpu_without_a_uuid_is_known_again_by_its_number():
    before, after = machine(card(0, GIB), card(1, 0)), machine(card(1, 5), card(0, GIB, "a"))
    assert [one.bytes for one in growth(before, after)] == [0, 5]
    # Two uuids that differ are two cards, even in the same slot.
    swapped = growth(machine(card(0, GIB, "a")), machine(card(0, GIB, "b")))
    assert [(one.bytes, one.is_gone) for one in swapped] == [(None, True), (None, False)]


def test_what_is_not_told_is_not_known_and_a_lost_gpu_is_gone():
    before = machine(card(0, GIB, "a"), card(1, GIB, "b"), card(2, None, "c"))
    after = machine(card(0, None, "a"), card(2, GIB, "c"))
    assert [(one.bytes, one.is_gone) for one in growth(before, after)] == [(None, False), (None, True), (None, False)]


def test_used_memory_follows_from_total_and_free():
    before = machine(card(0, None, "a", memory_total_bytes=8 * GIB, memory_free_bytes=7 * GIB))
    assert growth(before, machine(card(0, 3 * GIB, "a")))[0].bytes == 2 * GIB


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(0, 9)), max_size=4), st.randoms())
def test_an_unchanged_machine_has_not_grown(rows, random):
    gpus = [card(index, used, uuid and f"{uuid}{index}") for index, (uuid, used) in enumerate(rows)]
    shuffled = random.sample(gpus, len(gpus))
    assert [one.bytes for one in growth(machine(*gpus), machine(*shuffled))] == [0] * len(gpus)


# Verdicts


def test_a_pin_that_was_not_kept_is_told_with_its_figures():
    placement = judged(6, Profile(DEDICATED, (1,)), 3.1, 2.9)
    assert placement.is_kept is False
    assert placement.sentences == ("Asked for GPU 1 alone; 3.1 GiB went to GPU 0.",)


def test_a_pin_that_was_kept_is_told_too():
    placement = judged(6, Profile(DEDICATED, (1,)), 0.3, 6.1)  # 0.3 GiB: a driver's context
    assert (placement.is_kept, placement.sentences) == (True, ("Asked for GPU 1 alone; 6.1 GiB went to GPU 1.",))


def test_a_pinned_gpu_that_took_nothing_was_not_used():
    assert judged(6, Profile(DEDICATED, (1,)), 0, 0.1).is_kept is False
    # A small model cannot be told from what other programs do.
    assert judged(0.4, Profile(DEDICATED, (1,)), 0, 0.4).is_kept is None


def test_an_unknown_or_lost_gpu_leaves_a_pin_open_but_not_a_breach():
    profile = Profile(DEDICATED, (1,))
    assert judged(6, profile, None, 6).is_kept is None
    assert judged(6, profile, 6, None).is_kept is False
    lost = [grown(0)[0], replace(grown(0, None)[1], is_gone=True)]
    placement = verdict(profile, planned(6, profile), lost)
    assert (placement.is_kept, placement.sentences) == (None, ("Asked for GPU 1 alone; GPU 1 is gone.",))
    assert verdict(profile, planned(6, profile), []).is_kept is None


def test_an_order_is_kept_when_the_first_gpu_is_full_before_the_next():
    profile = Profile(PRIORITY, (1, 0))
    rooms = (20, 4)
    assert judged(10, profile, 6.2, 3.8, rooms=rooms).is_kept is True
    placement = judged(10, profile, 8, 2, rooms=rooms)
    assert placement.is_kept is False
    assert placement.sentences[-1] == (
        "Asked to fill GPU 1, GPU 0 in this order; 2.0 GiB went to GPU 1, 8.0 GiB went to GPU 0."
    )
    assert judged(10, profile, 6, None, rooms=rooms).is_kept is None
    unplanned = plan(Need(), [], None, profile)
    assert verdict(profile, unplanned, grown(6, 4)).is_kept is None


def test_a_gpu_outside_the_order_is_a_breach():
    placement = judged(10, Profile(PRIORITY, (0, 1)), 5, 2, 3, rooms=(20, 20, 20))
    assert placement.is_kept is False
    assert placement.sentences[0] == "Asked for GPU 0, GPU 1 alone; 3.0 GiB went to GPU 2."


def test_even_parts_may_differ_by_a_layer_but_not_by_more():
    assert judged(12, Profile(EVEN), 6.4, 5.6).is_kept is True
    placement = judged(12, Profile(EVEN), 8, 4)
    assert placement.is_kept is False
    assert placement.sentences == ("Asked for equal parts; 8.0 GiB went to GPU 0, 4.0 GiB went to GPU 1.",)
    assert judged(12, Profile(EVEN), 6, None).is_kept is None
    assert judged(12, Profile(EVEN), 0, 0).is_kept is None
    # Only the GPUs of the profile are compared.
    assert judged(12, Profile(EVEN, (0, 2)), 6, 0.1, 6, rooms=(20, 20, 20)).is_kept is True


def test_a_ratio_is_held_against_the_whole_need():
    half = Profile(offload_ratio=0.5)
    assert judged(20, half, 6, 4.5).is_kept is True
    placement = judged(20, half, 12, 8)
    assert placement.is_kept is False
    assert placement.sentences == ("Asked for 50% of the model on the GPUs; 20.0 GiB of 20.0 GiB went there.",)
    assert judged(20, half, 10, None).is_kept is None
    assert verdict(half, plan(Need(), [], None, half), grown(10)).is_kept is None


def test_it_says_that_spilling_cannot_be_seen():
    placement = judged(6, Profile(strict_vram_limit=True), 6, 0)
    assert placement.is_kept is None
    assert "not known" in placement.sentences[0]
    # A breach beside it is still one.
    assert judged(6, Profile(DEDICATED, (1,), strict_vram_limit=True), 6, 0).is_kept is False


def test_where_nothing_was_wished_nothing_is_kept_or_broken():
    placement = judged(6, Profile(), 6, 0)
    assert (placement.findings, placement.is_kept) == ((), None)
