import pytest
import torch

from retort.methods.ttm import TTM
from retort.methods.wttm import WTTM
from tests.retort.methods.goldens import batch_of


def golden(case, given):
    method = WTTM(power=case["hyperparameters"]["power"], weight=1)
    return {"loss": method.terms(batch_of(given), None)["soft"]}


def logits(seed):
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft(kind, student, teacher, power=0.5):
    batch = batch_of({"student.logits": student, "teacher.logits": teacher})
    return kind(power=power, weight=1).terms(batch, None)["soft"].item()


def test_it_is_zero_for_a_student_that_is_the_transformed_teacher():
    assert soft(WTTM, 0.5 * logits(0) + 2, logits(0)) == pytest.approx(0, abs=1e-12)


def test_a_sure_teacher_weighs_one_and_one_that_knows_nothing_most():
    student = logits(0)
    sure, flat = torch.zeros(6, 10, dtype=torch.float64), torch.zeros(6, 10, dtype=torch.float64)
    sure[:, 4] = 200
    assert soft(WTTM, student, sure) == pytest.approx(soft(TTM, student, sure))
    assert soft(WTTM, student, flat) == pytest.approx(10**0.5 * soft(TTM, student, flat))


def test_at_power_one_all_images_weigh_alike():
    assert soft(WTTM, logits(0), logits(1), 1) == pytest.approx(soft(TTM, logits(0), logits(1), 1))
