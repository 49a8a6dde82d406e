from dataclasses import replace

import pytest
import torch

from retort.architectures import CARDS
from retort.method import MethodError, Setup
from retort.methods.fsp import FSP
from tests.retort.methods.conftest import FACTS
from tests.retort.methods.goldens import batch_of

SETUP = Setup(FACTS, FACTS.classes, CARDS["resnet8"], CARDS["resnet20"], 8, 2, CARDS)


def flow(given, **fields):
    """The terms of the phase."""
    (phase,) = FSP(**fields).phases(SETUP)
    return list(phase.terms(batch_of(given), None).values())


def golden(case, given):
    weights = case["hyperparameters"].get("pair_weights")
    terms = flow(given, weight=1, form="mean" if weights is None else "paper")
    if weights is None:
        return {"loss": sum(terms), **{f"stage.{i}": term for i, term in enumerate(terms)}}
    loss = sum(weight * term for weight, term in zip(weights, terms, strict=True))
    return {"loss": loss, **{f"pair.{i}": term for i, term in enumerate(terms)}}


def maps(seed, channels=3, side=4):
    return torch.randn(5, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def given(student, teacher):
    return {
        f"{role}.maps.{i}": m for role, maps in (("student", student), ("teacher", teacher)) for i, m in enumerate(maps)
    }


@pytest.mark.parametrize("form", ["mean", "paper"])
def test_it_is_zero_where_channels_follow_alike_at_other_positions(form):
    teacher = maps(0), maps(1, 6)
    student = [m.flip(2) for m in teacher]
    (term,) = flow(given(student, teacher), form=form)
    assert term.item() == pytest.approx(0, abs=1e-12)
    (term,) = flow(given([teacher[0], student[1]], teacher), form=form)
    assert term > 1e-4


def test_the_forms_differ_by_the_entries_of_the_matrix_where_nothing_is_pooled():
    mean, paper = (
        flow(given((maps(0), maps(1, 6)), (maps(2), maps(3, 6))), form=form)[0].item() for form in ("mean", "paper")
    )
    assert paper == pytest.approx(3 * 6 * mean)


def test_it_does_its_work_before_the_loop(pair):
    made = pair(FSP(epochs=7), teacher="resnet20")
    (train_state,) = made.train_states
    assert train_state.phase.epochs == 7
    assert made.method.taps(made.student_state.setup) == frozenset()
    assert made.terms(made.batch(train_state=train_state)) == {}
    assert made.terms(made.batch(train_state=train_state), train_state).keys() == {"stage_1", "stage_2", "stage_3"}


def test_what_it_refuses():
    FSP().check(SETUP)
    with pytest.raises(
        MethodError,
        match=r"student resnet8 have \[16, 16, 32, 64\] channels, those of the teacher resnet8x4 \[32, 64, 128, 256\]",
    ):
        FSP().check(replace(SETUP, teacher=CARDS["resnet8x4"]))
    with pytest.raises(MethodError, match=r"the teacher torchvision.vit_b_16 has one stage; its flow needs 2"):
        FSP().check(replace(SETUP, teacher=CARDS["torchvision.vit_b_16"]))
