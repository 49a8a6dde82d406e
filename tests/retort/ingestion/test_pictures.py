"""Pictures keep their content when they are taken in, and are known by their bytes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retort.dataset import DatasetError, Decoding
from retort.datasets._archive import Archive, ArchiveDescription
from retort.datasets._pictures import decode
from retort.datasets.stored import StoredDataset
from retort.engine.interrupt import Impossible
from retort.ingestion import thumbnails
from tests.retort.ingestion.packing import Taken, picture, take_in, tar, zipped

SHAPES = ("box", "disc")


def encoded(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def shapes(colour: int = 0, count: int = 6) -> dict[str, bytes]:
    """Shapes of one colour on transparent ground, of two classes."""
    files = {}
    for label, name in enumerate(SHAPES):
        for number in range(count):
            opacity = np.zeros((20, 20), np.uint8)
            opacity[number + label : number + 12, 2 : 12 + 4 * label] = 255
            pixels = np.full((20, 20, 4), colour, np.uint8)
            pixels[..., 3] = opacity
            files[f"{name}/{number}.png"] = encoded(Image.fromarray(pixels))
    return files


def scans(count: int = 6) -> dict[str, bytes]:
    """Grey images of 16 bits with values of 12, with and without a bright square."""
    files = {}
    for label, name in enumerate(("healthy", "lesion")):
        for number in range(count):
            pixels = np.random.default_rng(10 * label + number).integers(300, 900, (20, 20))
            pixels[5:15, 5:15] += 2500 * label
            files[f"{name}/{number}.png"] = encoded(Image.fromarray(pixels.astype(np.uint16)))
    return files


def photographs(ending: str, content: Any = None, count: int = 6) -> dict[str, bytes]:
    """JPEGs of three classes; those of the last one are called by another ending, or are something else."""
    files = {}
    for label, name in enumerate(("bird", "cat", "dog")):
        for number in range(count):
            pixels = np.random.default_rng(10 * label + number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            plain = name != "dog"
            body = encoded(Image.fromarray(pixels), "JPEG") if plain or content is None else content
            files[f"{name}/{number}{'.jpg' if plain else ending}"] = body
    return files


def stored(taken: Taken, place: Path) -> Any:
    """The data set as a recipe would name it."""
    file = place / "inputs/dataset_1" / taken.digest
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(taken.archive.read_bytes())
    return StoredDataset(dataset="dataset_1").load([place / "inputs"])


def test_black_shapes_on_transparent_ground_stay_shapes(tmp_path: Path) -> None:
    taken = take_in(tmp_path, zipped(shapes()))
    images = stored(taken, tmp_path).train.inputs(torch.arange(8))
    assert images.amin() == 0
    assert images.amax() == 255
    assert (taken.report["transparent"], taken.report["decoding"]["background"]) == (12, [255, 255, 255])
    assert taken.warnings()[-1].startswith("12 images are transparent in places, and laid on the background: box/0.png")


def test_white_shapes_want_another_background(tmp_path: Path) -> None:
    with pytest.raises(Impossible) as refused:
        take_in(tmp_path, zipped(shapes(255)))
    assert str(refused.value) == (
        "class 'box', class 'disc', the train split: every image there is of one colour, (255, 255, 255), and shows "
        "nothing; 6 of 6 are transparent and laid on (255, 255, 255): try another background"
    )
    taken = take_in(tmp_path, zipped(shapes(255)), background=[0, 0, 0])
    data = stored(taken, tmp_path)
    assert data.facts.decoding == Decoding(background=(0, 0, 0))
    assert data.train.inputs(torch.arange(8)).amin() == 0


def test_images_of_16_bits_are_scaled_by_one_white(tmp_path: Path) -> None:
    taken = take_in(tmp_path, zipped(scans()))
    data = stored(taken, tmp_path)
    assert data.facts.decoding == Decoding(white=4095)
    images = data.train.inputs(torch.arange(8)).float()
    for image, label in zip(images, data.train.targets, strict=True):
        middle = image[:, 6:10, 6:10].mean()
        assert abs(middle - (600 + 2500 * label) * 255 / 4095) < 8
    assert data.facts.mean == pytest.approx((images / 255).mean((0, 2, 3)).tolist(), abs=1e-5)
    assert (taken.report["deep"], taken.report["decoding"]["white"]) == (12, 4095)


def test_images_of_16_bits_whose_colours_hardly_differ_are_told(tmp_path: Path) -> None:
    files = scans()
    pixels = np.full((20, 20), 300, np.uint16)
    pixels[0, 0] = 65535
    files["healthy/hot.png"] = encoded(Image.fromarray(pixels))
    (told,) = [text for text in take_in(tmp_path, zipped(files)).warnings() if "nearly plain" in text]
    assert told.endswith("of 255 steps; where a few are much larger than all others, cut those before")


def test_one_scale_that_does_not_fit_all_is_refused(tmp_path: Path) -> None:
    fractions = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    files = {**scans(), "healthy/unit.tif": encoded(Image.fromarray(fractions), "TIFF")}
    with pytest.raises(DatasetError, match=r"healthy/unit.tif holds fractions up to 1 and healthy/0.png whole numbers"):
        take_in(tmp_path, tar(files))


def test_an_archive_without_a_decoding_is_read_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 0.2 wrote none: more than 8 bits were cut, and transparency was dropped."""
    files = {**scans(), **{f"lesion/{name.replace('/', '-')}": content for name, content in shapes(99).items()}}
    dump = ArchiveDescription.model_dump_json

    def of_before(self: ArchiveDescription, **how: Any) -> str:
        return json.dumps({name: each for name, each in json.loads(dump(self, **how)).items() if name != "decoding"})

    monkeypatch.setattr(ArchiveDescription, "model_dump_json", of_before)
    taken = take_in(tmp_path, zipped(files))
    data = stored(taken, tmp_path)
    assert data.facts.decoding is None
    archive = Archive(taken.archive)
    names = [name for name, _ in archive.listed()["train"]]
    wanted = []
    for name in names:
        image = Image.open(archive.open(name)).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
        wanted.append(np.asarray(image).transpose(2, 0, 1))
    assert np.array_equal(data.train.inputs(torch.arange(len(names))).numpy(), np.stack(wanted))
    assert not np.array_equal(decode(archive, names, 16, Decoding(white=4095)), np.stack(wanted))


def test_what_is_lost_is_told_by_name(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 4), dtype=np.uint8)
    pages = [Image.fromarray(noise[..., :3]), Image.fromarray(noise[::-1, :, :3])]
    odd = {
        "bird/print.jpg": encoded(Image.fromarray(noise, "CMYK"), "JPEG"),
        "bird/lab.tif": encoded(Image.fromarray(noise[..., 1:], "LAB"), "TIFF"),
        "bird/bands.tif": encoded(Image.fromarray(noise, "RGBX"), "TIFF"),
        "cat/pages.tif": encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]),
        "cat/plain.png": picture((1, 2, 3)),
        "cat/opaque.png": encoded(Image.fromarray(np.dstack([noise[..., :3], np.full((20, 20), 255, np.uint8)]))),
    }
    taken = take_in(tmp_path, tar({**photographs(".jpg"), **odd}))
    assert {
        "2 images are in the colours of print (CMYK) or in CIELAB, and read without a profile: bird/lab.tif, "
        "bird/print.jpg",
        "1 image is of further bands besides their colours, which are left out: bird/bands.tif",
        "1 image is of several frames or pages, of which the first is taken: cat/pages.tif",
        "1 image is of one colour everywhere: cat/plain.png",
    } <= set(taken.warnings())
    assert taken.report["transparent"] == 0


# Blank


def same(colour: int, count: int) -> dict[int, bytes]:
    return dict.fromkeys(range(count), picture((colour,) * 3))


@pytest.mark.parametrize("splits", [("",), ("train/", "val/", "test/")])
def test_a_class_that_is_blank_is_named(tmp_path: Path, splits: tuple[str, ...]) -> None:
    files = {f"{split}{name}": content for split in splits for name, content in scans().items()}
    files |= {f"{split}empty/{i}.png": content for split in splits for i, content in same(7, 5).items()}
    with pytest.raises(Impossible) as refused:
        take_in(tmp_path, tar(files))
    assert str(refused.value) == "class 'empty': every image there is of one colour, (7, 7, 7), and shows nothing"


def test_a_split_that_is_blank_is_named(tmp_path: Path) -> None:
    files = {f"train/{name}": content for name, content in scans().items()}
    files |= {f"test/{name}": picture((9, 9, 9)) for name in scans()}
    with pytest.raises(Impossible, match=r"^the test split: every image there is of one colour, \(9, 9, 9\), and"):
        take_in(tmp_path, tar(files))
    files |= {name: content for name, content in files.items() if name.startswith("test/healthy")}
    files |= {f"test/{name}": content for name, content in scans().items() if name.startswith("lesion")}
    with pytest.raises(Impossible, match=r"^class 'healthy' in the test split: every image there is of one colour"):
        take_in(tmp_path, tar(files))


def test_images_of_16_bits_that_all_became_black_name_their_white(tmp_path: Path) -> None:
    dark = {f"dark/{i}.png": encoded(Image.fromarray(np.full((9, 9), 20 + i, np.uint16))) for i in range(5)}
    bright = np.random.default_rng(0).integers(0, 65536, (9, 9)).astype(np.uint16)
    bright[0, 0] = 65535
    lit = {f"lit/{i}.png": encoded(Image.fromarray(np.roll(bright, i))) for i in range(5)}
    with pytest.raises(Impossible, match=r"^class 'dark': .* the set's largest value gives 65,535 as white$"):
        take_in(tmp_path, tar({**dark, **lit}))


def test_a_class_of_equal_pictures_is_not_called_too_small(tmp_path: Path) -> None:
    files = scans()
    files |= {f"healthy/{i}.png": files["healthy/0.png"] for i in range(6)}
    with pytest.raises(DatasetError) as refused:
        take_in(tmp_path, tar(files))
    assert str(refused.value) == (
        "class 'healthy' has 6 images, and 1 of them differ; at least 3 are wanted, since equal ones stay in one split"
    )


# By content


@pytest.mark.parametrize("ending", [".jfif", ".JPE", ".jpg_large", "", ".txt", ".jpg!large", ".csv"])
def test_a_picture_is_one_whatever_it_is_called(tmp_path: Path, ending: str) -> None:
    taken = take_in(tmp_path, zipped(photographs(ending)))
    assert [each["name"] for each in taken.report["classes"]] == ["bird", "cat", "dog"]
    assert taken.report["stray"]["count"] == 0
    assert taken.report["misnamed"] == (6 if ending in (".txt", ".jpg!large", ".csv") else 0)


@pytest.mark.parametrize(
    ("ending", "content", "said"),
    [
        (".heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not read"),
        ("", b"\xff\x0a" + bytes(99), "JPEG XL is not read"),
        (".dat", b"8BPS\0\1" + bytes(99), "Photoshop is not read"),
        (".tga", bytes(99), "no image of a kind that is read"),
        (".jpg", b"<html>not found</html>", "no image of a kind that is read"),
        (".tif", b"II*\0\x08\0\0\0\0\0" + bytes(99), "TIFF of bits, channels or a compression that are not read, or"),
    ],
)
def test_a_class_that_cannot_be_decoded_fails_it_and_is_not_left_out(
    tmp_path: Path, ending: str, content: bytes, said: str
) -> None:
    with pytest.raises(Impossible) as refused:
        take_in(tmp_path, tar(photographs(ending, content)))
    assert str(refused.value).startswith(
        f"6 of 18 images cannot be read, and limits.broken is 0: dog/0{ending} ({said}"
    )


def test_a_folder_without_any_picture_is_told(tmp_path: Path) -> None:
    taken = take_in(tmp_path, tar({**photographs(".txt", b"a note"), "README": b"BM, a text", "bird/notes": b"x"}))
    assert taken.report["folders_without_images"] == ["dog"]
    assert "no class, since none of its files is a picture: dog" in taken.warnings()


# Thumbnails


def test_three_images_of_each_class_stand_on_a_sheet(tmp_path: Path) -> None:
    taken = take_in(tmp_path, zipped(shapes()), background=[255, 0, 0])
    sheet = taken.directory / "artifacts/thumbnails.jpg"
    assert taken.report["thumbnails"] == {"artifact": "thumbnails.jpg", "side": 64, "per_class": 3, "classes": 2}
    pixels = np.asarray(Image.open(io.BytesIO(sheet.read_bytes()))).astype(int)
    assert pixels.shape == (2 * 64, 3 * 64, 3)
    for label in range(2):
        for column in range(3):
            one = pixels[64 * label : 64 * (label + 1), 64 * column : 64 * (column + 1)]
            assert abs(one[60, 60] - (255, 0, 0)).max() < 12
            assert one[36, 20].max() < 40
    listed = json.loads((taken.directory / "artifacts.json").read_text())
    assert [each["media_type"] for each in listed if each["name"] == "thumbnails.jpg"] == ["image/jpeg"]
    again = take_in(tmp_path, tar(shapes()), background=[255, 0, 0])
    assert (again.directory / "artifacts/thumbnails.jpg").read_bytes() == sheet.read_bytes()


def test_the_sheet_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "MOST_CLASSES", 2)
    taken = take_in(tmp_path, zipped(photographs(".jpg")))
    assert taken.report["thumbnails"]["classes"] == 2
    with Image.open(taken.directory / "artifacts/thumbnails.jpg") as sheet:
        assert sheet.size == (192, 128)
