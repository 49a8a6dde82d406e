"""Digits: 1,797 small scans of handwritten digits, which scikit-learn carries along."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from retort.dataset import Dataset, DatasetError, ImageClassFacts, LoadedDataset
from retort.datasets._split import apportion, drawn_order

COUNTS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
"""Images of each digit, 0 to 9."""
VALIDATION, TEST = 180, 360
"""Images of those two parts; the other 1,257 are for training."""
GREY_LEVELS = 16
"""The scans' brightest value."""


class Digits(Dataset):
    """Handwritten digits, 8 x 8 pixels, grey, 10 classes; stratified training, validation and test splits."""

    source: ClassVar[str] = (
        "Alpaydin, Kaynak: Optical Recognition of Handwritten Digits (its test split), UCI Machine Learning "
        "Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0; as shipped by scikit-learn"
    )

    name: Literal["digits"] = "digits"
    label_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the training split that is kept, class by class, at least one image each."""
    split_seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the split, and of the choice among the training split's images."""

    def facts(self, roots: Sequence[Path]) -> ImageClassFacts:
        train = sum(kept for kept, _, _ in self._sizes())
        return ImageClassFacts(
            classes=len(COUNTS),
            class_names=tuple("0123456789"),
            image_size=8,
            train=train,
            validation=VALIDATION,
            test=TEST,
        )

    def load(self, roots: Sequence[Path]) -> LoadedDataset:
        import numpy as np
        import torch

        from retort.datasets._memory import MemorySplit, loaded

        scans_and_labels = torch.from_numpy(np.loadtxt(_scikit_learns_file(), delimiter=","))
        scans, targets = scans_and_labels[:, :-1], scans_and_labels[:, -1].long()
        grey = scans.reshape(-1, 1, 8, 8).mul(255 / GREY_LEVELS).round().to(torch.uint8)
        pixels = grey.expand(-1, 3, -1, -1)
        positions = [torch.tensor(split) for split in self._parts(targets.tolist())]
        train, validation, test = (MemorySplit(pixels[p].contiguous(), targets[p]) for p in positions)
        return loaded(self.facts(roots), train, validation, test)

    def _sizes(self) -> list[tuple[int, int, int]]:
        """Images of each class in the training, validation and test split."""
        sizes = []
        for count, validation, test in zip(COUNTS, apportion(VALIDATION, COUNTS), apportion(TEST, COUNTS), strict=True):
            sizes.append((max(1, round(self.label_share * (count - validation - test))), validation, test))
        return sizes

    def _parts(self, labels: list[int]) -> tuple[list[int], list[int], list[int]]:
        """Positions of the training, validation and test images, in rising order."""
        splits: tuple[list[int], list[int], list[int]] = ([], [], [])
        for digit, (train, validation, test) in enumerate(self._sizes()):
            members = [i for i, label in enumerate(labels) if label == digit]
            drawn = [members[i] for i in drawn_order(len(members), self.split_seed, f"digit {digit}")]
            held_out = validation + test
            splits[2].extend(drawn[:test])
            splits[1].extend(drawn[test:held_out])
            splits[0].extend(drawn[held_out : held_out + train])
        train_part, validation_part, test_part = (sorted(split) for split in splits)
        return train_part, validation_part, test_part


def _scikit_learns_file() -> Path:
    """The file that its `load_digits` reads; importing it for that takes longer than a short training, and 70 MiB."""
    installed = find_spec("sklearn")
    if installed is None or not installed.submodule_search_locations:
        raise DatasetError("digits ships with scikit-learn, which is not installed on this worker")
    return Path(installed.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
