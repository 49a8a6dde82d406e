"""Stanford Dogs: 20,580 photographs of 120 breeds of dogs, out of ImageNet."""

from __future__ import annotations

from typing import ClassVar, Literal

from retort.dataset import DatasetError, ImageClassFacts
from retort.datasets._photographs import Listing, Photographs, held, told_apart
from retort.datasets._published import IMAGENET_MEAN, IMAGENET_STD, OfficialFacts
from retort.datasets._roots import LARGEST_LIST, Files

BREEDS = 120
TRAIN, TEST = "train_list.mat", "test_list.mat"


class StanfordDogs(Photographs):
    """Stanford Dogs, 120 classes, 12,000 training and 8,580 test images; boxes are not read."""

    source: ClassVar[str] = (
        "Khosla, Jayadevaprakash, Yao, Li: Novel Dataset for Fine-Grained Image Categorization, 2011, "
        "http://vision.stanford.edu/aditya86/ImageNetDogs; no licence stated, ImageNet's terms apply to its images"
    )
    official: ClassVar[OfficialFacts] = OfficialFacts(12_000, 8580, IMAGENET_MEAN, IMAGENET_STD)
    layout: ClassVar[str] = f"Images, {TRAIN} and {TEST}"

    name: Literal["stanford_dogs"] = "stanford_dogs"

    def _look(self, files: Files) -> ImageClassFacts | None:
        for name in (TRAIN, TEST):
            files.file(name)
        folders = files.folders("Images")
        if len(folders) == BREEDS:  # the lists are MATLAB's, which only a worker reads
            return self._facts(_names(folders), self.image_size, self.official.train, self.official.test)
        try:
            return super()._look(files)
        except ImportError:
            return None

    def _listing(self, files: Files) -> Listing:
        train, test = _list(files, TRAIN), _list(files, TEST)
        folders = sorted({folder for folder, _ in train})
        order = {folder: label for label, folder in enumerate(folders)}
        strangers = sorted({folder for folder, _ in test}.difference(folders))
        if strangers:
            raise DatasetError(f"{TEST} names the class {strangers[0]!r}, which {TRAIN} lacks")
        train_files, test_files = (
            held(files, [(f"Images/{folder}/{image}", order[folder]) for folder, image in listed], name)
            for listed, name in ((train, TRAIN), (test, TEST))
        )
        return Listing(_names(folders), train_files, test_files)


def _names(folders: list[str]) -> tuple[str, ...]:
    """`n02085620-Chihuahua` is a Chihuahua."""
    return told_apart([folder.partition("-")[2].replace("_", " ") or folder for folder in folders], folders)


def _list(files: Files, name: str) -> list[tuple[str, str]]:
    """The folder and the name of each image of a split. Its labels count the folders, so both must agree."""
    from scipy.io import loadmat

    file = files.file(name)
    size = file.stat().st_size
    if size > LARGEST_LIST:
        raise DatasetError(f"the list {name!r} has {size:,} bytes; at most {LARGEST_LIST:,} are read")
    try:
        content = loadmat(file, variable_names=["file_list", "labels"])
        named = [str(entry.item()) for entry in content["file_list"].ravel()]
        labels = [int(label) for label in content["labels"].ravel()]
    except Exception as error:  # readers raise anything for a hostile file
        raise DatasetError(f"{name!r} is not a list of files and labels in MATLAB's format: {error}") from error
    images = [(folder, image) for folder, _, image in (entry.partition("/") for entry in named)]
    pairs = {(folder, label) for (folder, _), label in zip(images, labels, strict=False)}
    if len(images) != len(labels) or len(pairs) != len({folder for folder, _ in pairs}):
        raise DatasetError(f"the labels in {name!r} are not those of its files' folders, one each")
    return images
