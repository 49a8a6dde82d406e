"""Small sets in the formats of the published ones. Every image of a class has that class's colour, and a shade."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from retort.dataset import Dataset, DatasetError
from tests.retort.datasets.pictures import Colour, paint

TRAIN_EACH, TEST_EACH = 20, 3
"""Images of each class in the two official parts."""


def refusal(made: Dataset, roots: list[Path]) -> str:
    """The one sentence with which facts and load refuse alike."""
    sentences = []
    for look in (made.facts, made.load):
        with pytest.raises(DatasetError) as raised:
            look(roots)
        sentences.append(str(raised.value))
    assert sentences[0] == sentences[1]
    assert "\n" not in sentences[0]
    return sentences[0]


def colour(label: int, number: int = 0) -> Colour:
    """Red stands for the class, green for the image."""
    return (40 * label, 3 * number, 7)


def cifar_records(labels: list[int], label_bytes: int) -> bytes:
    """Records of the CIFAR sets' binary version."""
    content = bytearray()
    for number, label in enumerate(labels):
        content += bytes([99] * (label_bytes - 1) + [label])
        for value in (label, number % 50, 7):
            content += bytes([value]) * 1024
    return bytes(content)


def cifar10(root: Path) -> Path:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for batch in range(1, 6):
        (folder / f"data_batch_{batch}.bin").write_bytes(cifar_records(list(range(10)) * 4, 1))
    (folder / "test_batch.bin").write_bytes(cifar_records(list(range(10)), 1))
    (folder / "batches.meta.txt").write_text("airplane\n")
    return folder


def cifar100(root: Path) -> Path:
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    (folder / "train.bin").write_bytes(cifar_records(list(range(5)) * 10 + list(range(5, 100)) * 10, 2))
    (folder / "test.bin").write_bytes(cifar_records(list(range(100)), 2))
    return folder


def idx(arrays: NDArray[np.uint8]) -> bytes:
    """An IDX file of unsigned bytes."""
    return struct.pack(f">HBB{arrays.ndim}I", 0, 8, arrays.ndim, *arrays.shape) + arrays.tobytes()


def mnist(root: Path) -> Path:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for split, each in (("train", TRAIN_EACH), ("t10k", TEST_EACH)):
        labels = np.repeat(np.arange(10, dtype=np.uint8), each)
        grey = np.broadcast_to((labels * 20)[:, None, None], (len(labels), 28, 28))
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx(grey))
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


def paint_all(folder: Path, name: Callable[[int, int], str], classes: int, numbers: range) -> list[tuple[int, str]]:
    """Paint some numbers of each class under names that a function gives; (class, name) of each."""
    made = [(label, name(label, number), number) for label in range(classes) for number in numbers]
    for label, file, number in made:
        paint(folder / file, colour(label, number))
    return [(label, file) for label, file, _ in made]


TRAIN, TEST = range(TRAIN_EACH), range(TRAIN_EACH, TRAIN_EACH + TEST_EACH)
WNIDS = ("n01443537", "n01629819", "n03126707", "n02012849")


def tiny_imagenet(root: Path) -> Path:
    folder = root / "tiny-imagenet-200"
    order = sorted(WNIDS)
    paint_all(folder, lambda c, n: f"train/{order[c]}/images/{order[c]}_{n}.JPEG", 4, TRAIN)
    (folder / "train" / order[0] / f"{order[0]}_boxes.txt").write_text("n01443537_0.JPEG\t0\t0\t1\t1\n")
    tests = paint_all(folder / "val" / "images", lambda c, n: f"val_{c}_{n}.JPEG", 4, TEST)
    lines = [f"{file}\t{order[label]}\t0\t0\t62\t62\n" for label, file in tests]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(WNIDS))
    words = ("goldfish, Carassius auratus", "European fire salamander", "crane", "crane, large bird")
    (folder / "words.txt").write_text("".join(f"{w}\t{n}\n" for w, n in zip(WNIDS, words, strict=True)))
    return folder


def imagenet(root: Path) -> Path:
    order = sorted(WNIDS)
    for split, numbers in (("train", TRAIN), ("val", TEST)):
        paint_all(root / "ILSVRC" / split, lambda c, n: f"{order[c]}/ILSVRC2012_{n}.JPEG", 4, numbers)
    return root / "ILSVRC"


def cub200(root: Path) -> Path:
    folder = root / "CUB_200_2011"
    names = [f"{label + 1:03}.{bird}" for label, bird in enumerate(("Black_footed_Albatross", "Auklet", "Wren"))]
    splits = [
        paint_all(folder / "images", lambda c, n: f"{names[c]}/bird_{n}.jpg", 3, numbers) for numbers in (TRAIN, TEST)
    ]
    images = [(label, file, int(split == 0)) for split, made in enumerate(splits) for label, file in made]
    for list_name, of in (
        ("images.txt", lambda row: row[1]),
        ("image_class_labels.txt", lambda row: row[0] + 1),
        ("train_test_split.txt", lambda row: row[2]),
    ):
        (folder / list_name).write_text("".join(f"{key} {of(row)}\n" for key, row in enumerate(images, 1)))
    (folder / "classes.txt").write_text("".join(f"{key} {name}\n" for key, name in enumerate(names, 1)))
    return folder


def stanford_dogs(root: Path) -> Path:
    breeds = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02107683-Bernese_mountain_dog")
    for split, numbers in (("train", TRAIN), ("test", TEST)):
        made = paint_all(root / "Images", lambda c, n: f"{breeds[c]}/{breeds[c][:9]}_{n}.jpg", 3, numbers)
        write_mat(root / f"{split}_list.mat", [file for _, file in made], [label + 1 for label, _ in made])
    return root


def write_mat(file: Path, names: list[str], labels: list[int]) -> None:
    """A list of Stanford Dogs: cells of names above each other, and labels from 1."""
    cells = np.empty((len(names), 1), dtype=object)
    cells[:, 0] = names
    savemat(file, {"file_list": cells, "annotation_list": cells, "labels": np.array(labels, dtype=float)[:, None]})


def mit67(root: Path) -> Path:
    rooms = ("airport_inside", "kitchen", "tv_studio")
    for name, numbers in (("Train", TRAIN), ("Test", TEST)):
        made = paint_all(root / "Images", lambda c, n: f"{rooms[c]}/room {n}.jpg", 3, numbers)
        (root / f"{name}Images.txt").write_text("\n".join(file for _, file in made))
    return root


def stanford40(root: Path) -> Path:
    actions = ("applauding", "brushing_teeth", "riding_a_bike")
    (root / "ImageSplits").mkdir(parents=True)
    for split, numbers in (("train", TRAIN), ("test", TEST)):
        made = paint_all(root / "JPEGImages", lambda c, n: f"{actions[c]}_{n:03}.jpg", 3, numbers)
        for label, action in enumerate(actions):
            lines = [f"{file}\n" for of, file in made if of == label]
            (root / "ImageSplits" / f"{action}_{split}.txt").write_text("".join(lines))
    table = "action_name\tnumber_of_images\n" + "".join(f"{action}\t\t23\n" for action in actions)
    (root / "ImageSplits" / "actions.txt").write_text(table)
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cub200": cub200,
    "fashion_mnist": mnist,
    "imagenet": imagenet,
    "mit67": mit67,
    "mnist": mnist,
    "stanford40": stanford40,
    "stanford_dogs": stanford_dogs,
    "tiny_imagenet": tiny_imagenet,
}
"""Write a small set of that name below a folder; gives the folder to name."""
