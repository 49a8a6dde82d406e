import math

import pytest
import torch

from retort.methods.dkd import DKD, decoupled_divergences, split_target
from retort.methods.kd import softened_divergence
from tests.retort.methods.goldens import batch_of, cross_entropy


def golden(case, given):
    h = case["hyperparameters"]
    # The case's epoch is the number that enters the formula, which counts from 1; without one there is no warm-up.
    batch = batch_of(given, epoch=h.get("epoch", 1) - 1)
    method = DKD(
        temperature=h["temperature"], alpha=h["alpha"], beta=h["beta"], warmup_epochs=h.get("warmup_epochs", 1)
    )
    terms = method.terms(batch, None)
    plain = DKD(temperature=h["temperature"], alpha=1, beta=1, warmup_epochs=1).terms(batch, None)
    decoupled = terms["target"] + terms["non_target"]
    labels = h.get("ce_weight", 0) * cross_entropy(given)
    return {
        "loss": labels + decoupled,
        "target_class": plain["target"],
        "non_target_class": plain["non_target"],
        "ce_weighted": labels,
        "dkd_warmed": decoupled,
    }


def logits(seed, classes=10):
    return torch.randn(6, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([0, 9, 3, 3, 5, 1])


def test_both_parts_are_zero_for_equal_networks():
    for part in decoupled_divergences(logits(0), logits(0), LABELS, 4.0):
        assert part.item() == pytest.approx(0, abs=1e-12)


def test_the_parts_add_up_to_kd_when_each_image_weighs_its_own_share():
    student, teacher = logits(0), logits(1)
    whole = softened_divergence(student, teacher, 4.0).item()
    added = 0.0
    for i in range(6):
        one = slice(i, i + 1)
        target, rest = decoupled_divergences(student[one], teacher[one], LABELS[one], 4.0)
        added += (target + (1 - (teacher[i] / 4).softmax(0)[LABELS[i]]) * rest).item() / 6
    assert added == pytest.approx(whole)


def test_the_label_does_not_enter_the_divergence_among_the_rest():
    student, teacher = logits(0), logits(1)
    moved = student.scatter_add(1, LABELS[:, None], torch.full((6, 1), 3.0, dtype=torch.float64))
    target, rest = decoupled_divergences(student, teacher, LABELS, 4.0)
    moved_target, moved_rest = decoupled_divergences(moved, teacher, LABELS, 4.0)
    assert moved_rest.item() == pytest.approx(rest.item())
    assert moved_target.item() != pytest.approx(target.item(), rel=1e-3)


def test_a_sure_network_is_split_without_rounding():
    z = torch.tensor([[200.0, 0.0, 0.0]], dtype=torch.float64)
    log_b, log_q = split_target(z, torch.tensor([0]))
    assert log_b[0, 1].item() == pytest.approx(-200 + math.log(2))
    torch.testing.assert_close(log_q.exp(), torch.full((1, 2), 0.5, dtype=torch.float64))


def test_two_classes_leave_nothing_among_the_rest():
    _, rest = decoupled_divergences(logits(0, 2), logits(1, 2), LABELS % 2, 4.0)
    assert rest.item() == 0


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.05), (9, 0.5), (19, 1), (200, 1)])
def test_the_warm_up_starts_above_zero_and_ends(epoch, share):
    given = {"student.logits": logits(0), "teacher.logits": logits(1), "labels": LABELS}
    warm = DKD(warmup_epochs=20).terms(batch_of(given, epoch=epoch), None)
    whole = DKD(warmup_epochs=1).terms(batch_of(given), None)
    for name in ("target", "non_target"):
        assert warm[name].item() == pytest.approx(share * whole[name].item())
