from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from retort.method import STUDENT, TEACHER, MethodError, Tap
from retort.methods._layers import TeacherAnswers
from retort.methods.comparative_kd import ComparativeKD
from tests.retort.methods.goldens import batch_of


def golden(case, given):
    h, groups = case["hyperparameters"], (given["indices.positive"], given["indices.negative"])

    class Drawn(ComparativeKD):
        """Compares the groups that are given, by the lambda that is given."""

        def _groups(self, batch):
            return groups

        def _share(self, batch):
            return h["mix_lambda"]

    method = Drawn(
        mixing={"ckd": "difference", "ckd_add": "average", "ckd_mixup": "mixup"}[h["mixing"]],
        class_weight=h["class_weight"],
        relation_weight=h["relation_weight"],
        kd_weight=h["kd_weight"],
        temperature=h["temperature"],
    )
    answers = TeacherAnswers(torch.arange(len(given["labels"])), given["teacher.logits"])
    terms = method.terms(batch_of(given), answers)
    labels = F.one_hot(given["labels"], given["student.logits"].shape[1]).double()
    return {
        "loss": sum(terms.values()),
        "class_weighted": terms["class"],
        "relation_weighted": terms["relation"],
        "kd_weighted": terms.get("soft", torch.tensor(0.0, dtype=torch.float64)),
        "out.mixed_student": method.compare(given["student.logits"], *groups, h["mix_lambda"]),
        "out.mixed_teacher": method.compare(given["teacher.logits"], *groups, h["mix_lambda"]),
        "out.mixed_label": method.compare(labels, *groups, h["mix_lambda"]),
    }


def logits(seed, count=6):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def terms(student, teacher, labels=None, **fields):
    batch = batch_of({"student.logits": student}, labels=labels)
    batch = replace(batch, outputs={key: value for key, value in batch.outputs.items() if key[0] != TEACHER})
    found = ComparativeKD(**fields).terms(batch, TeacherAnswers(torch.arange(len(teacher)), teacher))
    return {name: term.item() for name, term in found.items()}


@pytest.mark.parametrize("mixing", ["difference", "average", "mixup"])
@pytest.mark.parametrize("group_size", [2, 3])
def test_the_relation_is_zero_for_equal_networks(mixing, group_size):
    found = terms(logits(0), logits(0), mixing=mixing, group_size=group_size, kd_weight=1)
    assert found["relation"] == pytest.approx(0, abs=1e-12)
    assert found["soft"] == pytest.approx(0, abs=1e-12)


def test_a_difference_does_not_see_what_all_images_have_in_common():
    shift = torch.arange(4)
    assert terms(logits(0) + shift, logits(0))["relation"] == pytest.approx(0, abs=1e-12)
    assert terms(logits(0) + shift, logits(0), mixing="average")["relation"] == pytest.approx(14 / 4)


def test_pairs_are_an_image_and_the_next_one_cyclically():
    student, teacher = logits(0), logits(1)
    wanted = (student - student.roll(-1, 0)) - (teacher - teacher.roll(-1, 0))
    assert terms(student, teacher, group_size=2)["relation"] == pytest.approx(wanted.square().mean().item())


def test_of_three_images_the_first_two_are_one_group():
    student, teacher = logits(0), logits(1)

    def compared(x):
        return (x + x.roll(-1, 0)) / 2 - x.roll(-2, 0)

    wanted = (compared(student) - compared(teacher)).square().mean().item()
    assert terms(student, teacher, group_size=3)["relation"] == pytest.approx(wanted)


def test_the_class_term_is_zero_for_logits_that_are_the_labels():
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    found = terms(F.one_hot(labels, 4).double(), logits(0), labels)
    assert found["class"] == pytest.approx(0, abs=1e-12)
    assert found["relation"] > 0.1


def test_the_mixups_share_is_drawn_anew_each_step(pair):
    made = pair(ComparativeKD(mixing="mixup"))
    shares = [made.method._share(made.batch(step=step)).item() for step in range(200)]
    assert len(set(shares)) == 200
    assert 0 <= min(shares) < 0.05
    assert 0.95 < max(shares) < 1
    assert made.method._share(made.batch(step=3)).item() == shares[3]


def test_the_teacher_runs_once_on_a_subset(pair):
    made = pair(ComparativeKD(subset_size=15))
    answers = made.method_state.modules
    positions = answers.positions_S
    assert len(positions.unique()) == 15
    assert torch.equal(positions, positions.sort().values)
    assert torch.equal(made.method.choose(0, answers).positions, positions)
    assert made.method.images_in_epoch(7, made.student_state.setup) == 15
    with torch.no_grad():
        wanted = made.teacher(made.images[positions])
    torch.testing.assert_close(answers(positions), wanted)
    torch.testing.assert_close(answers(positions[[3, 0]]), wanted[[3, 0]])
    assert made.train_state.taps == {Tap(STUDENT)}


def test_without_a_subset_every_image_is_seen(pair):
    made = pair(ComparativeKD())
    assert torch.equal(made.method_state.modules.positions_S, torch.arange(40))
    assert made.method.choose(0, made.method_state.modules) is None
    assert made.method.images_in_epoch(0, made.student_state.setup) == 40


def test_a_subset_larger_than_the_training_split(pair):
    setup = pair(ComparativeKD()).student_state.setup
    with pytest.raises(MethodError, match="a subset of 41 images is wanted; the training split has 40"):
        ComparativeKD(subset_size=41).check(setup)
    ComparativeKD(subset_size=40).check(setup)
