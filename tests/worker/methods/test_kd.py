import pytest
import torch

from worker.method import MethodError
from worker.methods.kd import softened_divergence


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
