"""Profiles, plans and channels of a load: pure functions, no daemon (contract §2.2, §7.4, §9)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.allocation.amounts import amount
from fleet.allocation.channels import Channel, carried, choose
from fleet.allocation.planner import RAM_RESERVE_BYTES, RESERVE_BYTES, Need, plan
from fleet.allocation.profile import Profile, Strategy
from fleet.telemetry.readings import Gpu

GIB = 2**30
PRIORITY, EVEN, DEDICATED = Strategy.PRIORITY, Strategy.EVEN, Strategy.DEDICATED


def gpu(index, free=None, total=None):
    return Gpu(index, f"Card {index}", memory_total_bytes=total, memory_free_bytes=free)


def room(gib, index=0):
    """A GPU that can take exactly this much."""
    return gpu(index, int(gib * GIB) + RESERVE_BYTES, 80 * GIB)


def need(gib, context=0):
    return Need(int(gib * GIB), int(context * GIB))


def laid_out(gib, gpus, profile, ram=100 * GIB):
    return plan(need(gib), gpus, ram, profile)


def parts(planned):
    return {share.gpu_index: share.bytes_planned / GIB for share in planned.shares}


sizes = st.integers(0, 64 * GIB)
cards = st.lists(st.one_of(st.none(), sizes), max_size=4)


@st.composite
def profiles(draw, count):
    strategy = draw(st.sampled_from(Strategy))
    order = tuple(draw(st.permutations(range(count))))[: draw(st.integers(0, count))]
    if strategy is DEDICATED:
        order = order[:1] or tuple(range(min(count, 1)))
    ratio = draw(st.one_of(st.none(), st.floats(0, 1)))
    return Profile(strategy, () if strategy is Strategy.AUTOMATIC else order, ratio, draw(st.booleans()))


@st.composite
def cases(draw, known=False):
    free = draw(st.lists(sizes, max_size=4) if known else cards)
    wanted = Need(draw(sizes), draw(sizes))
    ram = draw(sizes if known else st.one_of(st.none(), sizes))
    return wanted, free, ram, draw(profiles(len(free)))


def planned_for(wanted, free, ram, profile):
    return plan(wanted, [gpu(index, bytes) for index, bytes in enumerate(free)], ram, profile)


# The planner


@settings(max_examples=200)
@given(cases())
def test_it_loses_no_byte_and_never_plans_more_than_is_free(case):
    wanted, free, ram, _ = case
    planned = planned_for(*case)
    assert sum(share.bytes_planned for share in planned.shares) + planned.system_bytes == (
        wanted.weights_bytes + wanted.context_bytes
    )
    assert all(share.bytes_planned >= 0 for share in planned.shares)
    assert planned.system_bytes >= 0
    if planned.fits:
        for share in planned.shares:
            assert share.bytes_planned == 0 or share.bytes_planned <= free[share.gpu_index] - RESERVE_BYTES
        assert planned.system_bytes == 0 or planned.system_bytes <= ram - RAM_RESERVE_BYTES


@settings(max_examples=200)
@given(cases(known=True), st.lists(sizes, min_size=5, max_size=5))
def test_more_free_memory_never_makes_a_plan_fail(case, more):
    wanted, free, ram, profile = case
    if planned_for(wanted, free, ram, profile).fits:
        roomier = [bytes + extra for bytes, extra in zip(free, more[1:], strict=False)]
        assert planned_for(wanted, roomier, ram + more[0], profile).fits


@settings(max_examples=100)
@given(st.lists(sizes, min_size=1, max_size=4), sizes, st.booleans(), st.data())
def test_a_gpu_gets_a_part_only_when_all_before_it_are_full(free, wanted, is_strict, data):
    order = tuple(data.draw(st.permutations(range(len(free)))))
    planned = planned_for(Need(wanted, 0), free, None, Profile(PRIORITY, order, None, is_strict))
    assert [share.gpu_index for share in planned.shares] == list(order)
    for earlier, later in zip(planned.shares, planned.shares[1:], strict=False):
        if later.bytes_planned and later is not planned.shares[-1]:
            assert earlier.bytes_planned == max(0, free[earlier.gpu_index] - RESERVE_BYTES)


def test_it_fills_gpus_in_their_order_and_spills_into_memory():
    gpus = [room(4, 0), room(10, 1), room(3, 2)]
    planned = laid_out(15, gpus, Profile(PRIORITY, (1, 0)))
    assert parts(planned) == {1: 10, 0: 4}
    assert planned.system_bytes == GIB
    assert planned.fits is True
    assert parts(laid_out(3, gpus, Profile(PRIORITY, (1, 0)))) == {1: 3, 0: 0}


def test_under_a_strict_limit_nothing_spills_and_the_last_gpu_lacks_room():
    planned = laid_out(15, [room(4, 0), room(10, 1)], Profile(PRIORITY, (1, 0), strict_vram_limit=True))
    assert parts(planned) == {1: 10, 0: 5}
    assert (planned.system_bytes, planned.fits) == (0, False)
    assert [share.fits for share in planned.shares] == [True, False]


def test_even_parts_are_equal_and_the_fullest_gpu_sets_their_size():
    even = Profile(EVEN)
    assert parts(laid_out(9, [room(4, 0), room(9, 1), room(9, 2)], even)) == {0: 3, 1: 3, 2: 3}
    squeezed = laid_out(12, [room(4, 0), room(9, 1)], even)
    assert (parts(squeezed), squeezed.system_bytes, squeezed.fits) == ({0: 4, 1: 4}, 4 * GIB, True)
    strict = laid_out(12, [room(4, 0), room(9, 1)], Profile(EVEN, strict_vram_limit=True))
    assert (parts(strict), strict.system_bytes, strict.fits) == ({0: 6, 1: 6}, 0, False)
    odd = plan(Need(7, 0), [room(4, 0), room(4, 1)], None, even)
    assert [share.bytes_planned for share in odd.shares] == [4, 3]


def test_a_dedicated_gpu_is_the_only_one_used():
    planned = laid_out(6, [room(40, 0), room(4, 1)], Profile(DEDICATED, (1,)))
    assert (parts(planned), planned.system_bytes) == ({1: 4}, 2 * GIB)
    assert planned.shares[0].free_after == RESERVE_BYTES


def test_a_part_can_stay_in_memory_by_wish():
    planned = laid_out(8, [room(40)], Profile(offload_ratio=0.25))
    assert (parts(planned), planned.system_bytes, planned.fits) == ({0: 2}, 6 * GIB, True)
    # The limit is against spilling; what was wished into memory may go there.
    assert laid_out(8, [room(40)], Profile(offload_ratio=0.25, strict_vram_limit=True)).fits is True


def test_memory_can_be_too_small_or_unknown():
    assert laid_out(8, [room(4)], Profile(), ram=4 * GIB).fits is False
    assert laid_out(8, [room(4)], Profile(), ram=5 * GIB).fits is True  # 1 GiB stays free
    assert laid_out(8, [room(4)], Profile(), ram=None).fits is None


def test_without_a_gpu_everything_goes_into_memory():
    planned = laid_out(8, [], Profile(DEDICATED, (1,)))
    assert (planned.shares, planned.system_bytes, planned.fits) == ((), 8 * GIB, True)


def test_what_is_not_known_is_not_promised():
    nothing = plan(Need(), [room(4)], GIB, Profile())
    assert (nothing.shares, nothing.system_bytes, nothing.fits) == ((), None, None)
    unread = laid_out(8, [gpu(0)], Profile())
    assert (parts(unread), unread.fits) == ({0: 8}, None)
    assert laid_out(8, [gpu(0, total=24 * GIB)], Profile()).fits is None
    assert laid_out(8, [gpu(0, total=6 * GIB)], Profile(DEDICATED, (0,), None, True)).fits is False
    assert plan(Need(2 * GIB), [room(4)], None, Profile()).fits is None  # its context is not known
    assert plan(Need(9 * GIB), [room(4)], 0, Profile()).fits is False  # already without it


def test_a_named_gpu_that_is_not_there_is_a_plan_that_fails():
    assert laid_out(2, [room(4, 0)], Profile(DEDICATED, (3,))).fits is False


# The profile


@pytest.mark.parametrize(
    ("profile", "part"),
    [
        (Profile(DEDICATED), "exactly one GPU, this one names 0"),
        (Profile(DEDICATED, (0, 1)), "exactly one GPU, this one names 2"),
        (Profile(gpu_order=(0,)), "cannot name GPUs"),
        (Profile(offload_ratio=1.5), "must be between 0 and 1"),
        (Profile(offload_ratio=float("nan")), "must be between 0 and 1"),
        (Profile(EVEN, offload_ratio=0), "nothing to spread"),
        (Profile(PRIORITY, (0, 0)), "GPU 0 is named twice"),
        (Profile(PRIORITY, (-1,)), "count from 0"),
        (Profile(PRIORITY, (0, 7)), "has no GPU 7"),
    ],
)
def test_it_says_what_is_wrong_with_a_profile(profile, part):
    [problem] = profile.problems([gpu(0), gpu(1)])
    assert part in problem
    assert problem.endswith(".")


def test_a_sound_profile_has_no_problems():
    for profile in (Profile(), Profile(DEDICATED, (1,)), Profile(PRIORITY, (1, 0), 0.5, True), Profile(EVEN)):
        assert profile.problems([gpu(0), gpu(1)]) == profile.problems() == ()


# The channels

EVERYTHING = {"context_length": 4096, "parallel": 2, "ttl_seconds": 60.5, "identifier": "mine"}
PINNED = Profile(DEDICATED, (1,), 0.5, True)


def test_the_socket_carries_everything():
    got = carried(PINNED, EVERYTHING, Channel.SOCKET, gpu_indices=(0, 1, 2))
    assert got.dropped == ()
    assert got.passed == {
        "ttlMs": 60500,
        "identifier": "mine",
        "fields": {
            "llm.load.contextLength": 4096,
            "llm.load.numParallelSessions": 2,
            "llm.load.llama.acceleration.offloadRatio": 0.5,
            "load.gpuSplitConfig": {
                "strategy": "priorityOrder", "disabledGpus": [0, 2], "priority": [1], "customRatio": [],
            },
            "load.gpuStrictVramCap": True,
        },
    }  # fmt: skip


def test_the_socket_says_when_the_other_gpus_cannot_be_switched_off():
    got = carried(PINNED, {}, Channel.SOCKET)
    assert got.passed["fields"]["load.gpuSplitConfig"]["disabledGpus"] == []
    assert got.dropped == ("keeping the other GPUs empty",)


def test_an_order_that_is_not_known_is_not_sent_as_an_even_split():
    unknown = carried(Profile(PRIORITY), {}, Channel.SOCKET)
    assert (unknown.passed["fields"], unknown.dropped) == ({}, ("the order of the GPUs",))
    known = carried(Profile(PRIORITY), {}, Channel.SOCKET, gpu_indices=(1, 0))
    assert known.passed["fields"]["load.gpuSplitConfig"]["priority"] == [0, 1]
    even = carried(Profile(EVEN), {}, Channel.SOCKET)
    assert even.passed["fields"]["load.gpuSplitConfig"]["strategy"] == "evenly"
    assert even.dropped == ()


def test_an_automatic_profile_passes_nothing():
    assert carried(Profile(), {}, Channel.SOCKET).passed == {"fields": {}}
    assert carried(Profile(), {"identifier": "", "parallel": None}, Channel.CLI).passed == {}
    assert carried(Profile(), {}, Channel.REST).passed == {}


def test_rest_says_what_it_leaves_behind():
    got = carried(PINNED, EVERYTHING | {"flash_attention": False}, Channel.REST)
    assert got.passed == {"context_length": 4096, "flash_attention": False}
    assert got.dropped == (
        "one GPU alone",
        "the part of the model on the GPUs",
        "the limit to the GPUs' own memory",
        "the number of parallel slots",
        "the idle time after which it is unloaded",
        "the name of the copy",
    )


def test_the_command_line_carries_the_ratio_and_with_it_an_even_split():
    got = carried(PINNED, EVERYTHING, Channel.CLI)
    assert got.passed == {
        "--context-length": "4096", "--parallel": "2", "--ttl": "61", "--identifier": "mine", "--gpu": "0.5",
    }  # fmt: skip
    assert got.dropped == ("one GPU alone", "the limit to the GPUs' own memory")
    assert carried(Profile(EVEN, offload_ratio=1), {}, Channel.CLI).dropped == ()
    assert carried(Profile(EVEN), {}, Channel.CLI).dropped == ("equal parts on the GPUs",)


def test_an_embedding_model_has_keys_of_its_own():
    got = carried(Profile(), {"context_length": 512, "parallel": 2}, Channel.SOCKET, is_embedding=True)
    assert got.passed == {"fields": {"embedding.load.contextLength": 512}}
    assert got.dropped == ("the number of parallel slots",)


def test_it_chooses_the_channel_that_drops_least():
    every = tuple(Channel)
    assert choose(every, Profile(), {"context_length": 4096}) is Channel.REST
    assert choose(every, Profile(), {"parallel": 2}) is Channel.SOCKET
    assert choose((Channel.CLI, Channel.REST), Profile(offload_ratio=0.5)) is Channel.CLI
    assert choose((Channel.REST,), PINNED) is Channel.REST
    # Each of them drops one thing, but the socket still passes the order on.
    assert choose((Channel.REST, Channel.SOCKET), Profile(DEDICATED, (1,))) is Channel.SOCKET
    with pytest.raises(ValueError, match="no channel"):
        choose((), Profile())


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 bytes"), (512 * 2**20, "512 MiB"), (int(3.1 * GIB), "3.1 GiB"), (2**51, "2048.0 TiB")]
)
def test_amounts_read_as_people_write_them(count, words):
    assert amount(count) == words
