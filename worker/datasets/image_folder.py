"""Image folder: photographs in one folder a class, or in train, validation and test folders of such."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from worker.dataset import DataFacts, Dataset, DatasetError, LoadedDataset
from worker.datasets._split import drawn_order

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
PART_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
MOST_PIXELS = 50_000_000
"""Pixels of the largest image that is decoded, a JPEG's after its reduction: a small file can claim any number."""
NAMED_AT_MOST = 5
"""Files that a sentence names before it only counts."""


@dataclass
class Found:
    """What lies in a folder, before any image is decoded."""

    class_names: tuple[str, ...]
    parts: dict[str, list[tuple[Path, int]]]
    """(file, label) of each part, in a fixed order."""
    stray: list[Path] = field(default_factory=list)
    """What was passed over: no images, hidden, or links out of the allowed folders."""


class ImageFolder(Dataset):
    """Images in a local folder: `class/*.jpg`, or `train/`, `validation/` and `test/` above such folders.

    Classes are the folders' names, sorted. Each image is scaled until its shorter side fits, then its middle is taken.
    Parts that are missing are split off the training images, class by class, by a seed.
    """

    source: ClassVar[str] = "the user's own images"

    name: Literal["image_folder"] = "image_folder"
    path: str = Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")
    """The folder; it must lie under one that the server allows (RETORT_DATA_ROOTS)."""
    image_size: int = Field(default=224, ge=8, le=1024)
    """Side of the square that images are brought to, in pixels."""
    validation_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of each class's images that is split off for validation when there is no such folder."""
    test_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of each class's images that is split off for the test when there is no such folder."""
    split_seed: int = Field(default=0, ge=0, lt=2**63)
    """Rules which images are split off."""

    def facts(self, roots: Sequence[Path]) -> DataFacts | None:
        allowed = [Path(os.path.realpath(root)) for root in roots]
        folder = self._folder(allowed)
        if not any(root.is_dir() and folder.is_relative_to(root) for root in allowed):
            return None  # the root is another machine's
        return self._facts(self._find(folder, allowed))

    def load(self, roots: Sequence[Path]) -> LoadedDataset:
        import torch

        from worker.datasets._memory import MemoryPart, loaded

        allowed = [Path(os.path.realpath(root)) for root in roots]
        found = self._find(self._folder(allowed), allowed)
        pixels = self._decode([file for part in found.parts.values() for file, _ in part])
        parts, start = [], 0
        for name in PART_FOLDERS:
            count = len(found.parts[name])
            labels = torch.tensor([label for _, label in found.parts[name]], dtype=torch.int64)
            parts.append(MemoryPart(torch.from_numpy(pixels[start : start + count]), labels))
            start += count
        train, validation, test = parts
        return loaded(self._facts(found), train, validation, test, tuple(_stray_warning(found.stray)))

    def _facts(self, found: Found) -> DataFacts:
        sizes = {name: len(files) for name, files in found.parts.items()}
        return DataFacts(
            classes=len(found.class_names), class_names=found.class_names, image_size=self.image_size, **sizes
        )

    def _folder(self, allowed: list[Path]) -> Path:
        """The folder, with symbolic links followed, if it lies under an allowed one."""
        if not allowed:
            raise DatasetError(
                f"the folder {self.path!r} is not allowed: this server allows no local folders; "
                "its operator names them in RETORT_DATA_ROOTS"
            )
        folder = Path(os.path.realpath(self.path))
        if not any(folder.is_relative_to(root) for root in allowed):
            named = ", ".join(map(str, allowed))
            raise DatasetError(f"the folder {self.path!r} lies outside the folders that this server allows: {named}")
        return folder

    def _find(self, folder: Path, allowed: list[Path]) -> Found:
        if not folder.is_dir():
            raise DatasetError(f"{self.path!r} is no folder")
        try:
            return self._listing(folder, allowed)
        except OSError as error:
            raise DatasetError(f"the folder {self.path!r} cannot be listed: {error}") from error

    def _listing(self, folder: Path, allowed: list[Path]) -> Found:
        named = {part: _first_folder(folder, names) for part, names in PART_FOLDERS.items()}
        training = named["train"] or folder
        class_names = tuple(sorted(child.name for child in _folders(training)))
        if len(class_names) < 2:
            raise DatasetError(f"{self.path!r} holds {len(class_names)} class folders; at least 2 are needed")
        found = Found(class_names, {"train": [], "validation": [], "test": []})
        found.stray += [child for child in training.iterdir() if not child.is_dir()]
        for part, place in {**named, "train": training}.items():
            if place is not None:
                found.parts[part] = list(_images(place, found, allowed))
        self._split_off([part for part in ("validation", "test") if named[part] is None], found)
        return found

    def _split_off(self, missing: list[str], found: Found) -> None:
        """Take the missing parts out of the training images, class by class."""
        shares = {"validation": self.validation_share, "test": self.test_share}
        kept: list[tuple[Path, int]] = []
        for label, name in enumerate(found.class_names):
            files = [item for item in found.parts["train"] if item[1] == label]
            if len(files) < 1 + len(missing):
                what = f"one for training and each part that is split off ({', '.join(missing)})" if missing else "one"
                raise DatasetError(f"class {name!r} has too few images ({len(files)}) to train on: it needs {what}")
            drawn = [files[i] for i in drawn_order(len(files), self.split_seed, f"class {name}")]
            for part in missing:
                # Rounded down, so that something is left to train on.
                count = max(1, int(shares[part] * len(files)))
                found.parts[part] += sorted(drawn[:count])
                drawn = drawn[count:]
            kept += sorted(drawn)
        found.parts["train"] = kept

    def _decode(self, files: list[Path]) -> NDArray[np.uint8]:
        """(M, 3, H, W) uint8: every image, scaled and cropped. Raises DatasetError with the names of broken files."""
        from concurrent.futures import ThreadPoolExecutor

        import numpy as np

        shape = (len(files), 3, self.image_size, self.image_size)
        try:
            pixels = np.empty(shape, dtype=np.uint8)
        except MemoryError as error:
            raise DatasetError(
                f"{len(files)} images of {self.image_size} pixels a side do not fit into memory: "
                f"they take {np.prod(shape, dtype=np.int64) / 2**30:.0f} GiB"
            ) from error
        broken: list[str] = []

        def decode(number: int) -> None:
            try:
                pixels[number] = _square(files[number], self.image_size)
            except Exception as error:  # a decoder's error on a hostile file may be anything
                broken.append(f"{files[number].parent.name}/{files[number].name} ({error})")

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(decode, range(len(files))))
        if broken:
            raise DatasetError(f"{len(broken)} of {len(files)} images cannot be read: {_listed(broken)}")
        return pixels


def _square(file: Path, side: int) -> NDArray[np.uint8]:
    """(3, side, side) uint8 RGB: the image scaled until its shorter side fits, its middle taken."""
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        # JPEGs are decoded at the nearest larger eighth: half the time, and the resize below does the rest.
        image.draft("RGB", (2 * side, 2 * side))
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels; at most {MOST_PIXELS:,} are decoded")
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(ImageOps.fit(upright, (side, side), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def _folders(place: Path) -> Iterator[Path]:
    return (child for child in place.iterdir() if child.is_dir() and not child.name.startswith("."))


def _first_folder(place: Path, names: tuple[str, ...]) -> Path | None:
    """The first that holds folders itself; one that holds images is a class of that name."""
    return next((place / name for name in names if (place / name).is_dir() and any(_folders(place / name))), None)


def _images(place: Path, found: Found, allowed: list[Path]) -> Iterator[tuple[Path, int]]:
    """The images of one part with their labels, sorted; what is none of the classes' is an error, other files stray."""
    strangers = {child.name for child in _folders(place)} - set(found.class_names)
    if strangers:
        raise DatasetError(f"the folder {place.name!r} holds classes that training lacks: {sorted(strangers)}")
    for label, name in enumerate(found.class_names):
        for root, folders, files in os.walk(place / name):
            folders.sort()
            found.stray += [Path(root, inner) for inner in folders if Path(root, inner).is_symlink()]
            for file in (Path(root, file) for file in sorted(files)):
                if _is_image(file, allowed):
                    yield file, label
                else:
                    found.stray.append(file)


def _is_image(file: Path, allowed: list[Path]) -> bool:
    """Whether a file is named like an image, is one that can be read to its end, and lies in an allowed folder."""
    if file.name.startswith(".") or file.suffix.lower() not in IMAGE_ENDINGS:
        return False
    real = Path(os.path.realpath(file))
    return real.is_file() and any(real.is_relative_to(root) for root in allowed)


def _stray_warning(stray: list[Path]) -> Iterator[str]:
    if stray:
        names = [f"{file.parent.name}/{file.name}" for file in stray]
        yield f"left out, as no images or as links out of the allowed folders: {_listed(names)} ({len(stray)} in all)"


def _listed(names: list[str]) -> str:
    """The first few, sorted, and how many more there are."""
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return ", ".join(sorted(names)[:NAMED_AT_MOST]) + more
