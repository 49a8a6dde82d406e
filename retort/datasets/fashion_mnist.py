"""Fashion-MNIST: 70,000 pictures of clothes."""

from __future__ import annotations

from typing import ClassVar, Literal

from retort.datasets._fetch import Download
from retort.datasets._idx import Idx, idx_downloads
from retort.datasets._published import OfficialFacts


class FashionMnist(Idx):
    """Fashion-MNIST, clothes, 28 x 28 pixels, grey, 10 classes, 60,000 training and 10,000 test images."""

    source: ClassVar[str] = (
        "Xiao, Rasul, Vollgraf: Fashion-MNIST, 2017, https://arxiv.org/abs/1708.07747, "
        "https://github.com/zalandoresearch/fashion-mnist, MIT"
    )
    official: ClassVar[OfficialFacts] = OfficialFacts(
        train=60_000, test=10_000, mean=(0.2860, 0.2860, 0.2860), std=(0.3530, 0.3530, 0.3530)
    )
    downloads: ClassVar[tuple[Download, ...]] = idx_downloads(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    )
    inner_folders: ClassVar[tuple[str, ...]] = ("FashionMNIST/raw", "raw")
    class_names: ClassVar[tuple[str, ...]] = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip

    name: Literal["fashion_mnist"] = "fashion_mnist"
