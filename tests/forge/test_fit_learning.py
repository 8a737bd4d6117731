"""What earlier loads teach: a constant that estimates miss. Sizes in MiB here."""

import pytest

from forge.fit.learning import Learned, Load, learn

CONSTANT = 700


def load(estimated, measured=None):
    return Load(estimated, estimated + CONSTANT if measured is None else measured)


def test_it_learns_the_constant_that_every_load_took_more():
    assert learn([load(6000), load(9000), load(21_000)]) == Learned(CONSTANT, 3)
    assert learn([load(6000, 5500)]) == Learned(-500, 1)
    assert learn([]) == Learned(0, 0)


@pytest.mark.parametrize(
    "odd", [load(6000, 2000), load(6000, 15_000), load(6000, 9500), load(6000, 3500), load(0, 900)]
)
def test_one_load_that_was_disturbed_changes_nothing(odd):
    for place in range(3):
        loads = [load(6000), load(9000)]
        loads.insert(place, odd)
        assert learn(loads).bytes == CONSTANT


def test_loads_that_cannot_be_the_model_alone_are_not_counted():
    assert learn([load(6000, 2999), load(6000, 12_001), load(0, 900), load(-5, 900)]) == Learned()
    assert learn([load(6000, 3000), load(6000, 12_000)]).count == 2


def test_only_the_last_five_count():
    older = [load(6000, 6000)] * 20
    assert learn([load(6000)] * 3 + older).bytes == CONSTANT
    assert learn([load(6000)] * 2 + older).bytes == 0
    assert learn(older).count == 5
