from copy import deepcopy
from dataclasses import replace
from math import log

import pytest
import torch

from retort.method import MethodError
from retort.methods._embeddings import MemoryBanks
from retort.methods.crd import CRD, contrast
from tests.retort.methods.goldens import batch_of, fill


def golden(case, given):
    h = case["hyperparameters"]
    banks = golden_banks(given, h, temperature=h["temperature"])
    method, batch = CRD(weight=1), batch_of(given)
    terms = method.terms(batch, banks)
    # A copy, as the gradient still needs the memory as it was.
    banks = deepcopy(banks)
    method.update(batch, banks)
    return {
        "loss": sum(terms.values()),
        **terms,
        "z_student": banks.normalisers_2[0],
        "z_teacher": banks.normalisers_2[1],
        "out.memory.student": banks.student_MD,
        "out.memory.teacher": banks.teacher_MD,
    }


def golden_banks(given, h, *, temperature):
    """The memory that is given, which draws the negatives that are given."""
    banks = MemoryBanks(
        given["student.embedding"].shape[1],
        given["teacher.embedding"].shape[1],
        h["embed_dim"],
        torch.zeros(h["n_data"], dtype=torch.int64),
        classes=1,
        negatives=h["num_negatives"],
        temperature=temperature,
        momentum=h["momentum"],
    ).double()
    banks.student_MD.copy_(given["memory.student"])
    banks.teacher_MD.copy_(given["memory.teacher"])
    if "z_student" in h:
        banks.normalisers_2.copy_(torch.tensor([h["z_student"], h["z_teacher"]], dtype=torch.float64))
    banks.draw_negatives = lambda labels_N, key: given["negatives"]
    return fill(banks, given, "aux")


LABELS = torch.tensor([1, 0, 2, 1, 1, 0, 2, 1, 1])


def banks(negatives=20_000):
    return MemoryBanks(4, 4, 4, LABELS, 3, negatives=negatives, temperature=0.1, momentum=0.5)


def test_negatives_are_the_images_of_other_classes_equally_often():
    drawn = banks().draw_negatives(torch.tensor([0, 1, 2]), torch.tensor(5))
    for own, row in enumerate(drawn):
        counts = row.bincount(minlength=len(LABELS))
        assert (counts[own == LABELS] == 0).all()
        others = counts[own != LABELS]
        assert others.sum() == 20_000
        assert others.float().div(20_000 / len(others)).sub(1).abs().max() < 0.05


def test_negatives_differ_from_step_to_step_and_can_be_drawn_again():
    first, second, again = (banks(50).draw_negatives(LABELS, torch.tensor(key)) for key in (1, 2, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_contrast_of_scores_that_are_all_the_noise():
    p = torch.full((5, 1 + 8), 0.25, dtype=torch.float64)
    assert contrast(p, 0.25).item() == pytest.approx(9 * log(2), abs=1e-5)


def test_contrast_falls_when_the_right_one_scores_more_and_the_others_less():
    p = torch.full((5, 9), 0.25, dtype=torch.float64)
    more, less = p.clone(), p.clone()
    more[:, 0], less[:, 3] = 0.5, 0.1
    assert contrast(more, 0.25) < contrast(p, 0.25)
    assert contrast(less, 0.25) < contrast(p, 0.25)


def test_scores_are_the_candidates_own(pair):
    made = pair(CRD(negatives=6, features=5))
    state, batch = made.method_state.modules, made.batch()
    state.normalisers_2.copy_(torch.tensor([2.0, 4.0]))
    student, teacher = state(batch.student().embedding, batch.teacher().embedding)
    candidates = torch.cat([batch.indices[:, None], state.draw_negatives(batch.targets, batch.key)], 1)
    for found, u, bank, z in zip(
        state.probabilities(batch), (student, teacher), (state.teacher_MD, state.student_MD), (2, 4), strict=True
    ):
        torch.testing.assert_close(found, ((bank[candidates] * u[:, None]).sum(2) / 0.07).exp() / z)


def test_the_first_batch_sets_z_and_no_later_one(pair):
    made = pair(CRD(negatives=6))
    state, batch = made.method_state.modules, made.batch()
    for p in state.probabilities(batch):
        assert p.mean().item() == pytest.approx(1 / 40, rel=1e-5)
    made.method.update(batch, state)
    kept = state.normalisers_2.clone()
    assert (kept > 0).all()
    state.draw_negatives = None
    made.method.update(made.batch(step=1), state)
    assert torch.equal(state.normalisers_2, kept)


def test_only_the_batchs_rows_of_the_memory_move_and_they_have_length_one(pair):
    made = pair(CRD(negatives=6))
    state, batch = made.method_state.modules, made.batch()
    before = state.student_MD.clone()
    made.method.update(batch, state)
    moved = (state.student_MD != before).any(1)
    assert torch.equal(moved.nonzero().flatten(), batch.indices.sort().values)
    torch.testing.assert_close(state.student_MD[batch.indices].norm(dim=1), torch.ones(8))


def test_images_of_one_class_have_no_negatives(pair):
    setup = pair(CRD()).student_state.setup
    with pytest.raises(MethodError, match="all training images are of one class"):
        CRD().modules(replace(setup, targets=torch.zeros(40, dtype=torch.int64)))


def test_there_are_no_more_negatives_than_training_images(pair):
    assert pair(CRD(negatives=39)).method_state.modules.negatives == 39
    assert pair(CRD(negatives=41)).method_state.modules.negatives == 40
