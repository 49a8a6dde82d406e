import pytest

from retort.engine.epoch_plan import EpochPlan


def test_epochs_of_different_lengths():
    epoch_plan = EpochPlan([10, 5, 4], batch_size=4)
    assert epoch_plan.batches == (3, 1, 1)
    assert epoch_plan.steps == 5
    assert [epoch_plan.epoch(step) for step in range(6)] == [0, 0, 0, 1, 2, 3]
    assert [epoch_plan.within(step) for step in range(5)] == [0, 1, 2, 0, 0]
    assert [epoch_plan.done(step) for step in range(5)] == pytest.approx([0, 1 / 3, 2 / 3, 1, 2])


def test_a_remainder_of_one_image_is_left_out_unless_it_is_all_there_is():
    assert EpochPlan([9, 8, 1], batch_size=4).batches == (2, 2, 1)
