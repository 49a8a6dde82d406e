import pytest
import torch

from retort.methods.ttm import TTM
from tests.retort.methods.goldens import batch_of


def golden(case, given):
    method = TTM(power=case["hyperparameters"]["power"], weight=1)
    return {"loss": method.terms(batch_of(given), None)["soft"]}


def logits(seed):
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft(student, teacher, **fields):
    return TTM(**fields).terms(batch_of({"student.logits": student, "teacher.logits": teacher}), None)["soft"].item()


def test_it_is_zero_for_a_student_that_is_the_transformed_teacher():
    assert soft(0.3 * logits(0) + 2, logits(0), power=0.3) == pytest.approx(0, abs=1e-12)
    assert soft(logits(0), logits(0), power=0.3) > 1


def test_it_is_the_weight_times_a_mean_over_images():
    once = soft(logits(0), logits(1), weight=1)
    assert soft(logits(0).repeat(2, 1), logits(1).repeat(2, 1), weight=7) == pytest.approx(7 * once)
