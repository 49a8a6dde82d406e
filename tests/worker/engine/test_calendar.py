import pytest

from worker.engine.calendar import Calendar


def test_epochs_of_different_lengths():
    calendar = Calendar([10, 5, 4], batch_size=4)
    assert calendar.batches == (3, 1, 1)
    assert calendar.steps == 5
    assert [calendar.epoch(step) for step in range(6)] == [0, 0, 0, 1, 2, 3]
    assert [calendar.within(step) for step in range(5)] == [0, 1, 2, 0, 0]
    assert [calendar.done(step) for step in range(5)] == pytest.approx([0, 1 / 3, 2 / 3, 1, 2])


def test_a_remainder_of_one_image_is_left_out_unless_it_is_all_there_is():
    assert Calendar([9, 8, 1], batch_size=4).batches == (2, 2, 1)
