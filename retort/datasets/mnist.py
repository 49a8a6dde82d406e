"""MNIST: 70,000 handwritten digits."""

from __future__ import annotations

from typing import ClassVar, Literal

from retort.datasets._fetch import Download
from retort.datasets._idx import Idx, idx_downloads
from retort.datasets._published import OfficialFacts


class Mnist(Idx):
    """MNIST, handwritten digits, 28 x 28 pixels, grey, 10 classes, 60,000 training and 10,000 test images."""

    source: ClassVar[str] = (
        "LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to Document Recognition, 1998, "
        "https://doi.org/10.1109/5.726791; no licence stated"
    )
    official: ClassVar[OfficialFacts] = OfficialFacts(
        train=60_000, test=10_000, mean=(0.1307, 0.1307, 0.1307), std=(0.3081, 0.3081, 0.3081)
    )
    downloads: ClassVar[tuple[Download, ...]] = idx_downloads(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    )
    inner_folders: ClassVar[tuple[str, ...]] = ("MNIST/raw", "raw")
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")

    name: Literal["mnist"] = "mnist"
