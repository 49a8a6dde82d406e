"""The contract of every data set: its facts before loading are those after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from retort.dataset import Dataset, LoadedDataset
from retort.datasets import DATASETS
from retort.datasets._published import PublishedDataset
from retort.datasets.digits import Digits
from retort.datasets.image_folder import ImageFolder
from retort.datasets.stored import StoredDataset
from tests.retort.datasets.pictures import paint
from tests.retort.datasets.published import WRITERS
from tests.retort.ingestion.packing import take_in


def a_folder(root: Path) -> ImageFolder:
    for number, name in enumerate(("ash", "birch", "cedar")):
        for image in range(12):
            paint(root / "trees" / name / f"{image}.png", (40 * number, 20 * image, 255))
    return ImageFolder(path=str(root / "trees"), image_size=16)


def a_stored_one(root: Path) -> Dataset:
    taken = take_in(root, Path(a_folder(root).path), root=root)
    file = root / "dataset_1" / taken.digest
    file.parent.mkdir()
    taken.archive.rename(file)
    return StoredDataset(dataset="dataset_1")


EXAMPLES: dict[str, Callable[[Path], Dataset]] = {
    "digits": lambda root: Digits(),
    "image_folder": a_folder,
    "stored": a_stored_one,
}
"""A small one of each; one that needs no fields needs no example."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(params=DATASETS, scope="module")
def dataset(request: pytest.FixtureRequest, root: Path) -> Dataset:
    name = request.param
    if name in WRITERS:
        fields = {"image_size": 16} if "image_size" in DATASETS[name].model_fields else {}
        return DATASETS[name].model_validate({"name": name, "path": str(WRITERS[name](root / name))} | fields)
    return EXAMPLES[name](root / name) if name in EXAMPLES else DATASETS[name].model_validate({"name": name})


@pytest.fixture(scope="module")
def loaded(dataset: Dataset, root: Path) -> LoadedDataset:
    return dataset.load(roots_of(dataset, root))


def roots_of(dataset: Dataset, root: Path) -> list[Path]:
    """The allowed folder: a stored data set is looked for directly below it."""
    return [root / "stored" if isinstance(dataset, StoredDataset) else root]


def test_the_facts_are_true(dataset: Dataset, loaded: LoadedDataset, root: Path) -> None:
    facts = dataset.facts(roots_of(dataset, root))
    assert facts is not None
    measured = {"mean": loaded.facts.mean, "std": loaded.facts.std}
    assert facts.model_copy(update=measured) == loaded.facts
    assert (facts.train, facts.validation, facts.test) == (len(loaded.train), len(loaded.validation), len(loaded.test))
    assert len(facts.class_names) == len(set(facts.class_names)) == facts.classes


def test_images_and_labels_are_what_the_contract_says(loaded: LoadedDataset) -> None:
    side = loaded.facts.image_size
    for split in (loaded.train, loaded.validation, loaded.test):
        images = split.inputs(torch.tensor([len(split) - 1, 0, 0]))
        assert images.dtype == torch.uint8
        assert images.shape == (3, 3, side, side)
        assert torch.equal(images[1], images[2])
        assert split.targets.dtype == torch.int64
        assert split.targets.shape == (len(split),)


def test_every_class_is_in_every_split(loaded: LoadedDataset) -> None:
    for split in (loaded.train, loaded.validation, loaded.test):
        assert split.targets.unique().tolist() == list(range(loaded.facts.classes))


def test_the_statistics_are_the_published_ones_or_those_of_the_training_split(
    dataset: Dataset, loaded: LoadedDataset
) -> None:
    if isinstance(dataset, PublishedDataset):
        assert (loaded.facts.mean, loaded.facts.std) == (dataset.official.mean, dataset.official.std)
        return
    images = loaded.train.inputs(torch.arange(len(loaded.train))).double() / 255
    assert loaded.facts.mean == pytest.approx(images.mean((0, 2, 3)).tolist(), abs=1e-5)
    deviations = images.std((0, 2, 3), correction=0)
    # A channel that never changes has none, and counts as one that does by a step.
    assert loaded.facts.std == pytest.approx([d or 1 / 255 for d in deviations.tolist()], abs=1e-5)


def test_loading_twice_gives_the_same_digest(dataset: Dataset, loaded: LoadedDataset, root: Path) -> None:
    again = dataset.load(roots_of(dataset, root))
    assert again.digest == loaded.digest
    assert len(loaded.digest) == 64
    assert again.warnings == loaded.warnings
    # That a published set is not whole.
    assert len(loaded.warnings) == isinstance(dataset, PublishedDataset)
