"""CIFAR-10: 60,000 small photographs of 10 classes."""

from __future__ import annotations

from typing import ClassVar, Literal

from retort.datasets._cifar import Cifar
from retort.datasets._fetch import Download
from retort.datasets._published import OfficialFacts

FOLDER = "cifar-10-batches-bin"


class Cifar10(Cifar):
    """CIFAR-10, 32 x 32 pixels, 10 classes, 50,000 training and 10,000 test images; its binary version."""

    source: ClassVar[str] = (
        "Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009, "
        "https://www.cs.toronto.edu/~kriz/cifar.html; no licence stated"
    )
    official: ClassVar[OfficialFacts] = OfficialFacts(
        train=50_000, test=10_000, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
    )
    downloads: ClassVar[tuple[Download, ...]] = (
        Download(
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            "c32a1d4ab5d03f1284b67883e8d87530",
            FOLDER,
            (f"{FOLDER}/data_batch_[1-5].bin", f"{FOLDER}/test_batch.bin"),
        ),
    )
    layout: ClassVar[str] = "data_batch_1.bin to data_batch_5.bin and test_batch.bin"
    inner_folders: ClassVar[tuple[str, ...]] = (FOLDER,)
    training_files: ClassVar[tuple[str, ...]] = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
    test_file: ClassVar[str] = "test_batch.bin"
    label_bytes: ClassVar[int] = 1
    class_names: ClassVar[tuple[str, ...]] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip

    name: Literal["cifar10"] = "cifar10"
