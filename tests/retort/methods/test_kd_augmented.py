import pytest
import torch

from retort.method import STUDENT, TEACHER
from retort.methods.kd import KD, softened_divergence
from retort.methods.kd_augmented import VIEWS, KDAugmented
from retort.outputs import Outputs
from retort.view import CLEAN
from tests.retort.methods.goldens import batch_of


def logits(seed):
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("augmentation", VIEWS)
def test_both_views_weigh_alike(augmentation):
    view = VIEWS[augmentation]
    outputs = {
        (STUDENT, CLEAN): Outputs(logits(0)),
        (TEACHER, CLEAN): Outputs(logits(1)),
        (STUDENT, view): Outputs(logits(2)),
        (TEACHER, view): Outputs(logits(3)),
    }
    batch = batch_of({"student.logits": logits(0)}, outputs=outputs)
    found = KDAugmented(augmentation=augmentation).terms(batch, None)
    assert found["soft"].item() == KD().terms(batch, None)["soft"].item()
    wanted = 0.9 * softened_divergence(logits(2), logits(3), 4)
    assert found["augmented_soft"].item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("augmentation", VIEWS)
def test_the_engine_makes_each_view(pair, augmentation):
    made = pair(KDAugmented(augmentation=augmentation))
    batch = made.batch()
    assert {view for _, view in batch.outputs} == {CLEAN, VIEWS[augmentation]}
    assert made.terms(batch)["augmented_soft"].item() > 0
