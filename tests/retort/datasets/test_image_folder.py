"""Folders of images: what is found, split off, refused and passed over."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from retort.dataset import DatasetError, Decoding
from retort.datasets import _pictures
from retort.datasets._pictures import Folder, decode
from retort.datasets.image_folder import ImageFolder
from tests.retort.datasets.pictures import Colour, paint
from tests.retort.datasets.published import refusal

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
COLOURS: dict[str, Colour] = {"ash": RED, "birch": GREEN, "cedar": BLUE}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An allowed folder."""
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    return allowed


def trees(folder: Path, images: int = 10, ending: str = "png") -> Path:
    """Three classes, a colour each."""
    for name, colour in COLOURS.items():
        for number in range(images):
            paint(folder / name / f"{number:02}.{ending}", colour)
    return folder


def folder(path: Path, **fields: object) -> ImageFolder:
    return ImageFolder.model_validate({"name": "image_folder", "path": str(path), "image_size": 8} | fields)


def test_colours_are_found_under_their_labels(root: Path) -> None:
    loaded = folder(trees(root / "trees")).load([root])
    assert loaded.facts.class_names == ("ash", "birch", "cedar")
    assert (loaded.facts.train, loaded.facts.validation, loaded.facts.test) == (24, 3, 3)
    for split in (loaded.train, loaded.validation, loaded.test):
        for image, label in zip(split.inputs(torch.arange(len(split))), split.targets, strict=True):
            assert image.amax((1, 2)).tolist() == list(COLOURS[loaded.facts.class_names[label]])


def test_parts_that_are_named_are_taken_as_they_are(root: Path) -> None:
    for split, images in (("train", 5), ("val", 2), ("test", 3)):
        trees(root / "trees" / split, images)
    facts = folder(root / "trees").facts([root])
    assert facts is not None
    assert (facts.train, facts.validation, facts.test) == (15, 6, 9)


def test_folders_are_read_as_those_of_an_archive(root: Path) -> None:
    for split, images in (("training_set", 4), ("Test Images", 2)):
        trees(root / "named" / split, images)
    facts = folder(root / "named").facts([root])
    assert facts is not None
    assert (facts.class_names, facts.train, facts.test) == (("ash", "birch", "cedar"), 9, 6)
    for name in ("bus", "plane", "train"):
        for i in range(6):
            paint(root / "vehicles" / name / str(2019 + i % 2) / f"{i}.png", RED)
    facts = folder(root / "vehicles").facts([root])
    assert facts is not None
    assert (facts.class_names, facts.train) == (("bus", "plane", "train"), 12)
    for fold in ("fold1", "fold2"):
        trees(root / "folds" / fold, 2)
    sentence = refusal(folder(root / "folds"), [root])
    assert sentence.startswith(
        "the classes may be the outer or the inner folders (fold1/ (6 images: ash/ 2, birch/ 2, "
    )
    assert sentence.endswith(f"`retort datasets create NAME {root}/folds --on-workers` has")


@pytest.mark.parametrize("word", ["val", "valid", "validation"])
def test_only_what_is_missing_is_split_off(root: Path, word: str) -> None:
    for split in ("train", word):
        trees(root / "trees" / split, 10)
    facts = folder(root / "trees", test_share=0.2).facts([root])
    assert facts is not None
    assert (facts.train, facts.validation, facts.test) == (24, 30, 6)


def test_what_is_split_off_depends_on_the_seed_alone(root: Path) -> None:
    for number in range(40):
        for name in ("ash", "birch"):
            paint(root / "trees" / name / f"{number:02}.png", (number * 6, 0, 255))
    first, again = (folder(root / "trees").load([root]).digest for _ in range(2))
    assert first == again
    assert folder(root / "trees", split_seed=1).load([root]).digest != first


def test_the_largest_shares_leave_something_to_train_on(root: Path) -> None:
    for images in (3, 4, 7):
        trees(root / f"trees{images}", images)
        facts = folder(root / f"trees{images}", validation_share=0.49, test_share=0.49).facts([root])
        assert facts is not None
        assert facts.train >= 3


def test_the_middle_is_taken_after_the_shorter_side_fits(root: Path) -> None:
    trees(root / "trees")
    for name in COLOURS:
        for file in (root / "trees" / name).iterdir():
            picture = Image.new("RGB", (60, 20), RED)
            picture.paste(GREEN, (20, 0, 40, 20))
            picture.save(file)
    images = folder(root / "trees").load([root]).train.inputs(torch.arange(24))
    assert (images[:, 1, :, 1:-1] == 255).all()
    assert (images[:, 0, :, 1:-1] == 0).all()


def test_every_mode_becomes_rgb_and_rotated_photographs_stand_upright(root: Path) -> None:
    trees(root / "trees", 3, "jpg")
    place = root / "trees" / "ash"
    Image.new("L", (20, 20), 128).save(place / "grey.png")
    Image.new("RGBA", (20, 20), (*RED, 128)).save(place / "clear.png")
    Image.new("P", (20, 20)).save(place / "palette.gif")
    Image.new("CMYK", (20, 20)).save(place / "print.jpg")
    upright = Image.new("RGB", (40, 40), RED)
    upright.paste(BLUE, (0, 20, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half a circle
    upright.rotate(180).save(place / "turned.jpg", exif=exif, quality=95)
    dataset = folder(root / "trees", image_size=16)
    loaded = dataset.load([root])
    assert len(loaded.train) + len(loaded.validation) + len(loaded.test) == 9 + 5
    turned = decode(Folder(place), ["turned.jpg"], 16)[0]
    assert turned[0, :6].min() > 200
    assert turned[2, 10:].min() > 200


def test_a_folder_outside_the_allowed_ones_is_refused_by_name(root: Path, tmp_path: Path) -> None:
    trees(tmp_path / "secret")
    (root / "link").symlink_to(tmp_path / "secret")
    for path in (tmp_path / "secret", root / ".." / "secret", root / "link", tmp_path / "allowed_not"):
        sentence = refusal(folder(path), [root])
        assert sentence == f"the folder {str(path)!r} lies outside the folders that this server allows: {root}"


def test_without_allowed_folders_it_says_how_to_allow_one(root: Path) -> None:
    assert "RETORT_DATA_ROOTS" in refusal(folder(trees(root / "trees")), [])


def test_an_allowed_folder_may_be_a_link_itself(root: Path, tmp_path: Path) -> None:
    trees(root / "trees")
    (tmp_path / "shortcut").symlink_to(root)
    for path in (tmp_path / "shortcut" / "trees", root / "trees"):
        assert folder(path).facts([tmp_path / "shortcut"]) is not None


def test_nothing_is_known_where_the_allowed_folder_is_another_machines(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    assert folder(elsewhere / "trees").facts([elsewhere]) is None
    with pytest.raises(DatasetError, match="is not a folder"):
        folder(elsewhere / "trees").load([elsewhere])


def test_a_folder_that_is_not_there_is_refused(root: Path) -> None:
    assert refusal(folder(root / "missing"), [root]).endswith("/missing' is not a folder")
    assert refusal(folder(paint(root / "picture.png", RED)), [root]).endswith("is not a folder")


def test_one_class_is_none(root: Path) -> None:
    paint(root / "trees" / "ash" / "1.png", RED)
    assert refusal(folder(root / "trees"), [root]).endswith("holds 1 class folders; at least 2 are needed")


def test_a_class_too_small_for_its_splits_is_named(root: Path) -> None:
    trees(root / "trees")
    paint(root / "trees" / "dogwood" / "1.png", RED)
    sentence = refusal(folder(root / "trees"), [root])
    assert sentence.startswith("class 'dogwood' has too few images (1) to train on: it needs one for training and each")


def test_a_class_that_training_lacks_is_named(root: Path) -> None:
    trees(root / "trees" / "train")
    trees(root / "trees" / "val")
    paint(root / "trees" / "val" / "elder" / "1.png", RED)
    assert "['elder']" in refusal(folder(root / "trees"), [root])


def test_stray_files_are_passed_over_with_a_warning(root: Path) -> None:
    trees(root / "trees")
    for stray in ("readme.txt", "ash/.DS_Store", "ash/notes.txt", "birch/.hidden.png", "cedar/Thumbs.db"):
        (root / "trees" / stray).write_text("no image")
    paint(root / "trees" / ".cache" / "1.png", RED)
    loaded = folder(root / "trees").load([root])
    assert loaded.facts.train == 24
    (warning,) = loaded.warnings
    assert warning.endswith("(5 in all)")
    for name in ("ash/.DS_Store", "ash/notes.txt", "birch/.hidden.png", "cedar/Thumbs.db", "trees/readme.txt"):
        assert name in warning


def test_links_out_of_the_allowed_folders_are_passed_over(root: Path, tmp_path: Path) -> None:
    trees(root / "trees")
    trees(tmp_path / "secret")
    paint(root / "store" / "shared.png", RED)
    (root / "trees" / "ash" / "secret.png").symlink_to(tmp_path / "secret" / "ash" / "00.png")
    (root / "trees" / "ash" / "more").symlink_to(tmp_path / "secret" / "ash")
    (root / "trees" / "ash" / "shared.png").symlink_to(root / "store" / "shared.png")
    (root / "trees" / "ash" / "dangling.png").symlink_to(root / "nothing.png")
    os.mkfifo(root / "trees" / "birch" / "pipe.png")
    loaded = folder(root / "trees").load([root])
    assert loaded.facts.train + loaded.facts.validation + loaded.facts.test == 31
    (warning,) = loaded.warnings
    assert warning.endswith("(4 in all)")


def test_broken_images_are_counted_and_named(root: Path) -> None:
    trees(root / "trees", 20)
    for number in range(7):
        (root / "trees" / "ash" / f"{number:02}.png").write_bytes(b"no picture")
    whole = (root / "trees" / "birch" / "00.png").read_bytes()
    (root / "trees" / "birch" / "00.png").write_bytes(whole[: len(whole) // 2])
    assert folder(root / "trees").facts([root]) is not None
    with pytest.raises(DatasetError, match=r"^8 of 60 images cannot be read: ash/00\.png .* and 3 more$"):
        folder(root / "trees").load([root])


def test_a_small_file_that_claims_to_be_huge_is_not_decoded(root: Path) -> None:
    trees(root / "trees")
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (root / "trees" / "ash" / "bomb.png").write_bytes(bomb)
    with pytest.raises(DatasetError, match=r"1 of 31 images .*bomb\.png \(9000 x 9000 pixels; at most 50,000,000"):
        folder(root / "trees").load([root])


def test_more_than_memory_holds_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    trees(root / "trees", 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, hard))
    try:
        with pytest.raises(
            DatasetError, match="300 images of 1024 pixels a side do not fit into memory: they take 1 GiB"
        ):
            folder(root / "trees", image_size=1024).load([root])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_images_are_known_by_their_bytes_and_not_by_their_names(root: Path) -> None:
    trees(root / "trees", 10, "jpg")
    for number, file in enumerate(sorted((root / "trees" / "cedar").iterdir())):
        file.rename(file.with_suffix((".jfif", ".jpe", ".JPG", ".txt", "")[number % 5]))
    (root / "trees" / "cedar" / "readme").write_text("no image")
    loaded = folder(root / "trees").load([root])
    assert (loaded.facts.train, loaded.facts.validation, loaded.facts.test) == (24, 3, 3)
    assert loaded.warnings[0].endswith("cedar/readme (1 in all)")


def test_transparency_and_depth_are_decoded_as_in_an_ingestion(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ash", "birch"):
        for number in range(5):
            place = root / "trees" / name
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(place / f"{number}.png")
            Image.new("I;16", (10, 10), 4000 if name == "ash" else 2000).save(place / f"{number}.tif")
    colours = {}
    for share in (0.4, 0.0):
        monkeypatch.setattr(_pictures, "MEMORY_SHARE", share)
        loaded = folder(root / "trees", background=[1, 2, 3]).load([root])
        assert loaded.facts.decoding == Decoding(background=(1, 2, 3), white=4095)
        images = loaded.train.inputs(torch.arange(len(loaded.train)))
        labels = loaded.train.targets.tolist()
        colours[share] = {(label, *image[:, 0, 0].tolist()) for image, label in zip(images, labels, strict=True)}
    assert colours[0.4] == {(0, 1, 2, 3), (1, 1, 2, 3), (0, 249, 249, 249), (1, 125, 125, 125)}
    assert colours[0.0] == colours[0.4]
    assert folder(root / "trees").load([root]).digest != loaded.digest


def test_a_recipe_that_does_not_say_a_background_stays_as_it_was_written(root: Path) -> None:
    assert "background" not in folder(root).model_dump()
    assert folder(root, background=[0, 0, 0]).model_dump()["background"] == (0, 0, 0)


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000])
def test_what_is_no_path_is_no_recipe(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        ImageFolder(path=path)
