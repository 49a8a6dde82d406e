"""CIFAR-100: 60,000 small photographs of 100 classes."""

from __future__ import annotations

from typing import ClassVar, Literal

from retort.datasets._cifar import Cifar
from retort.datasets._fetch import Download
from retort.datasets._published import OfficialFacts

FOLDER = "cifar-100-binary"


class Cifar100(Cifar):
    """CIFAR-100, 32 x 32 pixels, 100 classes, 50,000 training and 10,000 test images; its binary version."""

    source: ClassVar[str] = (
        "Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009, "
        "https://www.cs.toronto.edu/~kriz/cifar.html; no licence stated"
    )
    official: ClassVar[OfficialFacts] = OfficialFacts(
        train=50_000, test=10_000, mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)
    )
    downloads: ClassVar[tuple[Download, ...]] = (
        Download(
            ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
            "03b5dce01913d631647c71ecec9e9cb8",
            FOLDER,
            (f"{FOLDER}/train.bin", f"{FOLDER}/test.bin"),
        ),
    )
    layout: ClassVar[str] = "train.bin and test.bin"
    inner_folders: ClassVar[tuple[str, ...]] = (FOLDER,)
    training_files: ClassVar[tuple[str, ...]] = ("train.bin",)
    test_file: ClassVar[str] = "test.bin"
    label_bytes: ClassVar[int] = 2
    """The first is the superclass."""
    class_names: ClassVar[tuple[str, ...]] = (
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
        "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
        "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
        "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo",
        "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple",
        "motorcycle", "mountain", "mouse", "mushroom", "oak", "orange", "orchid", "otter", "palm", "pear",
        "pickup_truck", "pine", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray",
        "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake",
        "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
        "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow",
        "wolf", "woman", "worm",
    )  # fmt: skip

    name: Literal["cifar100"] = "cifar100"
