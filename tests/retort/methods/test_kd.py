import pytest
import torch

from retort.architectures import CARDS
from retort.method import TEACHER, MethodError, Setup, from_top, top_logits
from retort.methods.ctkd import CTKD
from retort.methods.kd import KD, softened_divergence
from retort.methods.lskd import LSKD
from tests.retort.methods.conftest import FACTS
from tests.retort.methods.goldens import batch_of, cross_entropy

SETUP = Setup(FACTS, FACTS.classes, CARDS["resnet8"], CARDS["resnet20"], 6, 2, CARDS)


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


@pytest.mark.parametrize(
    "method",
    [KD(teacher_top=3), CTKD(base=KD(teacher_top=3)), LSKD(base=KD(teacher_top=3))],
    ids=["kd", "ctkd", "lskd"],
)
def test_what_a_tap_leaves_out_is_not_read(method):
    given = {"student.logits": logits(0).float(), "teacher.logits": logits(1).float()}
    modules = {"theta": torch.tensor(1.0)} if isinstance(method, CTKD) else None
    (top,) = {tap.top for tap in method.taps(SETUP) if tap.network == TEACHER}
    cut = given["teacher.logits"] if top is None else from_top(*top_logits(given["teacher.logits"], top), 10)
    whole = method.terms(batch_of(given), modules)["soft"]
    assert torch.equal(whole, method.terms(batch_of(given | {"teacher.logits": cut}), modules)["soft"])
    assert (top is None) == isinstance(method, LSKD)


def test_the_largest_logits_are_most_of_the_divergence():
    given = {"student.logits": logits(0).float(), "teacher.logits": 3 * logits(1).float()}
    whole, half, one = (KD(teacher_top=top).terms(batch_of(given), None)["soft"].item() for top in (None, 5, 1))
    assert abs(half - whole) < abs(one - whole)
    assert half == pytest.approx(whole, rel=0.05)


def test_more_logits_than_classes_are_refused():
    with pytest.raises(MethodError, match="teacher_top is 10; it must be less than the 10 classes of the data"):
        KD(teacher_top=10).check(SETUP)
