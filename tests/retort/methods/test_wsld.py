import pytest
import torch
from torch.nn import functional as F

from retort.methods.wsld import WSLD, image_weights
from tests.retort.methods.goldens import batch_of, cross_entropy


def golden(case, given):
    h = case["hyperparameters"]
    method = WSLD(temperature=h["temperature"], weight=h.get("alpha", h.get("loss_weight")))
    # The published term is a cross-entropy, ours a divergence: they differ by the teacher's weighted entropy.
    student, teacher = given["student.logits"].detach(), given["teacher.logits"]
    entropies = torch.distributions.Categorical(logits=teacher / h["temperature"]).entropy()
    weighted = image_weights(student, teacher, given["labels"]) * entropies
    soft = method.terms(batch_of(given), None)["soft"] + method.weight * h["temperature"] ** 2 * weighted.mean()
    if "alpha" not in h:
        return {"loss": soft}
    labels = cross_entropy(given)
    return {"loss": labels + soft, "hard": labels, "soft_weighted_by_alpha": soft}


def logits(seed):
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([0, 9, 3, 3, 5, 1])


def test_it_is_zero_for_equal_networks():
    given = {"student.logits": logits(0), "teacher.logits": logits(0), "labels": LABELS}
    assert WSLD().terms(batch_of(given), None)["soft"].item() == pytest.approx(0, abs=1e-12)


def test_an_image_that_both_know_alike_weighs_one_minus_one_over_e():
    weights = image_weights(logits(0), logits(0), LABELS)
    torch.testing.assert_close(weights, torch.full((6,), 1 - 1 / torch.e, dtype=torch.float64))


def test_what_the_student_knows_better_weighs_less():
    sure = 50.0 * F.one_hot(LABELS, 10).double()
    assert image_weights(sure, logits(0), LABELS).max() < 1e-12
    assert image_weights(logits(0), sure, LABELS).min() == pytest.approx(1)


def test_its_gradient_is_that_of_weighted_divergences():
    student, teacher = logits(0).requires_grad_(), logits(1)
    given = {"student.logits": student, "teacher.logits": teacher, "labels": LABELS}
    WSLD(temperature=4, weight=1).terms(batch_of(given), None)["soft"].backward()
    weights = image_weights(logits(0), teacher, LABELS)
    wanted = weights[:, None] * 4 / 6 * ((logits(0) / 4).softmax(1) - (teacher / 4).softmax(1))
    torch.testing.assert_close(student.grad, wanted)
