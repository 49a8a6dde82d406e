import math

import pytest
import torch
from torch.nn import functional as F

from retort.engine.train_state import cross_entropy
from retort.method import STUDENT, Batch, Mixing, Outputs
from retort.view import CLEAN
from tests.retort.engine.runs import recipe_of, run

N, K = 6, 5


def batch(logits, labels, mixed=None):
    nothing = torch.tensor(0)
    made = {} if mixed is None else {CLEAN: mixed}
    outputs = {(STUDENT, CLEAN): Outputs(logits)}
    return Batch(outputs, labels, torch.arange(N), nothing, nothing, nothing, nothing, made)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_cross_entropy_of_mixed_images_counts_both_labels_by_their_shares(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(N, K, generator=generator)
    labels, partner = torch.arange(N) % K, torch.arange(N).roll(2)
    weight = 0.5 + torch.rand(N, generator=generator) / 2
    found = cross_entropy(logits, batch(logits, labels, Mixing(torch.arange(N), partner, weight)), smoothing)
    soft = weight[:, None] * F.one_hot(labels, K) + (1 - weight)[:, None] * F.one_hot(labels[partner], K)
    torch.testing.assert_close(found, F.cross_entropy(logits, soft, label_smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_unmixed_images_have_one_label(smoothing):
    logits, labels = torch.randn(N, K, generator=torch.Generator().manual_seed(0)), torch.arange(N) % K
    whole = Mixing(torch.arange(N), torch.arange(N).roll(1), torch.ones(N))
    wanted = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert torch.equal(cross_entropy(logits, batch(logits, labels), smoothing), wanted)
    torch.testing.assert_close(cross_entropy(logits, batch(logits, labels, whole), smoothing), wanted)


EVERYTHING = {
    "resized_crop": {"area": [0.5, 1.0]},
    "flip": True,
    "policy": {"name": "trivialaugment"},
    "erasing": {},
    "cutout": 0.25,
    "mix": {"name": "mixup_or_cutmix"},
}


def test_a_run_with_every_augmentation_ends_with_the_same_bits_with_kept_outputs_or_without(tmp_path):
    methods = {"name": "kd"}, {"name": "mlld"}
    recipe = recipe_of(*methods, augmentation=EVERYTHING)
    recipe["students"][0]["labels"] = {"weight": 0.5}
    computed, filled, kept = (
        run(recipe, tmp_path / name, None if name == "computed" else tmp_path / "store")
        for name in ("computed", "filled", "kept")
    )
    assert computed.digest() == filled.digest() == kept.digest()
    assert not kept.warnings()
    assert all(math.isfinite(values["loss"]) for values in computed.metrics())
    recipe["training"]["augmentation"] = EVERYTHING | {"mix": None}
    assert run(recipe, tmp_path / "unmixed", tmp_path / "store").digest() != computed.digest()
