"""Stages of a shard: their passes and steps, and what a deletion repeats."""

import math

import pytest

from hf_unlearn.shards.schedule import repeated_share, shares, stage_steps


@pytest.mark.parametrize("slices", [1, 2, 4, 8])
def test_all_stages_together_take_the_epochs_that_were_asked_for(slices):
    assert sum(shares(slices)) == pytest.approx(1.0)
    steps = stage_steps([1000] * slices, epochs=4.0, batch_size=10)
    assert sum(steps) == pytest.approx(4.0 * 1000 * slices / 10, abs=slices)


def test_the_first_stage_takes_twice_as_much_as_each_later_one():
    assert stage_steps([100, 100, 100, 100], 5.0, 1) == [800, 400, 400, 400]


def test_steps_are_a_function_of_the_rows_of_the_shard():
    assert stage_steps([0, 0], 5.0, 8) == [0, 0]
    assert stage_steps([0, 16], 6.0, 8) == [0, math.ceil(16 * 6.0 / 3 / 8)]


@pytest.mark.parametrize("slices", [1, 2, 3, 4, 8])
def test_the_share_that_a_deletion_repeats_is_the_mean_over_slices(slices):
    steps = stage_steps([600] * slices, 5.0, 1)
    by_hand = sum(sum(steps[first:]) for first in range(slices)) / slices / sum(steps)
    assert repeated_share(slices) == pytest.approx(by_hand, abs=1e-3)
    assert repeated_share(slices) == pytest.approx(1 / slices + (slices - 1) / (2 * (slices + 1)))
