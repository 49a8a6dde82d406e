"""Each published format: what is read out of it, and what is said of a broken one."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models._meta import _IMAGENET_CATEGORIES

from retort.dataset import DatasetError
from retort.datasets import imagenet, stanford_dogs
from retort.datasets.cifar100 import Cifar100
from tests.retort.datasets import published
from tests.retort.datasets.pictures import paint
from tests.retort.datasets.test_published import dataset, everything, refusal


def test_cifar_pixels_are_red_green_blue_row_by_row(tmp_path: Path) -> None:
    folder = published.cifar100(tmp_path)
    pixels = np.arange(3072, dtype=np.uint32).astype(np.uint8)
    (folder / "test.bin").write_bytes(bytes([3, 42]) + pixels.tobytes())
    test = dataset("cifar100", folder).load([tmp_path]).test
    assert test.targets.tolist() == [42]
    assert torch.equal(everything(test)[0], torch.from_numpy(pixels).view(3, 32, 32))


def test_cifar_files_that_are_cut_short_are_named(tmp_path: Path) -> None:
    for name, file in (("cifar10", "data_batch_3.bin"), ("cifar100", "test.bin")):
        folder = published.WRITERS[name](tmp_path / name)
        (folder / file).write_bytes((folder / file).read_bytes()[:-1])
        assert refusal(dataset(name, folder), [tmp_path]).startswith(f"{file} has ")
        (folder / file).write_bytes(b"")
    assert "0 test images were found" in refusal(dataset("cifar100", tmp_path / "cifar100"), [tmp_path])


def test_a_label_that_no_class_has_is_refused_with_its_place(tmp_path: Path) -> None:
    folder = published.cifar100(tmp_path)
    (folder / "train.bin").write_bytes(published.cifar_records([1, 2, 100], 2))
    with pytest.raises(DatasetError, match=r"^image 2 in train\.bin has the label 100; labels are 0 to 99$"):
        dataset("cifar100", folder).load([tmp_path])
    folder = published.mnist(tmp_path)
    labels = np.full(30, 10, dtype=np.uint8)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(published.idx(labels)))
    with pytest.raises(DatasetError, match=r"^image 0 in t10k-labels-idx1-ubyte has the label 10; labels are 0 to 9$"):
        dataset("mnist", folder).load([tmp_path])


def test_the_classes_of_cifar_100_are_the_published_hundred() -> None:
    names = Cifar100.class_names
    assert len(names) == len(set(names)) == 100
    # The order of the published labels is the alphabet's.
    assert list(names) == sorted(names)
    told = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert (names[0], names[42], names[99], told[:16]) == ("apple", "leopard", "worm", "88be9e4327820b3c")


def test_grey_is_repeated_in_three_channels(tmp_path: Path) -> None:
    images = everything(dataset("mnist", published.mnist(tmp_path)).load([tmp_path]).test)
    assert images.shape == (30, 3, 28, 28)
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])


def write_idx(folder: Path, name: str, content: bytes) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / f"{name}.gz").unlink(missing_ok=True)
    (folder / name).write_bytes(content)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_that_end_too_soon_or_too_late_are_named(zipped: bool, tmp_path: Path) -> None:
    name = "t10k-images-idx3-ubyte"
    for change, said in ((slice(None, -1), "is cut short"), (slice(None, 9), "is cut short"), (None, "goes on after")):
        folder = published.mnist(tmp_path / f"{change}")
        whole = (folder / name).read_bytes()
        content = whole + b"\0" if change is None else whole[change]
        write_idx(folder, name, content)
        if zipped:
            (folder / name).unlink()
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        with pytest.raises(DatasetError, match=said):
            dataset("mnist", folder).load([tmp_path])


def test_idx_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    folder = published.mnist(tmp_path)
    write_idx(folder, "train-labels-idx1-ubyte", published.idx(np.zeros((200, 28, 28), dtype=np.uint8)))
    sentence = refusal(dataset("mnist", folder), [tmp_path])
    assert sentence == "train-labels-idx1-ubyte begins with 00000803 000000c8; an IDX file of N bytes was wanted"
    write_idx(folder, "train-labels-idx1-ubyte", published.idx(np.zeros(199, dtype=np.uint8)))
    sentence = refusal(dataset("mnist", folder), [tmp_path])
    assert sentence == "train-images-idx3-ubyte has 200 images, train-labels-idx1-ubyte has 199 labels"
    write_idx(folder, "train-images-idx3-ubyte", published.idx(np.zeros((30, 20, 20), dtype=np.uint8)))
    sentence = refusal(dataset("mnist", folder), [tmp_path])
    assert sentence.endswith("00000803 0000001e 00000014 00000014; an IDX file of N x 28 x 28 bytes was wanted")


def test_an_idx_file_that_claims_billions_is_not_believed(tmp_path: Path) -> None:
    folder = published.mnist(tmp_path)
    for name, dimensions, shape in (("images-idx3", 3, (28, 28)), ("labels-idx1", 1, ())):
        head = bytes([0, 0, 8, dimensions]) + b"\xff\xff\xff\xff" + b"".join(n.to_bytes(4, "big") for n in shape)
        write_idx(folder, f"train-{name}-ubyte", head)
    assert "4,294,967,295 training images were found" in refusal(dataset("mnist", folder), [tmp_path])


def test_broken_gzip_is_refused(tmp_path: Path) -> None:
    folder = published.mnist(tmp_path)
    file = folder / "t10k-labels-idx1-ubyte.gz"
    whole = file.read_bytes()
    for content in (b"no gzip", whole[: len(whole) // 2], whole[:20] + b"\xff\xff" + whole[22:]):
        file.write_bytes(content)
        with pytest.raises(DatasetError, match=r"t10k-labels-idx1-ubyte\.gz (cannot be unpacked|is cut short)"):
            dataset("mnist", folder).load([tmp_path])


def test_tiny_imagenets_classes_are_sorted_and_have_distinct_names(tmp_path: Path) -> None:
    facts = dataset("tiny_imagenet", published.tiny_imagenet(tmp_path)).facts([tmp_path])
    assert facts is not None
    assert facts.class_names == ("goldfish", "European fire salamander", "crane (n02012849)", "crane (n03126707)")


def test_a_whole_tiny_imagenet_is_known_without_counting_its_files(tmp_path: Path) -> None:
    folder = published.tiny_imagenet(tmp_path)
    for number in range(200 - len(published.WNIDS)):
        (folder / "train" / f"n2{number:07}").mkdir()
    (folder / "wnids.txt").write_text("\n".join(child.name for child in (folder / "train").iterdir()))
    facts = dataset("tiny_imagenet", folder).facts([tmp_path])
    assert facts is not None
    assert (facts.classes, facts.train, facts.validation, facts.test) == (200, 90_000, 10_000, 10_000)
    with pytest.raises(DatasetError, match="has no training image"):
        dataset("tiny_imagenet", folder).load([tmp_path])


def test_tiny_imagenets_annotations_name_known_classes(tmp_path: Path) -> None:
    folder = published.tiny_imagenet(tmp_path)
    (folder / "val" / "val_annotations.txt").write_text("val_0_20.JPEG\tn99999999\t0\n")
    sentence = refusal(dataset("tiny_imagenet", folder), [tmp_path])
    assert sentence.endswith("gives 'val_0_20.JPEG' the class 'n99999999', which wnids.txt does not name")


def test_a_class_without_training_images_is_named(tmp_path: Path) -> None:
    folder = published.tiny_imagenet(tmp_path)
    (folder / "wnids.txt").write_text("\n".join([*published.WNIDS, "n00000001"]))
    with pytest.raises(DatasetError, match="class 'n00000001' has no training image"):
        dataset("tiny_imagenet", folder).load([tmp_path])


def test_imagenets_names_are_torchvisions_in_the_order_of_its_outputs() -> None:
    names = imagenet._known_names()
    assert list(names.values()) == _IMAGENET_CATEGORIES
    assert list(names) == sorted(names)


def test_a_subset_of_imagenet_is_named_and_ordered_likewise(tmp_path: Path) -> None:
    facts = dataset("imagenet", published.imagenet(tmp_path)).facts([tmp_path])
    assert facts is not None
    assert facts.class_names == ("goldfish", "European fire salamander", "crane bird", "crane")


def test_a_whole_imagenet_is_known_without_counting_its_files(tmp_path: Path) -> None:
    for wnid in imagenet._known_names():
        for split in ("train", "val"):
            (tmp_path / split / wnid).mkdir(parents=True)
    facts = dataset("imagenet", tmp_path).facts([tmp_path])
    assert facts is not None
    assert (facts.classes, facts.train + facts.validation, facts.test) == (1000, 1_281_167, 50_000)
    with pytest.raises(DatasetError, match="0 training images were found"):
        dataset("imagenet", tmp_path).load([tmp_path])


def test_imagenets_validation_images_must_lie_in_class_folders(tmp_path: Path) -> None:
    folder = published.imagenet(tmp_path)
    (folder / "val" / "n03126707").rename(folder / "val" / "n03126708")
    assert "val has no folder 'n03126707'" in refusal(dataset("imagenet", folder), [tmp_path])
    (folder / "train").rename(folder / "training")
    assert "holds no folder 'train'" in refusal(dataset("imagenet", folder), [tmp_path])
    paint(folder / "train" / "n01443537" / "1.JPEG", (0, 0, 0))
    assert "train holds 1 class folders" in refusal(dataset("imagenet", folder), [tmp_path])


def test_birds_are_named_without_numbers(tmp_path: Path) -> None:
    facts = dataset("cub200", published.cub200(tmp_path)).facts([tmp_path])
    assert facts is not None
    assert facts.class_names == ("Black footed Albatross", "Auklet", "Wren")
    assert (facts.train + facts.validation, facts.test) == (60, 9)


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("image_class_labels.txt", "1 9", "gives image 1 the class 9, which classes.txt lacks"),
        ("image_class_labels.txt", "x 1", "gives image 1 the class None, which classes.txt lacks"),
        ("train_test_split.txt", "1 2", r"has 2 for image 1; wanted 1 \(training\) or 0 \(test\)"),
        ("train_test_split.txt", "x 1", r"has None for image 1"),
        ("images.txt", "1", "line 1 of images.txt has one word"),
    ],
)
def test_wrong_lines_of_birds_are_refused(file: str, line: str, said: str, tmp_path: Path) -> None:
    folder = published.cub200(tmp_path)
    first, _, rest = (folder / file).read_text().partition("\n")
    assert first.startswith("1 ")
    (folder / file).write_text(f"{line}\n{rest}")
    with pytest.raises(DatasetError, match=said):
        dataset("cub200", folder).facts([tmp_path])


def test_breeds_are_named_after_their_folders(tmp_path: Path) -> None:
    facts = dataset("stanford_dogs", published.stanford_dogs(tmp_path)).facts([tmp_path])
    assert facts is not None
    assert facts.class_names == ("Chihuahua", "Japanese spaniel", "Bernese mountain dog")


def test_whole_dogs_are_known_without_reading_matlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = published.stanford_dogs(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    assert dataset("stanford_dogs", root).facts([tmp_path]) is None
    for number in range(stanford_dogs.BREEDS - 3):
        (root / "Images" / f"n1{number:07}-Breed_{number}").mkdir()
    facts = dataset("stanford_dogs", root).facts([tmp_path])
    assert facts is not None
    assert (facts.classes, facts.train + facts.validation, facts.test) == (120, 12_000, 8580)


def test_lists_of_dogs_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    root = published.stanford_dogs(tmp_path)
    names = [f"n02085620-Chihuahua/n02085620_{n}.jpg" for n in range(3)]
    for labels in ([1, 1, 2], [1, 1]):
        published.write_mat(root / "train_list.mat", names, labels)
        assert "are not those of its files' folders" in refusal(dataset("stanford_dogs", root), [tmp_path])
    published.write_mat(root / "train_list.mat", names, [1, 1, 1])
    assert "which train_list.mat lacks" in refusal(dataset("stanford_dogs", root), [tmp_path])
    published.write_mat(root / "train_list.mat", ["../../secret.jpg"], [1])
    published.write_mat(root / "test_list.mat", ["../../secret.jpg"], [1])
    (tmp_path.parent / "secret.jpg").write_bytes(b"")
    assert "not a file that may be read" in refusal(dataset("stanford_dogs", root), [tmp_path])
    for content in (b"no list", b"MATLAB 5.0 MAT-file" + bytes(200)):
        (root / "train_list.mat").write_bytes(content)
        assert "is not a list of files and labels in MATLAB's format" in refusal(
            dataset("stanford_dogs", root), [tmp_path]
        )


def test_rooms_of_the_test_list_are_those_of_the_training_list(tmp_path: Path) -> None:
    root = published.mit67(tmp_path)
    (root / "TestImages.txt").write_text("cellar/1.jpg")
    assert refusal(dataset("mit67", root), [tmp_path]) == (
        "TestImages.txt names the class 'cellar', which TrainImages.txt lacks"
    )


def test_actions_are_those_below_the_first_line(tmp_path: Path) -> None:
    root = published.stanford40(tmp_path)
    facts = dataset("stanford40", root).facts([tmp_path])
    assert facts is not None
    assert facts.class_names == ("applauding", "brushing_teeth", "riding_a_bike")
    (root / "ImageSplits" / "actions.txt").write_text("action_name\tnumber_of_images\napplauding 23\n")
    assert "names 1 actions below its first line" in refusal(dataset("stanford40", root), [tmp_path])
