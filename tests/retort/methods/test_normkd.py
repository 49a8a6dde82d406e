import pytest
import torch

from retort.methods.normkd import NormKD
from tests.retort.methods.goldens import batch_of, cross_entropy


def golden(case, given):
    h = case["hyperparameters"]
    method = NormKD(temperature_norm=h["temperature_norm"], weight=h.get("kd_weight", 1))
    soft = method.terms(batch_of(given), None)["soft"]
    if "ce_weight" not in h:
        return {"loss": soft}
    labels = h["ce_weight"] * cross_entropy(given)
    return {"loss": labels + soft, "ce_weighted": labels, "kd_weighted": soft}


def logits(seed):
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft(student, teacher):
    return NormKD().terms(batch_of({"student.logits": student, "teacher.logits": teacher}), None)["soft"]


def test_it_is_zero_for_networks_that_differ_in_shift_and_scale():
    assert soft(3 * logits(0) + 5, logits(0)).item() == pytest.approx(0, abs=1e-12)


def test_it_grows_with_the_square_of_the_teachers_spread():
    assert soft(logits(0), 3 * logits(1)).item() == pytest.approx(9 * soft(logits(0), logits(1)).item())


def test_the_gradient_goes_through_the_students_spread():
    """Scaling a student's logits changes nothing, so the gradient is at right angles to them."""
    student = logits(0).requires_grad_()
    soft(student, logits(1)).backward()
    assert (student.grad * student).sum(1).abs().max() < 1e-12
    assert student.grad.abs().max() > 1e-3


def test_constant_logits_are_finite():
    student = torch.zeros(6, 10, dtype=torch.float64).requires_grad_()
    term = soft(student, logits(1))
    term.backward()
    assert torch.isfinite(term)
    assert torch.isfinite(student.grad).all()
