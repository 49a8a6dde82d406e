import pytest
import torch
from torch.nn import functional as F

from retort.method import STUDENT, TEACHER
from retort.methods.kd import softened_divergence
from retort.methods.mlld import MLLD, STRONG, at_or_below_median, batch_distance, class_distance
from retort.outputs import Outputs
from retort.view import CLEAN
from tests.retort.methods.goldens import batch_of, cross_entropy


def golden(case, given):
    h = case["hyperparameters"]
    if "student.logits.strong" in given:
        return golden_total(h, given)
    # A single part on the clean images: on the strong view the student says what the teacher says, which adds nothing.
    masked = "expected.out.mask" in case["outputs"]
    method = MLLD(temperature=h["temperature"], other_temperatures=(), weight=1, form="masked" if masked else "paper")
    terms = method.terms(batch(given, strong=given["teacher.logits"]), None)
    # The formula alone tells which part a case is of.
    part = "class" if "P_t^T P_t" in case["formula"] else "batch" if "P_t P_t^T" in case["formula"] else "instance"
    return {"loss": terms[part], "out.mask": at_or_below_median(given["teacher.logits"].softmax(1).amax(1))}


def golden_total(h, given):
    method = MLLD(
        temperature=h["temperature"],
        other_temperatures=h["other_temperatures"],
        weight=h["kd_weight"],
        strong_label_weight=h["ce_weight"],
        form="published",
    )
    terms = method.terms(batch(given), None)
    terms["ce"] = terms.pop("strong_labels") + h["ce_weight"] * cross_entropy(given)
    return terms | {"loss": sum(terms.values())}


def batch(given, strong=None):
    outputs = {
        (network, view): Outputs(given[f"{role}.logits{suffix}"] if suffix == "" or strong is None else strong)
        for role, network in (("student", STUDENT), ("teacher", TEACHER))
        for suffix, view in (("", CLEAN), (".strong", STRONG))
    }
    return batch_of(given, outputs=outputs)


def logits(seed, images=6):
    return torch.randn(images, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


GIVEN = {
    "student.logits": logits(0),
    "teacher.logits": logits(1),
    "student.logits.strong": logits(2),
    "teacher.logits.strong": logits(3),
    "labels": torch.tensor([0, 9, 3, 3, 5, 1]),
}


def test_all_but_the_labels_is_zero_for_equal_networks():
    equal = GIVEN | {"student.logits": logits(1), "student.logits.strong": logits(3)}
    terms = MLLD().terms(batch(equal), None)
    assert terms.pop("strong_labels") > 0
    for name, term in terms.items():
        assert term.item() == pytest.approx(0, abs=1e-12), name


def test_the_papers_form_sums_both_views_over_all_temperatures():
    found = MLLD(temperature=4, other_temperatures=(2, 3), weight=0.5).terms(batch(GIVEN), None)
    pairs = [(logits(0), logits(1)), (logits(2), logits(3))]
    wanted = {
        "instance": sum(softened_divergence(*pair, t) for pair in pairs for t in (4, 2, 3)),
        "batch": sum(batch_distance(pair, t) for pair in pairs for t in (4, 2, 3)),
        "class": sum(class_distance(pair, t) for pair in pairs for t in (4, 2, 3)),
    }
    for name, term in wanted.items():
        assert found[name].item() == pytest.approx(0.5 * term.item()), name
    strong = F.cross_entropy(logits(2), GIVEN["labels"])
    assert found["strong_labels"].item() == pytest.approx(0.1 * strong.item())


def test_the_masked_form_reads_no_image_of_which_the_teacher_is_sure():
    sure = (logits(1).softmax(1).amax(1) > logits(1).softmax(1).amax(1).median())[:, None]
    assert 0 < sure.sum() < 6
    moved = GIVEN | {"student.logits": logits(0).where(~sure, logits(4))}
    for form, same in (("masked", True), ("paper", False)):
        terms = [MLLD(form=form).terms(batch(given), None)["instance"].item() for given in (GIVEN, moved)]
        assert (terms[0] == pytest.approx(terms[1])) is same, form


def test_the_published_form_leaves_the_strong_views_batch_and_class_parts_out():
    moved = GIVEN | {"student.logits.strong": logits(4)}
    for form, same in (("published", True), ("paper", False)):
        first, second = (MLLD(form=form).terms(batch(given), None) for given in (GIVEN, moved))
        for name in ("batch", "class"):
            assert (first[name].item() == pytest.approx(second[name].item())) is same, (form, name)


@pytest.mark.parametrize(("temperature", "reads"), [(2, False), (3, True), (5, True), (6, False)])
def test_the_published_form_does_not_read_the_strong_view_at_two_and_six(temperature, reads):
    def instance(given):
        first = MLLD(form="published", other_temperatures=(temperature,)).terms(batch(given), None)["instance"]
        return first.item() - MLLD(form="published", other_temperatures=()).terms(batch(given), None)["instance"].item()

    moved = GIVEN | {"student.logits.strong": logits(4)}
    assert (instance(GIVEN) != pytest.approx(instance(moved))) is reads


def test_products_ignore_a_turn_that_both_networks_take():
    student, teacher = logits(0), logits(1)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    turned = batch_distance((student[order], teacher[order]), 4.0)
    assert turned.item() == pytest.approx(batch_distance((student, teacher), 4.0).item())
