"""The binary version of the CIFAR sets: records of labels and 3,072 bytes of red, green, blue. No torch at import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from retort.dataset import DatasetError
from retort.datasets._published import Arrays
from retort.datasets._roots import Files

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 32
PIXELS = 3 * SIDE * SIDE


class Cifar(Arrays):
    """Base of the CIFAR sets. The pickled version is never read."""

    image_size: ClassVar[int] = SIDE
    training_files: ClassVar[tuple[str, ...]]
    test_file: ClassVar[str]
    label_bytes: ClassVar[int]
    """Bytes before a record's pixels; the last of them is the class."""

    def _count(self, files: Files) -> tuple[int, int]:
        train = sum(self._records(files.file(name), files.file(name).stat().st_size) for name in self.training_files)
        test = files.file(self.test_file)
        return train, self._records(test, test.stat().st_size)

    def _records(self, file: Path, size: int) -> int:
        record = self.label_bytes + PIXELS
        if size % record:
            raise DatasetError(
                f"{file.name} has {size:,} bytes, not a whole number of {record:,}-byte records: it is cut short "
                "or another file"
            )
        return size // record

    def _read(self, files: Files) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        import torch

        splits = [self._read_file(files.file(name)) for name in self.training_files]
        train = torch.cat([pixels for pixels, _ in splits]), torch.cat([labels for _, labels in splits])
        return train, self._read_file(files.file(self.test_file))

    def _read_file(self, file: Path) -> tuple[Tensor, Tensor]:
        import numpy as np
        import torch

        content = torch.from_numpy(np.fromfile(file, dtype=np.uint8))
        records = content.view(self._records(file, len(content)), -1)
        labels = records[:, self.label_bytes - 1].long()
        self._refuse_labels(file.name, labels)
        return records[:, self.label_bytes :].reshape(-1, 3, SIDE, SIDE), labels
