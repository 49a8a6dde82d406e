"""Classes and splits by the names of folders, before any image is decoded; what is ambiguous is refused. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from retort.dataset import DatasetError
from retort.datasets._archive import SPLITS
from retort.datasets._class_names import ClassFinder
from retort.datasets._listing import escaped, first_few
from retort.datasets._name_patterns import are_numbered, beginnings
from retort.datasets._outline import ImageTree, outline
from retort.datasets._split_words import divided, divided_alike, split_named

FolderOrder = Literal["auto", "folders", "split_folders", "inner_folders", "file_names"]
MOST_LEFT_OUT = 0.25
"""Share of the images that may belong to no class before folders count as not understood."""
NO_CLASS = frozenset({"unknown", "unlabeled", "unlabelled", "all", "none"})
"""Names of a folder that holds a split's images without their classes, besides names of splits."""
CLASS_AND_SPLIT = "train"
"""The one word for a split that is a usual class, too: beside folders like it that are no splits it is one."""
FLAT = "folders of classes"
SPLIT_FIRST = "folders of classes in folders of splits"
SPLIT_LAST = "folders of splits in folders of classes"
DIVIDED = "folders of a class and a split each"
INNER = "the innermost folders as classes"
FILE_NAMES = "the beginnings of file names as classes"


@dataclass(frozen=True)
class FolderWish:
    """The part of a request that rules the reading of folders."""

    layout: FolderOrder = "auto"
    classes: tuple[str, ...] = ()
    split_names: Mapping[str, str] = field(default_factory=dict)
    """Further names of splits, with the split of each."""


@dataclass
class FolderLayout:
    """The images that folders assign to classes and splits."""

    found_by: str
    """The source of classes and splits, in words."""
    splits: dict[str, dict[str, str]]
    """The images of each split that has a folder, and the class of each, as its folder is called."""
    stray: list[str] = field(default_factory=list)
    """Images of no class."""
    warnings: list[str] = field(default_factory=list)


def read_folders(images: Sequence[str], wish: FolderWish | None = None) -> FolderLayout:
    """The layout of images by their names. Raises DatasetError, with an outline of what is there, where it is none or
    more than one could be meant."""
    return _FolderReading(ImageTree.of(images), wish or FolderWish()).read()


class _FolderReading:
    def __init__(self, tree: ImageTree, wish: FolderWish) -> None:
        self.tree, self.wish = tree, wish
        self.splits: dict[str, dict[str, str]] = {}
        self.stray: list[str] = []
        self.warnings: list[str] = []

    def read(self) -> FolderLayout:
        place = self._unwrapped()
        named = self._splits_of(place.folders)
        match self.wish.layout:
            case "file_names":
                return self._by_finder(FILE_NAMES, place, named, by_file_name=True)
            case "inner_folders":
                return self._by_inner(place, named if self._are_splits(named, place.folders) else {})
            case "folders":
                return self._flat(place)
            case "split_folders":
                if not named:
                    raise DatasetError(
                        f"no folder is named like a split ({outline(place)}); `splits.names` says which are"
                    )
                return self._split_first(place, named)
        if self.wish.classes:
            return self._by_finder("folders that bear the classes' names", place, named, by_file_name=False)
        layout = self._decide(place, named)
        self._check_left_out(place)
        return layout

    # Deciding

    def _decide(self, place: ImageTree, named: Mapping[str, str]) -> FolderLayout:
        tops = place.folders
        if self._are_splits(named, tops):
            return self._split_first(place, named)
        are_uneven = len({bool(folder.inner()) for folder in tops.values()}) > 1
        inner = {name: found for name, folder in tops.items() if (found := folder.inner())}
        if named and (are_uneven or any(name.casefold() != CLASS_AND_SPLIT for name in named)):
            others = ", `splits.names` says which others are splits" if len(inner) == len(tops) else ""
            raise DatasetError(
                f"{first_few([f'{name}/' for name in named])} may be a split or a class ({outline(place)}); "
                f'`layout` "folders" takes all of them for classes, "split_folders" such for splits{others}, and '
                "`classes` names those that are classes"
            )
        parts = {name: part for name in tops if (part := divided(name)) is not None}
        splits = {split for _, split in parts.values()}
        words = set().union(*inner.values())
        are_divided = len(parts) == len(tops) and len(splits) > 1 and "train" in splits
        if are_divided and (not words or are_numbered(words)):
            return self._divided(place, parts)
        if words and len(inner) == len(tops) and self._are_splits(self._splits_of(words), words):
            return self._split_last(place)
        if are_divided or self._are_levels_unclear(tops, inner):
            raise DatasetError(
                f'the classes may be the outer or the inner folders ({outline(place)}); `layout` "folders" takes the '
                'outer ones, "inner_folders" the inner ones, and `splits.names` says which folders are splits'
            )
        return self._flat(place)

    @staticmethod
    def _are_levels_unclear(tops: Mapping[str, ImageTree], inner: Mapping[str, set[str]]) -> bool:
        """Whether folders within folders may be classes: not such as are merely numbered within named ones, and not
        some within classes that hold images themselves, unless several hold the same."""
        if not inner:
            return False
        words = set().union(*inner.values())
        if are_numbered(words) and not are_numbered(tops):
            return False
        repeated = max(Counter(frozenset(found) for found in inner.values()).values()) > 1
        return len(inner) == len(tops) or repeated

    def _unwrapped(self) -> ImageTree:
        """The folder below those that wrap all; one that is named as a split wraps nothing."""
        place = self.tree
        while len(place.folders) == 1:
            (name, inner), *_ = place.folders.items()
            is_split = split_named(name, self.wish.split_names) is not None and self.wish.layout != "folders"
            if is_split or not inner.folders or name in self.wish.classes:
                break
            self.stray += place.images
            place = inner
        return place

    def _splits_of(self, names: Iterable[str]) -> dict[str, str]:
        """The names that stand for splits; where none does, those that differ in the word for it alone."""
        names = [name for name in sorted(names) if name not in self.wish.classes]
        found = {name: split for name in names if (split := split_named(name, self.wish.split_names)) is not None}
        return found or divided_alike(names)

    @staticmethod
    def _are_splits(named: Mapping[str, str], names: Iterable[str]) -> bool:
        """Whether folders so named are splits: all of them are named so, or two different splits are among them."""
        return len(set(named.values())) > 1 or (bool(named) and len(named) == len([*names]))

    # Reading

    def _flat(self, place: ImageTree) -> FolderLayout:
        if len(place.folders) < 2 and self.wish.layout == "auto":
            self._refuse_flat(place)
        if self.wish.layout == "auto":
            self._refuse_nested(place)
        self.stray += place.images
        self._claim("train", place)
        return self._layout(FLAT)

    def _split_first(self, place: ImageTree, named: Mapping[str, str]) -> FolderLayout:
        self._check_splits(named)
        self.stray += place.images
        inner = {name: place.folders[name].unwrapped() for name in named}
        train = {cls for name, split in named.items() if split == "train" for cls in inner[name].folders}
        if not train:
            self._refuse_flat(place)
        if self.wish.layout == "auto":
            within = [found for name in named for top in inner[name].folders.values() if (found := top.inner())]
            words = set().union(*within)
            if (
                within
                and not are_numbered(words)
                and not any(top.images for name in named for top in inner[name].folders.values())
            ):
                raise DatasetError(
                    f"the classes may be the outer or the inner folders of the splits ({outline(place)}; within them "
                    f'{first_few([f"{word}/" for word in words])}); `layout` "split_folders" takes the outer ones, '
                    '"inner_folders" the inner ones'
                )
            self._refuse_nested(*inner.values())
            self._refuse_splits_within(inner)
        for name, folder in sorted(place.folders.items()):
            if self._has_no_classes(name, folder.unwrapped(), train):
                self._leave_out(name, folder)
            elif name not in named:
                self.stray += folder.below()
            else:
                self.stray += inner[name].images
                self._claim(named[name], inner[name])
        return self._layout(SPLIT_FIRST)

    def _divided(self, place: ImageTree, parts: Mapping[str, tuple[str, str]]) -> FolderLayout:
        self.stray += place.images
        for name, (label, split) in parts.items():
            for image in place.folders[name].below():
                self._assign(split, image, label)
        return self._layout(DIVIDED)

    def _split_last(self, place: ImageTree) -> FolderLayout:
        self.stray += place.images
        for label, folder in place.folders.items():
            named = self._splits_of(folder.unwrapped().folders)
            self._check_splits(named)
            for name, split in named.items():
                for image in folder.unwrapped().folders[name].below():
                    self._assign(split, image, label)
            self.stray += [
                image
                for name, inner in folder.unwrapped().folders.items()
                if name not in named
                for image in inner.below()
            ]
        return self._layout(SPLIT_LAST)

    def _by_inner(self, place: ImageTree, named: Mapping[str, str]) -> FolderLayout:
        self._check_splits(named)
        self.stray += place.images
        for name, folder in place.folders.items():
            for label, leaf in folder.leaves(name):
                if named and (name not in named or leaf is folder):
                    self.stray += leaf.images
                    continue
                for image in leaf.images:
                    self._assign(named.get(name, "train"), image, label)
        return self._layout(INNER)

    def _by_finder(
        self, found_by: str, place: ImageTree, named: Mapping[str, str], *, by_file_name: bool
    ) -> FolderLayout:
        """Classes that a request names, in the names of folders or at the beginnings of files' names."""
        if not self.wish.classes:
            raise DatasetError(
                f'`layout` "file_names" wants `classes`, with which the names of files begin{beginnings(place)}'
            )
        finder = ClassFinder(self.wish.classes)
        splits = named if self._are_splits(named, place.folders) else self._splits_below(place, finder)
        self._check_splits(splits)
        for image in place.below():
            *folders, file = image.split("/")
            label = finder.beginning_of(file) if by_file_name else finder.among(folders, image)
            found = {splits[folder] for folder in folders if folder in splits}
            if len(found) > 1:
                raise DatasetError(f"{escaped(image)} lies in folders of several splits: {first_few(sorted(found))}")
            if label is None or (splits and not found):
                self.stray.append(image)
            else:
                self._assign(found.pop() if found else "train", image, label)
        return self._layout(found_by)

    def _splits_below(self, place: ImageTree, finder: ClassFinder) -> dict[str, str]:
        """The splits within folders of classes."""
        names = {inner for folder in place.folders.values() for inner in folder.inner()}
        named = self._splits_of(name for name in names if finder.find(name) is None)
        return named if len(set(named.values())) > 1 else {}

    # Claims

    def _claim(self, split: str, place: ImageTree) -> None:
        """Take each folder there for a class of that split."""
        for label, folder in place.folders.items():
            for image in folder.below():
                self._assign(split, image, label)

    def _assign(self, split: str, image: str, label: str) -> None:
        self.splits.setdefault(split, {})[image] = label

    def _has_no_classes(self, called: str, place: ImageTree, train: set[str]) -> bool:
        """Whether the images of a folder beside classes lie in no folder of one: directly in it, or in one that is
        called as it is, or says as much."""
        if not place.folders:
            return True
        names = set(place.folders) - train
        return len(place.folders) == len(names) == 1 and all(
            name == called or name.casefold() in NO_CLASS or split_named(name) or split_named(f"train_{name}")
            for name in names
        )

    def _leave_out(self, name: str, folder: ImageTree) -> None:
        self.warnings.append(
            f"the {folder.count():,} images of {escaped(name)}/ lie in no folder of a class and are left out"
        )

    def _layout(self, found_by: str) -> FolderLayout:
        self.splits.setdefault("train", {})
        return FolderLayout(found_by, self.splits, self.stray, self.warnings)

    # Refusals

    def _check_splits(self, named: Mapping[str, str]) -> None:
        """Raise DatasetError where splits lack the training one, or have several folders by their usual names."""
        if named and "train" not in named.values():
            raise DatasetError(
                f'the folders {first_few([*named])} hold images, and none to train on was found; `layout` "folders" '
                "takes them for classes, and `splits.names` says which folders are splits"
            )
        for split in SPLITS:
            same = [name for name in named if named[name] == split]
            if len(same) > 1 and not set(same) <= set(self.wish.split_names):
                raise DatasetError(
                    f"the folders {first_few(same)} are both the {split} split; wanted one, or those that count in "
                    "`splits.names`"
                )

    def _refuse_flat(self, place: ImageTree) -> None:
        """Raise DatasetError for images that lie in no folders of classes."""
        named = self._splits_of(place.folders)
        if not named and len(place.folders) == 1 and not place.images:
            return  # which is one class
        where = "the splits hold images and no folders of classes" if named else "no class was found"
        raise DatasetError(
            f"{where}; at least 2 are wanted, each a folder of images, or labels of a list ({outline(place)})"
            f"{beginnings(place)}"
        )

    @staticmethod
    def _refuse_nested(*places: ImageTree) -> None:
        """Raise DatasetError where a folder of classes lies among them: it has folders that are called like those
        beside it."""
        for place in places:
            for name, folder in place.folders.items():
                same = (folder.inner() | set(folder.folders)).intersection(place.folders) - {name}
                if same:
                    raise DatasetError(
                        f"{escaped(name)}/ may be a class or hold classes, as it has folders called like those beside "
                        f'it: {first_few(sorted(same))} ({outline(place)}); `layout` "inner_folders" takes the '
                        'innermost folders for classes, "folders" the outer ones, "split_folders" those within splits, '
                        "and `classes` names those that are classes"
                    )

    def _refuse_splits_within(self, inner: Mapping[str, ImageTree]) -> None:
        """Raise DatasetError where some of the splits have a folder that is named like a split itself."""
        for name, place in inner.items():
            everywhere = set(place.folders).intersection(*(other.folders for other in inner.values()))
            found = [word for word in self._splits_of(place.folders) if word.casefold() != CLASS_AND_SPLIT]
            odd = [word for word in found if len(inner) == 1 or word not in everywhere]
            if odd and len(odd) < len(place.folders):
                raise DatasetError(
                    f"{first_few([f'{word}/' for word in odd])} within {escaped(name)}/ may be a split or a class "
                    f'({outline(place)}); `layout` "split_folders" takes it for a class, and `classes` names those '
                    "that are classes"
                )

    def _check_left_out(self, place: ImageTree) -> None:
        whole = self.tree.count()
        if len(self.stray) > MOST_LEFT_OUT * whole:
            raise DatasetError(
                f"{len(self.stray):,} of {whole:,} images would be left out, such as "
                f"{escaped(min(self.stray))} ({outline(place)}); `layout` or `classes` settles what the folders are"
            )
