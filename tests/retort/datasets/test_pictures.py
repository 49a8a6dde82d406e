"""Images in files: the same in memory and decoded at each request."""

from __future__ import annotations

import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from retort.dataset import DatasetError, ImageClassFacts, LoadedDataset
from retort.datasets import _pictures
from retort.datasets._listing import Labelled
from retort.datasets._memory import MemorySplit
from retort.datasets._pictures import MEMORY_SHARE, Folder, StreamedSplit, load_pictures, memory_budget

SIDE = 16


def photographs(folder: Path, count: int, size: tuple[int, int] = (24, 20)) -> list[Labelled]:
    """Noise, half of it in JPEG and half in PNG, of two classes."""
    generator = np.random.default_rng(0)
    listed = []
    for number in range(count):
        name = f"{number:04}.{('jpg', 'png')[number % 2]}"
        noise = generator.integers(256, size=(*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
        listed.append((name, number % 2))
    return listed


def load(folder: Path, listed: list[Labelled], side: int = SIDE) -> LoadedDataset:
    train, validation, test = listed[:-20], listed[-20:-10], listed[-10:]
    facts = ImageClassFacts(
        classes=2, class_names=("a", "b"), image_size=side, train=len(train), validation=10, test=10
    )
    return load_pictures(facts, Folder(folder), train, validation, test, ())


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that holds no image."""
    monkeypatch.setattr(_pictures, "MEMORY_SHARE", 0.0)


def test_streamed_images_are_those_in_memory_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = photographs(tmp_path, 60)
    monkeypatch.setattr(_pictures, "SAMPLE", 15)
    whole = load(tmp_path, listed)
    monkeypatch.setattr(_pictures, "MEMORY_SHARE", 0.0)
    streamed = load(tmp_path, listed)
    assert streamed.facts == whole.facts
    assert streamed.digest == whole.digest
    for name in ("train", "validation", "test"):
        here, there = getattr(whole, name), getattr(streamed, name)
        assert isinstance(here, MemorySplit)
        assert isinstance(there, StreamedSplit)
        assert len(here) == len(there)
        order = torch.randperm(len(here), generator=torch.Generator().manual_seed(1)).repeat(2)
        assert torch.equal(here.inputs(order), there.inputs(order))
        assert torch.equal(here.targets, there.targets)


def test_statistics_are_those_of_a_sample_that_a_seed_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = photographs(tmp_path, 60)
    whole = load(tmp_path, listed).facts
    monkeypatch.setattr(_pictures, "SAMPLE", 15)
    first, again = (load(tmp_path, listed).facts for _ in range(2))
    assert first == again
    assert first.mean is not None
    assert whole.mean is not None
    assert first.mean != whole.mean
    assert first.mean == pytest.approx(whole.mean, abs=0.05)


@pytest.mark.usefixtures("no_memory")
def test_what_is_streamed_takes_no_more_memory_than_a_few_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pictures, "SAMPLE_BATCH", 20)
    listed = photographs(tmp_path, 420)
    side = 128
    decoded = len(listed) * 3 * side * side
    tracemalloc.start()
    try:
        split = load(tmp_path, listed, side).train
        for positions in torch.split(torch.arange(len(split)), 20):
            split.inputs(positions)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < decoded / 5


@pytest.mark.usefixtures("no_memory")
def test_threads_may_read_one_split_together(tmp_path: Path) -> None:
    split = load(tmp_path, photographs(tmp_path, 60)).train
    wanted = split.inputs(torch.arange(len(split)))
    orders = [torch.randperm(len(split), generator=torch.Generator().manual_seed(seed)) for seed in range(12)]
    with ThreadPoolExecutor(4) as readers:
        for order, found in zip(orders, readers.map(split.inputs, orders), strict=True):
            assert torch.equal(found, wanted[order])


@pytest.mark.usefixtures("no_memory")
def test_what_does_not_begin_as_an_image_is_named_at_once(tmp_path: Path) -> None:
    listed = photographs(tmp_path, 60)
    (tmp_path / "0003.png").write_bytes(b"no image")
    (tmp_path / "0004.jpg").unlink()
    with pytest.raises(DatasetError, match=r"^2 of 60 images cannot be read: 0003\.png .*, 0004\.jpg "):
        load(tmp_path, listed)


@pytest.mark.usefixtures("no_memory")
def test_what_does_not_end_as_an_image_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    listed = photographs(tmp_path, 60)
    whole = (tmp_path / "0003.png").read_bytes()
    (tmp_path / "0003.png").write_bytes(whole[: len(whole) // 2])
    loaded = load_without_statistics(tmp_path, listed)
    loaded.train.inputs(torch.tensor([0, 1, 2]))
    with pytest.raises(DatasetError, match=r"^1 of 2 images cannot be read: 0003\.png "):
        loaded.train.inputs(torch.tensor([2, 3]))


def load_without_statistics(folder: Path, listed: list[Labelled]) -> LoadedDataset:
    half = (0.5, 0.5, 0.5)
    facts = ImageClassFacts(
        classes=2, class_names=("a", "b"), image_size=SIDE, train=40, validation=10, test=10, mean=half, std=half
    )
    loaded = load_pictures(facts, Folder(folder), listed[:40], listed[40:50], listed[50:], ())
    assert loaded.facts == facts
    return loaded


@pytest.mark.parametrize("change", ["a byte", "a label", "a name", "the order", "the size"])
def test_the_digest_changes_with(change: str, tmp_path: Path) -> None:
    listed = photographs(tmp_path, 60)
    before = load(tmp_path, listed).digest
    assert load(tmp_path, listed).digest == before
    side = SIDE
    if change == "a byte":
        Image.new("RGB", (24, 20)).save(tmp_path / "0001.png")
    elif change == "a label":
        listed[0] = (listed[0][0], 1)
    elif change == "a name":
        listed[0] = ((tmp_path / "0000.jpg").rename(tmp_path / "other.jpg").name, 0)
    elif change == "the order":
        listed[0], listed[2] = listed[2], listed[0]
    else:
        side = 20
    assert load(tmp_path, listed, side).digest != before


def test_the_test_split_may_be_the_validation_split(tmp_path: Path) -> None:
    listed = photographs(tmp_path, 60)
    facts = ImageClassFacts(classes=2, class_names=("a", "b"), image_size=SIDE, train=40, validation=20, test=20)
    loaded = load_pictures(facts, Folder(tmp_path), listed[:40], None, listed[40:], ())
    assert loaded.validation is loaded.test
    assert len(loaded.test) == 20


def test_the_budget_is_a_share_of_what_the_machine_has() -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory_budget() <= MEMORY_SHARE * machine
