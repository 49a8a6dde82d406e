"""What becomes of images that are taken in: the archive, its digest, the parts, and what is told of them."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from retort.dataset import DatasetError
from retort.datasets import _pictures
from retort.datasets.image_folder import ImageFolder
from retort.datasets.stored import StoredDataset
from retort.engine.interrupt import Impossible, Interrupt, NothingToKeep, Stopped
from tests.retort.ingestion.packing import (
    Taken,
    claiming_png,
    flowers,
    gz,
    picture,
    take_in,
    tar,
    zipped,
    zst,
)

PACKS = {
    "tar": tar,
    "gnu": lambda files: tar(files, form=tarfile.GNU_FORMAT),
    "ustar": lambda files: tar(files, form=tarfile.USTAR_FORMAT),
    "gz": lambda files: gz(tar(files)),
    "zst": lambda files: zst(tar(files)),
    "zip": zipped,
    "reversed": lambda files: tar(dict(reversed(files.items()))),
}


def noise(seed: int, size: tuple[int, int] = (20, 14), kind: str = "PNG") -> bytes:
    """A picture that is like no other."""
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def garden(count: int = 10) -> dict[str, bytes]:
    """Two classes of so many noisy pictures."""
    return {
        f"{name}/{i:02d}.png": noise(count * j + i) for j, name in enumerate(("aster", "poppy")) for i in range(count)
    }


def lay_out(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def load(taken: Taken, place: Path, **fields: int) -> object:
    """The data set as a recipe would name it."""
    file = place / "inputs/dataset_1" / taken.digest
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(taken.archive.read_bytes())
    return StoredDataset.model_validate({"dataset": "dataset_1", **fields}).load([place / "inputs"])


def test_the_same_images_give_the_same_bytes_however_they_come(tmp_path: Path) -> None:
    files = garden()
    digests = {name: take_in(tmp_path, pack(files)).digest for name, pack in PACKS.items()}
    digests["folder"] = take_in(tmp_path, lay_out(tmp_path / "flowers", files)).digest
    assert len(set(digests.values())) == 1, digests


def test_other_images_names_sizes_and_seeds_give_other_bytes(tmp_path: Path) -> None:
    files = garden()
    changed = {**files, "aster/00.png": noise(99)}
    renamed = {name.replace("poppy", "rose"): content for name, content in files.items()}
    takes = [
        *(take_in(tmp_path, tar(each)) for each in (files, changed, renamed)),
        take_in(tmp_path, tar(files), image_size=24),
        take_in(tmp_path, tar(files), splits={"seed": 1}),
    ]
    assert len({taken.digest for taken in takes}) == 5


def test_the_archive_is_a_plain_tar_whose_images_are_untouched(tmp_path: Path) -> None:
    files = garden()
    taken = take_in(tmp_path, gz(tar(files)))
    with tarfile.open(taken.archive, "r:") as opened:
        members = {info.name: opened.extractfile(info).read() for info in opened}
        assert all(info.isreg() and (info.mtime, info.uid, info.uname) == (0, 0, "") for info in opened)
    described = json.loads(members.pop("dataset.json"))
    sources = {name: source for name, _, source in map(json.loads, members.pop("index.jsonl").splitlines())}
    assert {sources[name]: content for name, content in members.items()} == files
    assert described["class_names"] == ["aster", "poppy"]
    assert {split: each["images"] for split, each in described["splits"].items()} == {
        "train": 16, "validation": 2, "test": 2,
    }  # fmt: skip
    assert list(members) == sorted(
        members, key=lambda name: (["train", "validation", "test"].index(name.split("/")[0]), name)
    )


def test_it_is_what_image_folder_would_have_made_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = garden(12)
    folder = lay_out(tmp_path / "flowers", files)
    taken = take_in(tmp_path, folder, splits={"validation_share": 0.2, "test_share": 0.3, "seed": 7})
    wanted = ImageFolder(path=str(folder), image_size=16, validation_share=0.2, test_share=0.3, split_seed=7).load(
        [tmp_path]
    )
    for share in (0.4, 0.0):
        monkeypatch.setattr(_pictures, "MEMORY_SHARE", share)
        found = load(taken, tmp_path)
        assert found.facts.model_copy(update={"mean": None, "std": None}) == wanted.facts.model_copy(
            update={"mean": None, "std": None}
        )
        assert found.facts.mean == pytest.approx(wanted.facts.mean, abs=2e-6)
        assert found.facts.std == pytest.approx(wanted.facts.std, abs=2e-6)
        for split in ("train", "validation", "test"):
            mine, theirs = getattr(found, split), getattr(wanted, split)
            everything = torch.arange(len(theirs))
            assert torch.equal(mine.targets, theirs.targets)
            assert torch.equal(mine.inputs(everything), theirs.inputs(everything))
            assert type(mine).__name__ == ("MemorySplit" if share else "StreamedSplit")


def test_a_channel_that_never_changes_is_not_divided_by_nothing(tmp_path: Path) -> None:
    taken = take_in(tmp_path, tar(flowers()))  # whose third channel is 99 everywhere
    own, other = load(taken, tmp_path), load(taken, tmp_path, image_size=32)
    assert own.facts.std[2] == other.facts.std[2] == round(1 / 255, 6)
    assert own.facts.mean[2] == other.facts.mean[2] == round(99 / 255, 6)


def test_a_recipe_may_want_another_size(tmp_path: Path) -> None:
    taken = take_in(tmp_path, tar(garden()))
    own, other = load(taken, tmp_path), load(taken, tmp_path, image_size=32)
    assert (own.facts.image_size, other.facts.image_size) == (16, 32)
    assert other.train.inputs(torch.tensor([0])).shape == (1, 3, 32, 32)
    assert own.facts.mean != other.facts.mean
    assert own.digest != other.digest
    assert own.digest == load(taken, tmp_path).digest


def test_parts_that_come_are_kept_and_others_made(tmp_path: Path) -> None:
    files = {f"{split}/{name}": content for split in ("train", "test") for name, content in garden().items()}
    files = {name: noise(number) for number, name in enumerate(files)}
    taken = take_in(tmp_path, tar(files), splits={"validation_share": 0.3})
    assert taken.report["splits"] == {"train": 14, "validation": 6, "test": 20}
    assert taken.report["parts_made"] == ["validation"]
    names = taken.names()
    assert all(name.startswith("test/") for name, _ in names["test"])
    assert Counter(label for _, label in names["validation"]) == {0: 3, 1: 3}
    assert {name for listed in names.values() for name, _ in listed} == set(files)


def test_pictures_that_look_alike_are_told_and_never_torn_apart_by_a_split(tmp_path: Path) -> None:
    files = garden()
    for i in range(10):  # each once more, as another file of the same pixels
        with Image.open(io.BytesIO(files[f"aster/{i:02d}.png"])) as image:
            out = io.BytesIO()
            image.save(out, "BMP")
        files[f"aster/copy {i:02d}.bmp"] = out.getvalue()
    taken = take_in(tmp_path, tar(files))
    splits = {name: split for split, listed in taken.names().items() for name, _ in listed}
    assert all(splits[f"aster/{i:02d}.png"] == splits[f"aster/copy {i:02d}.bmp"] for i in range(10))
    assert taken.report["duplicates"]["pixels"]["groups"] == 10
    assert taken.report["duplicates"]["pixels"]["across_parts"] == 0
    assert taken.report["duplicates"]["files"]["groups"] == 0


def test_duplicates_across_parts_and_classes_are_told(tmp_path: Path) -> None:
    files = {
        f"{split}/{name}": noise(len(split) * 100 + i) for split in ("train", "test") for i, name in enumerate(garden())
    }
    files["test/aster/00.png"] = files["train/aster/00.png"]
    files["test/poppy/01.png"] = files["train/aster/01.png"]
    taken = take_in(tmp_path, tar(files))
    for way in ("files", "pixels"):
        seen = taken.report["duplicates"][way]
        assert (seen["groups"], seen["across_parts"], seen["of_several_classes"]) == (2, 2, 1)
        assert ["train: train/aster/00.png", "test: test/aster/00.png"] in [
            sorted(e, reverse=True) for e in seen["examples"]
        ]
    assert (
        "2 pictures are in more than one split, so that a network is evaluated on images that it was trained on"
        in taken.warnings()
    )
    assert "1 picture is in more than one class" in taken.warnings()


# Single images


def broken_pictures() -> dict[str, bytes]:
    whole = noise(5, (40, 40))
    return {
        "aster/cut.png": whole[: len(whole) // 2],
        "aster/empty.jpg": b"",
        "aster/html.jpg": b"<html><body>not found</body></html>",
        "aster/huge.png": claiming_png(60_000, 60_000),
        "aster/large.png": claiming_png(8_000, 8_000),
        "aster/script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "poppy/cut.jpg": noise(6, (40, 40), "JPEG")[:-200],
        "poppy/heic.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
    }


def test_too_many_broken_images_fail_it_and_each_is_named(tmp_path: Path) -> None:
    with pytest.raises(Impossible) as refused:
        take_in(tmp_path, tar({**garden(), **broken_pictures()}), limits={"broken": 7})
    assert str(refused.value).startswith("8 of 28 images cannot be read, and limits.broken is 7: aster/cut.png (")
    lines = [json.loads(line) for line in (tmp_path / "attempt-0/log.jsonl").read_text().splitlines()]
    said = {
        line["text"].partition(" cannot")[0] for line in lines if line["line"] == "event" and line["kind"] == "warning"
    }
    assert said == set(broken_pictures())
    assert not (tmp_path / "attempt-0/artifacts").exists()


def test_broken_images_that_are_allowed_are_left_out_and_named(tmp_path: Path) -> None:
    taken = take_in(tmp_path, tar({**garden(), **broken_pictures()}), limits={"broken": 8})
    assert taken.digest == take_in(tmp_path, tar(garden())).digest
    told = {each["file"]: each["why"] for each in taken.report["broken"]["files"]}
    assert set(told) == set(broken_pictures())
    assert told["aster/huge.png"] == "its header claims more than 178,956,970 pixels"
    assert told["aster/large.png"] == "8000 x 8000 pixels; at most 50,000,000 are decoded"
    read = "JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM, AVIF"
    assert told["aster/script.png"] == f"EPS is not read; wanted one of {read}"
    assert told["poppy/heic.jpg"] == f"HEIC is not read; wanted one of {read}"
    assert told["aster/html.jpg"] == f"no image of a kind that is read: {read}"
    assert told["aster/empty.jpg"] == "the file is empty"
    assert "0x" not in "".join(told.values())


def animated() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (12, 9), (i, 0, 200)) for i in (0, 90, 180)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture((9, 9, 9), (30, 10), "JPEG", exif=exif)


def test_odd_images_are_counted_and_told(tmp_path: Path) -> None:
    grey = io.BytesIO()
    Image.fromarray(np.arange(100, dtype=np.uint16).reshape(10, 10) * 600).save(grey, "PNG")
    odd = {
        "aster/moving.gif": animated(),
        "aster/turned.jpg": turned(),
        "poppy/misnamed.jpg": noise(77),
        "poppy/polyglot.jpg": noise(78, kind="JPEG") + zipped({"x": b"y"}),
        "poppy/deep.png": grey.getvalue(),
        "poppy/web.webp": noise(79, kind="WEBP"),
        "poppy/scan.tiff": noise(80, kind="TIFF"),
    }
    taken = take_in(tmp_path, zipped({**garden(), **odd}))
    report = taken.report
    assert report["formats"] == {"GIF": 1, "JPEG": 2, "PNG": 22, "TIFF": 1, "WEBP": 1}
    assert (report["turned"], report["animated"], report["misnamed"], report["deep"]) == (1, 1, 1, 1)
    assert {
        "1 image is stored turned or mirrored, and read upright, as the EXIF data say: aster/turned.jpg",
        "1 image is of several frames or pages, of which the first is taken: aster/moving.gif",
        "1 image is of more than 8 bits a channel, scaled to 8 by one scale for all: poppy/deep.png",
        "1 image is named by another format than it is of: poppy/misnamed.jpg",
    } <= set(taken.warnings())
    with tarfile.open(taken.archive) as opened:
        endings = Counter(name.rpartition(".")[2] for name in opened.getnames() if "/" in name)
    assert endings == {"gif": 1, "jpg": 2, "png": 22, "tif": 1, "webp": 1}


def test_sizes_classes_and_balance_are_told(tmp_path: Path) -> None:
    files = {
        f"{name}/{i}.png": noise(i, (10 + i, 40)) for name, count in (("aster", 30), ("poppy", 3)) for i in range(count)
    }
    taken = take_in(tmp_path, tar(files))
    assert taken.report["sizes"]["different"] == 30
    assert taken.report["sizes"]["shorter_side"] == {"least": 10, "median": 23, "most": 39}
    assert taken.report["sizes"]["most_common"][0] == {"width": 10, "height": 40, "images": 2}
    assert taken.report["classes"] == [
        {"name": "aster", "train": 24, "validation": 3, "test": 3},
        {"name": "poppy", "train": 1, "validation": 1, "test": 1},
    ]
    assert "the largest class has 30 images and the smallest 3" in taken.warnings()


# Names


def test_names_in_other_encodings(tmp_path: Path) -> None:
    files = garden()
    odd = tar({**files, "aster/caf\udce9.png": noise(90)}, form=tarfile.GNU_FORMAT)
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    mac = {f"train/{composed}/{i}.png": noise(100 + i) for i in range(6)}
    mac |= {f"test/{decomposed}/{i}.png": noise(200 + i) for i in range(3)}
    mac |= {
        f"{split}/{name}": noise(300 + 50 * j + i)
        for j, split in enumerate(("train", "test"))
        for i, name in enumerate(files)
    }
    assert "aster/caf\\xe9.png" in {name for listed in take_in(tmp_path, odd).names().values() for name, _ in listed}
    assert [each["name"] for each in take_in(tmp_path, tar(mac)).report["classes"]] == ["aster", composed, "poppy"]
    # What macOS packs says nothing of UTF-8, and is it.
    silent = zipped({name.replace("aster", composed): content for name, content in files.items()})
    silent = silent.replace(b"\x00\x08\x08\x00", b"\x00\x00\x08\x00")
    assert [each["name"] for each in take_in(tmp_path, silent).report["classes"]] == [composed, "poppy"]


def test_backslashes_between_folders_are_slashes(tmp_path: Path) -> None:
    files = {name.replace("/", "\\"): content for name, content in garden().items()}
    assert take_in(tmp_path, zipped(files)).digest == take_in(tmp_path, zipped(garden())).digest


# Folders


def test_a_folder_is_read_no_further_than_it_reaches(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "data/flowers", garden())
    secret = tmp_path / "secret.png"
    secret.write_bytes(noise(500))
    (folder / "aster/link.png").symlink_to(secret)
    (folder / "rose").symlink_to(tmp_path)
    os.mkfifo(folder / "aster/pipe.png")
    taken = take_in(tmp_path, folder)
    assert taken.digest == take_in(tmp_path, tar(garden())).digest
    assert taken.report["stray"]["files"] == ["aster/link.png", "aster/pipe.png", "rose"]


def test_a_folder_that_is_not_allowed_or_none(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="lies outside the folders that this server allows"):
        take_in(tmp_path, tmp_path / "data/../../../../../etc", root=tmp_path / "data")
    with pytest.raises(DatasetError, match="is not a folder"):
        take_in(tmp_path, tmp_path / "missing")


# Wishes


@pytest.mark.parametrize(("wish", "raised"), [("set", Stopped), ("set_finish", NothingToKeep)])
def test_a_wish_ends_it_where_it_stands_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: str, raised: type[BaseException]
) -> None:
    interrupt = Interrupt()
    monkeypatch.setattr("tests.retort.ingestion.packing.Interrupt", lambda: interrupt)

    def split(*_: object) -> None:
        getattr(interrupt, wish)()

    monkeypatch.setattr("retort.ingestion.take_splits", split)
    with pytest.raises(raised) as ended:
        take_in(tmp_path, tar(garden()))
    if raised is NothingToKeep:
        assert str(ended.value) == "asked to finish before the data set was whole: there is nothing to keep"
    assert {file.name for file in (tmp_path / "attempt-0").iterdir()} == {"inputs", "log.jsonl"}


def test_the_order_of_the_same_entries_does_not_matter(tmp_path: Path) -> None:
    files = list(garden().items())
    wanted = take_in(tmp_path, tar(dict(files))).digest
    for seed in range(3):
        random.Random(seed).shuffle(files)
        assert take_in(tmp_path, tar(dict(files))).digest == wanted
