import pytest
import torch

from tests.worker.methods.goldens import batch_of, cross_entropy
from worker.method import MethodError
from worker.methods.kd import KD, softened_divergence


def golden(case, given):
    h = case["hyperparameters"]
    mixed = "alpha" in h
    method = KD(temperature=h["temperature"], weight=1 - h["alpha"] if mixed else h.get("kd_weight", 1.0))
    soft = method.terms(batch_of(given), None)["soft"]
    label_weight = h.get("ce_weight", h.get("alpha"))
    if label_weight is None:
        return {"loss": soft}
    labels = label_weight * cross_entropy(given)
    return {"loss": labels + soft, "ce_weighted": labels, "kd_weighted": soft}


def logits(seed, classes=10):
    return torch.randn(6, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_zero_for_equal_networks():
    assert softened_divergence(logits(0), logits(0), 4).item() == pytest.approx(0, abs=1e-12)


def test_its_gradient_hardly_depends_on_a_high_temperature():
    sizes = []
    for temperature in (50.0, 100.0):
        student = logits(0).requires_grad_()
        softened_divergence(student, logits(1), temperature).backward()
        sizes.append(student.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def test_it_is_a_mean_over_images():
    student, teacher = logits(0), logits(1)
    twice = softened_divergence(student.repeat(2, 1), teacher.repeat(2, 1), 4)
    assert twice.item() == pytest.approx(softened_divergence(student, teacher, 4).item())


def test_networks_that_score_other_classes():
    with pytest.raises(MethodError, match="the student gives 5 classes, the teacher 10"):
        softened_divergence(logits(0, 5), logits(1), 4)
