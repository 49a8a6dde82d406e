from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from retort.architectures import CARDS
from retort.method import STUDENT, TEACHER, MethodError, Setup
from retort.methods.cat_kd import CATKD
from retort.outputs import Outputs
from retort.view import CLEAN
from tests.retort.methods.conftest import FACTS
from tests.retort.methods.goldens import batch_of

SETUP = Setup(FACTS, FACTS.classes, CARDS["resnet8"], CARDS["resnet8x4"], 8, 2, CARDS)


def batch_of_maps(given):
    """Class maps, and the logits as their means over space."""
    outputs = {
        (network, CLEAN): Outputs(maps.mean((2, 3)), class_maps=maps)
        for network, maps in ((STUDENT, given["student.maps.0"]), (TEACHER, given["teacher.maps.0"]))
    }
    return batch_of(given, outputs=outputs)


def golden(case, given):
    h, batch = case["hyperparameters"], batch_of_maps(given)
    method = CATKD(
        weight=h["cat_weight"],
        resolution=h["cam_resolution"],
        normalise=h["normalize"],
        binarise=h["binarize"],
        classes=h["partial"] or None,
        counting="published" if "strictly above" in case["formula"] else "paper",
    )
    labels = h["ce_weight"] * F.cross_entropy(batch.student().logits, batch.targets)
    maps = method.terms(batch, None)["class_maps"]
    return {"loss": labels + maps, "ce_weighted": labels, "cat_weighted": maps}


def maps(seed, side=4):
    return torch.randn(3, 6, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def term(student, teacher, **fields):
    given = {"student.maps.0": student, "teacher.maps.0": teacher}
    return CATKD(**fields).terms(batch_of_maps(given), None)["class_maps"].item()


def test_only_the_averages_count():
    assert term(F.interpolate(F.avg_pool2d(maps(0), 2), scale_factor=2), maps(0)) == pytest.approx(0, abs=1e-12)
    assert term(maps(0) + 2, maps(0), weight=1) == pytest.approx(4)


def test_sizes_may_differ():
    assert term(F.interpolate(maps(0), scale_factor=2), maps(0)) == pytest.approx(0, abs=1e-12)


def test_normalised_maps_ignore_scale():
    assert term(3 * maps(0), maps(0), normalise=True) == pytest.approx(0, abs=1e-12)
    assert term(-maps(0), maps(0), normalise=True, weight=1) == pytest.approx(4 / 4)


def test_binarised_maps_are_one_where_they_exceed_their_mean_magnitude():
    teacher = torch.tensor([[5.0, 1, -2], [1, 3, 0], [0, 0, 0]])[None, None]
    wanted = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]])[None, None]
    assert term(wanted, teacher, binarise=True, resolution=3) == 0


@pytest.mark.parametrize(("counting", "changed"), [("paper", 2), ("published", 1)])
def test_only_the_classes_that_the_teacher_scores_highest_count(counting, changed):
    top = maps(0).mean((2, 3)).topk(changed).indices
    student = maps(1).scatter(1, top[:, :, None, None].expand(-1, -1, 4, 4), 0)
    teacher = maps(0)
    other = student.where(student == 0, 7)
    fields = {"classes": 2, "counting": counting}
    assert term(student, teacher, **fields) == pytest.approx(term(other, teacher, **fields))
    assert term(student, teacher) != pytest.approx(term(other, teacher))


def test_the_mean_of_the_class_maps_are_the_logits(pair):
    made = pair(CATKD())
    for outputs in made.batch().outputs.values():
        torch.testing.assert_close(outputs.class_maps.mean((2, 3)), outputs.logits)


def test_what_it_refuses():
    CATKD(classes=10).check(SETUP)
    with pytest.raises(MethodError, match=r"the teacher torchvision.vgg11 does not end in the mean of its last map"):
        CATKD().check(replace(SETUP, teacher=CARDS["torchvision.vgg11"]))
    with pytest.raises(MethodError, match=r"the student torchvision.squeezenet1_0 does not end in the mean of its"):
        CATKD().check(replace(SETUP, student=CARDS["torchvision.squeezenet1_0"]))
    with pytest.raises(MethodError, match="11 classes shall be compared; the data set has 10"):
        CATKD(classes=11).check(SETUP)
    with pytest.raises(MethodError, match="1 class means none"):
        CATKD(classes=1, counting="published").check(SETUP)
