"""The digits, and the shares of them that are kept."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from retort.dataset import Split
from retort.datasets.digits import COUNTS, Digits

DIGEST = "004b298a4d0fd48f7354d6f79de2d1270f4ed925869b719497eef32d1424d4b0"
"""Of the fixed parts: results before and after a change of this file can be compared while it stays."""


def everything(split: Split) -> torch.Tensor:
    return split.inputs(torch.arange(len(split)))


def test_the_splits_are_the_fixed_ones() -> None:
    loaded = Digits().load([])
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (1257, 180, 360)
    assert loaded.digest == DIGEST


def test_the_splits_together_are_scikit_learns_scans() -> None:
    scans, labels = load_digits(return_X_y=True)
    loaded = Digits().load([])
    splits = (loaded.train, loaded.validation, loaded.test)
    found = sorted(
        (int(label), image[0].flatten().tolist())
        for split in splits
        for image, label in zip(everything(split), split.targets, strict=True)
    )
    wanted = sorted(
        (int(label), [round(v * 255 / 16) for v in scan]) for scan, label in zip(scans.tolist(), labels, strict=True)
    )
    assert found == wanted
    assert tuple(torch.bincount(torch.from_numpy(labels)).tolist()) == COUNTS


def test_grey_is_repeated_in_three_channels() -> None:
    images = everything(Digits().load([]).test)
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])
    assert (images.min().item(), images.max().item()) == (0, 255)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.1, 0.5])
def test_a_share_of_the_labels_is_stratified_and_leaves_the_other_splits_alone(share: float) -> None:
    whole, kept = Digits().load([]), Digits(label_share=share).load([])
    per_class = torch.bincount(kept.train.targets, minlength=10)
    wanted = (torch.bincount(whole.train.targets) * share).round().clamp(min=1)
    assert torch.equal(per_class, wanted.long())
    assert Digits(label_share=share).facts([]).train == len(kept.train)
    for split in ("validation", "test"):
        assert torch.equal(everything(getattr(kept, split)), everything(getattr(whole, split)))


def test_another_seed_draws_other_splits_of_the_same_sizes() -> None:
    first, second = Digits(label_share=0.1).load([]), Digits(label_share=0.1, split_seed=1).load([])
    assert first.digest != second.digest
    assert torch.equal(torch.bincount(first.test.targets), torch.bincount(second.test.targets))
    assert not torch.equal(everything(first.test), everything(second.test))
