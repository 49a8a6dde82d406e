"""All published sets: splits, protocols, allowed folders, refusals of broken ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from retort.dataset import DatasetError, LoadedDataset, Split
from retort.datasets import DATASETS, _pictures
from retort.datasets._memory import MemorySplit
from retort.datasets._pictures import StreamedSplit
from retort.datasets._published import PublishedDataset
from tests.retort.datasets.published import WRITERS, refusal

PUBLISHED = sorted(name for name, entry in DATASETS.items() if issubclass(entry, PublishedDataset))
PHOTOGRAPHS = [name for name in PUBLISHED if "image_size" in DATASETS[name].model_fields]


def dataset(name: str, path: Path | None, **fields: object) -> PublishedDataset:
    size = {"image_size": 16} if name in PHOTOGRAPHS else {}
    given = {"name": name, "path": path if path is None else str(path)} | size | fields
    made = DATASETS[name].model_validate(given)
    assert isinstance(made, PublishedDataset)
    return made


def everything(split: Split) -> torch.Tensor:
    return split.inputs(torch.arange(len(split)))


def colours(split: Split) -> list[tuple[int, ...]]:
    return sorted(tuple(image[:, 3, 3].tolist()) for image in everything(split))


def test_each_has_a_writer() -> None:
    assert sorted(WRITERS) == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_images_are_under_their_labels(name: str, tmp_path: Path) -> None:
    loaded = dataset(name, WRITERS[name](tmp_path)).load([tmp_path])
    step = {"cifar10": 1, "cifar100": 1, "mnist": 20, "fashion_mnist": 20}.get(name, 40)
    for split in (loaded.train, loaded.validation, loaded.test):
        red = everything(split)[:, 0].float().mean((1, 2))
        assert torch.equal((red / step).round().long(), split.targets)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_validation_split_is_taken_from_the_training_split_class_by_class(name: str, tmp_path: Path) -> None:
    folder = WRITERS[name](tmp_path)
    whole = dataset(name, folder, validation_share=0).load([tmp_path])
    divided = dataset(name, folder, validation_share=0.2).load([tmp_path])
    assert divided.validation.targets.bincount().tolist() == [
        count // 5 for count in whole.train.targets.bincount().tolist()
    ]
    assert sorted(colours(divided.train) + colours(divided.validation)) == colours(whole.train)
    assert torch.equal(everything(divided.test), everything(whole.test))
    other = dataset(name, folder, validation_share=0.2, split_seed=1).load([tmp_path])
    assert torch.equal(other.validation.targets.bincount(), divided.validation.targets.bincount())
    if name not in ("mnist", "fashion_mnist"):  # whose images of a class are all alike
        assert colours(other.validation) != colours(divided.validation)


@pytest.mark.parametrize("name", ["cifar100", "cub200"])
def test_without_a_share_the_test_split_is_the_validation_split_and_a_warning_says_so(
    name: str, tmp_path: Path
) -> None:
    made = dataset(name, WRITERS[name](tmp_path), validation_share=0)
    loaded = made.load([tmp_path])
    assert loaded.validation is loaded.test
    assert loaded.facts == made.facts([tmp_path])
    assert loaded.facts.validation == loaded.facts.test == len(loaded.test)
    assert loaded.warnings[0].startswith("the test split is the validation split too (validation_share is 0)")
    assert not any("validation" in text for text in dataset(name, Path(made.path or "")).load([tmp_path]).warnings)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_folder_that_is_not_whole_is_named_in_a_warning(name: str, tmp_path: Path) -> None:
    loaded = dataset(name, WRITERS[name](tmp_path)).load([tmp_path])
    official = DATASETS[name].official
    (warning,) = loaded.warnings
    train = loaded.facts.train + loaded.facts.validation
    assert warning == (
        f"{train:,} training and {loaded.facts.test:,} test images were found; {name} has {official.train:,} and "
        f"{official.test:,}"
    )


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cub200", "mnist", "tiny_imagenet"])
def test_the_folder_above_the_one_that_an_archive_makes_may_be_named(name: str, tmp_path: Path) -> None:
    inside = dataset(name, WRITERS[name](tmp_path / "sets"))
    above = dataset(name, tmp_path / "sets")
    assert inside.path != above.path
    assert above.facts([tmp_path]) == inside.facts([tmp_path])
    assert above.load([tmp_path]).digest == inside.load([tmp_path]).digest


@pytest.mark.parametrize("name", PUBLISHED)
def test_folders_outside_the_allowed_ones_are_refused(name: str, tmp_path: Path) -> None:
    folder = WRITERS[name](tmp_path / "secret")
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "link").symlink_to(folder)
    for path in (folder, allowed / "link", allowed / ".." / "secret"):
        sentence = refusal(dataset(name, path), [allowed])
        assert sentence == f"the folder {str(path)!r} lies outside the folders that this server allows: {allowed}"
    assert "RETORT_DATA_ROOTS" in refusal(dataset(name, folder), [])
    assert refusal(dataset(name, allowed / "nothing"), [allowed]).endswith("/nothing' is not a folder")
    assert dataset(name, tmp_path / "elsewhere" / "set").facts([tmp_path / "elsewhere"]) is None


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_that_lead_out_of_the_allowed_folders_are_not_read(name: str, tmp_path: Path) -> None:
    secret = WRITERS[name](tmp_path / "secret")
    allowed = WRITERS[name](tmp_path / "allowed")
    for file in sorted(allowed.rglob("*")):
        if file.is_file():
            file.unlink()
            file.symlink_to(secret / file.relative_to(allowed))
    refusal(dataset(name, allowed), [tmp_path / "allowed"])
    assert dataset(name, allowed).facts([tmp_path]) is not None


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    folder = WRITERS[name](tmp_path)
    listed = [file for file in sorted(folder.rglob("*")) if file.suffix in (".txt", ".bin", ".mat", ".gz")]
    for file in [file for file in listed if file.name not in ("batches.meta.txt", "n01443537_boxes.txt")]:
        content = file.read_bytes()
        file.unlink()
        assert file.name.removesuffix(".gz") in refusal(dataset(name, folder), [tmp_path])
        file.write_bytes(content)
    assert dataset(name, folder).facts([tmp_path]) is not None


@pytest.mark.parametrize("name", [name for name in PUBLISHED if not DATASETS[name].downloads])
def test_what_is_not_downloaded_asks_for_a_folder(name: str) -> None:
    sentence = refusal(dataset(name, None), [])
    assert sentence.startswith(f"{name} is not downloaded by itself; give path, a folder that holds ")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_what_will_be_downloaded_is_known_before(name: str) -> None:
    facts = dataset(name, None).facts([])
    official = DATASETS[name].official
    assert facts is not None
    assert (facts.train + facts.validation, facts.test) == (official.train, official.test)
    assert facts.validation == official.train // 10
    assert facts.mean == official.mean
    every = dataset(name, None, validation_share=0).facts([])
    assert every is not None
    assert (every.train, every.validation) == (official.train, official.test)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_are_streamed_when_they_do_not_fit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dataset(name, WRITERS[name](tmp_path))
    here = made.load([tmp_path])
    monkeypatch.setattr(_pictures, "MEMORY_SHARE", 0.0)
    there = made.load([tmp_path])
    assert (there.digest, there.facts, there.warnings) == (here.digest, here.facts, here.warnings)
    for one, other in zip(splits(here), splits(there), strict=True):
        assert isinstance(one, MemorySplit)
        assert isinstance(other, StreamedSplit)
        assert torch.equal(everything(one), everything(other))


def splits(loaded: LoadedDataset) -> tuple[Split, Split, Split]:
    return loaded.train, loaded.validation, loaded.test


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_broken_photograph_is_named(name: str, tmp_path: Path) -> None:
    folder = WRITERS[name](tmp_path)
    broken = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))[5]
    broken.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=rf"^1 of \d+ images cannot be read: .*{broken.name} \("):
        dataset(name, folder).load([tmp_path])


@pytest.mark.parametrize("name", [name for name in PHOTOGRAPHS if name not in ("imagenet", "stanford_dogs")])
def test_lists_may_name_nothing_that_is_not_in_the_folder(name: str, tmp_path: Path) -> None:
    folder = WRITERS[name](tmp_path / "allowed" / "set")
    target = tmp_path / "secret.jpg"
    target.write_bytes(b"secret")
    lists = {
        "tiny_imagenet": ("val/val_annotations.txt", "val_0_20.JPEG"),
        "cub200": ("images.txt", "001.Black_footed_Albatross/bird_0.jpg"),
        "mit67": ("TrainImages.txt", "kitchen/room 3.jpg"),
        "stanford40": ("ImageSplits/applauding_test.txt", "applauding_021.jpg"),
    }
    file, named = lists[name]
    text = (folder / file).read_text()
    for instead in ("../" * 8 + str(target).lstrip("/"), str(target), "missing.jpg", "a\0b.jpg"):
        wanted = f"kitchen/{instead}" if name == "mit67" else instead
        (folder / file).write_text(text.replace(named, wanted, 1))
        sentence = refusal(dataset(name, folder), [tmp_path / "allowed"])
        assert "not a file that may be read" in sentence


@pytest.mark.parametrize("name", ["cub200", "mit67", "stanford40", "tiny_imagenet"])
def test_a_list_that_is_no_text_or_too_long_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = WRITERS[name](tmp_path)
    first = min(file for file in folder.rglob("*.txt") if "boxes" not in file.name)
    first.write_bytes(b"\xff\xfe\x00")
    assert f"{first.name}' is not a text" in refusal(dataset(name, folder), [tmp_path])
    monkeypatch.setattr("retort.datasets._roots.LARGEST_LIST", 2)
    assert "bytes; at most 2 are read" in refusal(dataset(name, folder), [tmp_path])


@pytest.mark.parametrize("share", [-0.1, 0.5, float("nan")])
def test_a_share_is_less_than_half(share: float) -> None:
    with pytest.raises(ValueError, match="validation_share"):
        dataset("cifar100", None, validation_share=share)


def test_more_images_than_were_published_are_another_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cifar10", "mnist", "mit67"):
        folder = WRITERS[name](tmp_path / name)
        few = DATASETS[name].official.__class__(5, 5, (0.5,) * 3, (0.5,) * 3)
        monkeypatch.setattr(DATASETS[name], "official", few)
        assert f"training images were found; {name} has 5" in refusal(dataset(name, folder), [tmp_path])


def test_a_class_too_small_to_split_is_refused(tmp_path: Path) -> None:
    from tests.retort.datasets.published import cifar_records

    folder = WRITERS["cifar100"](tmp_path)
    (folder / "train.bin").write_bytes(cifar_records([0] * 8 + list(range(1, 9)), 2))
    with pytest.raises(DatasetError, match=r"class \d has too few training images \(1\) to split some off"):
        dataset("cifar100", folder, validation_share=0.49).load([tmp_path])
