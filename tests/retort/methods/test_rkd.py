import pytest
import torch

from retort.methods.rkd import RKD, relations
from tests.retort.methods.goldens import batch_of


def golden(case, given):
    h = case["hyperparameters"]
    batch = batch_of(given)
    weighted = RKD(distance_weight=h["distance_weight"], angle_weight=h["angle_weight"]).terms(batch, None)
    return {"loss": sum(weighted.values()), **RKD(distance_weight=1, angle_weight=1).terms(batch, None)}


def embedding(seed, features=5):
    return torch.randn(6, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def terms(student, teacher):
    return RKD().terms(batch_of({"student.embedding": student, "teacher.embedding": teacher}), None)


def test_relations_do_not_see_shift_rotation_and_scale():
    turned = 3 * embedding(0) @ torch.linalg.qr(embedding(1)[:5]).Q + 7
    for term in terms(turned, embedding(0)).values():
        assert term.item() == pytest.approx(0, abs=1e-12)


def test_distances_have_a_mean_of_one_over_pairs_of_different_images():
    distances, _ = relations(embedding(0))
    assert distances.sum().item() / (6 * 5) == pytest.approx(1)


def test_angles_of_an_equilateral_triangle():
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], dtype=torch.float64)
    distances, angles = relations(corners)
    torch.testing.assert_close(distances, 1 - torch.eye(3, dtype=torch.float64))
    assert angles[0, 1, 2].item() == pytest.approx(0.5)
    assert angles[0, 1, 1].item() == pytest.approx(1)
    assert angles[0, 0, 1].item() == 0


def test_equal_embeddings_in_a_batch_have_a_finite_gradient():
    student = embedding(0)[[0, 0, 1, 2, 3, 4]].requires_grad_()
    sum(terms(student, embedding(1)).values()).backward()
    assert torch.isfinite(student.grad).all()


def test_the_weights_are_factors():
    batch = batch_of({"student.embedding": embedding(0), "teacher.embedding": embedding(1)})
    one, many = (RKD(distance_weight=w, angle_weight=2 * w).terms(batch, None) for w in (1, 10))
    assert many["distance"].item() == pytest.approx(10 * one["distance"].item())
    assert many["angle"].item() == pytest.approx(10 * one["angle"].item())
