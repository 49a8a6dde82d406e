import pytest
import torch

from retort.methods.dist import DIST, pearson
from tests.retort.methods.goldens import batch_of


def golden(case, given):
    h = case["hyperparameters"]
    batch = batch_of(given)
    terms = DIST(temperature=h["temperature"], inter_weight=h["beta"], intra_weight=h["gamma"]).terms(batch, None)
    plain = DIST(temperature=h["temperature"], inter_weight=1, intra_weight=1).terms(batch, None)
    return {
        "loss": terms["inter"] + terms["intra"],
        "inter_class": plain["inter"],
        "intra_class": plain["intra"],
    }


def logits(seed):
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def terms(student, teacher, **fields):
    return DIST(**fields).terms(batch_of({"student.logits": student, "teacher.logits": teacher}), None)


def test_it_is_zero_for_equal_networks():
    for term in terms(logits(0), logits(0)).values():
        assert term.item() == pytest.approx(0, abs=1e-3)


def test_correlations_ignore_shift_and_scale_and_are_minus_one_when_reversed():
    a = logits(0)
    torch.testing.assert_close(pearson(a, 3 * a + 5, dim=1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(pearson(a, -a, dim=0), -torch.ones(10, dtype=torch.float64))


def test_the_columns_of_one_image_correlate_with_nothing():
    student = logits(0)[:1].requires_grad_()
    found = terms(student, logits(1)[:1], temperature=1, intra_weight=1)["intra"]
    found.backward()
    assert found.item() == 1
    assert not student.grad.any()


def test_the_temperature_is_squared():
    cold = terms(2 * logits(0), 2 * logits(1), temperature=2)
    warm = terms(4 * logits(0), 4 * logits(1), temperature=4)
    for name, term in warm.items():
        assert term.item() == pytest.approx(4 * cold[name].item())
