import pytest
import torch

from retort.methods.sp import SP
from tests.retort.methods.goldens import batch_of


def golden(case, given):
    term = SP(weight=1).terms(batch_of(given), None)["similarity"]
    return {"loss": term, "stage.0": term}


def maps(seed, images=5, channels=3, side=4):
    shape = images, channels, side, side
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def term(student, teacher, **fields):
    return SP(**fields).terms(batch_of({"student.maps.0": student, "teacher.maps.0": teacher}), None)["similarity"]


def test_it_is_zero_for_maps_of_the_same_similarities():
    turn = torch.linalg.qr(maps(1, 48).flatten(1)).Q
    turned = (maps(0).flatten(1) @ turn).reshape(5, 12, 2, 2)
    assert term(4 * turned, maps(0)).item() == pytest.approx(0, abs=1e-12)


def test_images_all_alike_against_images_all_different():
    alike, different = (
        torch.ones(4, 1, 2, 2, dtype=torch.float64),
        torch.eye(4, dtype=torch.float64).reshape(4, 1, 2, 2),
    )
    # Rows of 1/2 against rows with a single 1.
    assert term(alike, different, weight=1).item() == pytest.approx((1 / 4 + 3 / 4) / 4)


def test_only_the_last_map_counts():
    given = {"student.maps.0": maps(0), "student.maps.1": maps(1), "teacher.maps.0": maps(2), "teacher.maps.1": maps(1)}
    assert SP().terms(batch_of(given), None)["similarity"].item() == pytest.approx(0, abs=1e-12)


def test_one_image_is_like_itself_alone():
    assert term(maps(0, images=1), maps(1, images=1)).item() == pytest.approx(0, abs=1e-12)
