import pytest
import torch

from retort.methods.cmkd import CMKD, difficulties
from tests.retort.methods.goldens import batch_of


def logits(seed):
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def terms(student, teacher, **fields):
    return CMKD(**fields).terms(batch_of({"student.logits": student, "teacher.logits": teacher}), None)


def test_it_is_zero_for_equal_networks_as_the_softness_tends_to_zero():
    for name, term in terms(logits(0), logits(0), rank_softness=1e-5).items():
        assert term.item() == pytest.approx(0, abs=1e-5), name
    assert terms(logits(0), logits(0))["rank"].item() == pytest.approx(0, abs=0.1)


def test_it_does_not_depend_on_the_students_shift_and_scale():
    found, wanted = terms(3 * logits(0) + 5, logits(1)), terms(logits(0), logits(1))
    for name, term in found.items():
        assert term.item() == pytest.approx(wanted[name].item()), name


def test_a_teacher_that_knows_nothing_is_hardest_and_a_sure_one_easiest():
    flat, sure = torch.zeros(1, 10), torch.zeros(1, 10)
    sure[0, 3] = 100
    assert difficulties(flat).item() == pytest.approx(1)
    assert difficulties(sure).item() == pytest.approx(0, abs=1e-6)


def test_easy_images_count_by_value_and_hard_ones_by_rank():
    easy, hard = terms(logits(0), 100 * logits(1)), terms(logits(0), 0.01 * logits(1))
    assert easy["value"] > 0.1 > easy["rank"]
    assert hard["rank"] > 0.1 > hard["value"]


def test_reversed_ranks_are_as_far_as_can_be():
    reversed_ranks = terms(-logits(0), 1e-3 * logits(0), weight=1, rank_softness=1e-5)["rank"]
    assert reversed_ranks.item() == pytest.approx(2, abs=1e-3)


def test_the_ranks_have_a_gradient():
    student = logits(0).requires_grad_()
    terms(student, logits(1))["rank"].backward()
    assert student.grad.abs().sum() > 0
