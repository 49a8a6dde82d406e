"""Class and split of each image, by lists or by folders' names; before any image is decoded, and never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from retort.dataset import DatasetError
from retort.datasets._archive import SPLITS
from retort.datasets._class_names import ClassFinder, loose, merged_spellings, odd_characters
from retort.datasets._folders import MOST_LEFT_OUT, FolderLayout, FolderWish, read_folders
from retort.datasets._listing import Labelled, escaped, first_few
from retort.datasets._outline import ImageTree, outline
from retort.datasets._split_words import split_named
from retort.ingest import MOST_CLASSES, Ingest
from retort.ingestion.columns import ListColumns, tables_shown
from retort.ingestion.encodings import has_unknown_bytes, unknown_bytes
from retort.ingestion.lists import (
    SHEET_ENDINGS,
    SUBMISSION,
    FoundLists,
    find_lists,
    read_lists,
    refuse_unclear,
    split_by_lists,
    with_only_label,
)
from retort.ingestion.names import shown

LIST_ENDINGS = (".csv", ".tsv", ".txt", ".lst", ".json", ".jsonl", ".ndjson", *SHEET_ENDINGS)
LIST_BYTES = 256 << 20
"""Bytes of all lists together that are read."""
DEEPEST_LIST = 3
"""Folders above a list at most."""
MOST_LISTS, MOST_LISTS_IN_ALL = 50, 1000
"""Files of one ending in one folder, and in all, that are looked at as lists; more are notes on single images."""
JUNK = frozenset({
    *("__macosx", "thumbs.db", "desktop.ini", "icon\r"),  # of a desktop
    *("@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "found.000"),  # of a disk
})  # fmt: skip
"""Names that systems leave in folders, besides hidden files, in lower case."""
PROSE = ("readme", "license", "licence", "changelog", "requirements", "notice", "copying")
"""Beginnings of names of texts that are no lists."""
LONGEST_LABEL = 200


@dataclass
class ImageLayout:
    """The images that are to be inspected."""

    found_by: str
    """The source of classes and splits, in words."""
    class_names: tuple[str, ...]
    splits: dict[str, list[Labelled]]
    """The images of each split, sorted by class and name; only `train`, and others that the source has."""
    stray: list[str] = field(default_factory=list)
    """Images that no class claims, and files that are no lists."""
    warnings: list[str] = field(default_factory=list)
    """Sentences on what was left out or read in an unusual way."""


def may_matter(name: str) -> bool:
    """Whether a file is neither hidden nor one that systems leave in folders; such are stray, whatever they hold."""
    return not any(step.startswith(".") or step.lower() in JUNK for step in name.split("/"))


def is_named_list(name: str) -> bool:
    """Whether a file may be a list of images by its name and place."""
    file = name.rpartition("/")[2].lower()
    return file.endswith(LIST_ENDINGS) and not file.startswith(PROSE) and name.count("/") <= DEEPEST_LIST


def lists_among(names: Iterable[str]) -> list[str]:
    """The files that may be lists of images, without those of which a folder has very many, as notes on single
    images."""
    by_kind: dict[tuple[str, str], list[str]] = {}
    for name in names:
        if is_named_list(name):
            by_kind.setdefault((name.rpartition("/")[0], name.rpartition(".")[2].lower()), []).append(name)
    found = [name for same in by_kind.values() if len(same) <= MOST_LISTS for name in same]
    return sorted(found, key=lambda name: (name.count("/"), name))[:MOST_LISTS_IN_ALL]


def find_layout(images: Sequence[str], lists: Mapping[str, bytes], spec: Ingest) -> ImageLayout:
    """The layout of images, by those of the files that are lists or by the images' names, as the spec wants it.

    Raises DatasetError, with what was seen and the field that settles it, where more than one reading is possible.
    """
    if not images:
        refuse_no_images([*lists])
    found, used = _read(images, lists, spec)
    try:
        layout = _settled(found, spec, by_number=bool(used))
    except DatasetError as error:
        raise DatasetError(str(error) if used else _with_unread(error, lists)) from None
    layout.stray += [name for name in lists if name not in used]
    if unreadable := [name for name in images if has_unknown_bytes(name)]:
        layout.warnings.append(f"{len(unreadable):,} names are not text, such as {unknown_bytes(min(unreadable))}")
    for images_of_split in layout.splits.values():
        images_of_split.sort(key=lambda item: (item[1], item[0]))
    return layout


def refuse_no_images(others: Sequence[str]) -> None:
    """Raise DatasetError for a source without an image, of whose other files it names a few."""
    seen = f"; it holds {first_few(sorted(others))}" if others else ""
    raise DatasetError(f"no image was found; wanted files like class/1.jpg, or a list beside the images{seen}")


def _with_unread(error: DatasetError, lists: Iterable[str]) -> str:
    """A refusal of folders, with the files that might have been lists of the images."""
    seen = first_few([*lists])
    return f"{error}{f'; no list of classes was found in {seen}' if seen else ''}"


def _read(images: Sequence[str], lists: Mapping[str, bytes], spec: Ingest) -> tuple[FolderLayout, set[str]]:
    """The images with the labels that lists or folders give, and the names of the lists that were read."""
    if spec.layout not in ("auto", "list"):
        return _by_folders(images, spec), set()
    found = find_lists(images, lists, spec)
    if found.labelled:
        return _by_lists(found, found.labelled, images, spec)
    if spec.layout == "list":
        if len(found.unclear) == 1 and len(found.unclear[0].others) == 1:
            return _by_lists(found, [with_only_label(found.unclear[0])], images, spec)
        raise DatasetError(_no_list(found, lists))
    if found.unclear:
        return _by_unclear_list(found, images, spec)
    try:
        folders = _by_folders(images, spec)
    except DatasetError as error:
        raise DatasetError(_with_unread(error, lists)) from None
    if found.plain and len(folders.splits) == 1:
        divided = split_by_lists(found, found.plain, folders, spec)
        if divided is not None:
            return divided, {one.table.name for one in found.plain}
    return folders, set()


def _by_folders(images: Sequence[str], spec: Ingest) -> FolderLayout:
    layout = "auto" if spec.layout == "list" else spec.layout
    return read_folders(images, FolderWish(layout, spec.classes, spec.splits.names.by_name()))


def _by_unclear_list(found: FoundLists, images: Sequence[str], spec: Ingest) -> tuple[FolderLayout, set[str]]:
    """A list with one more column, which is the class where folders give none."""
    one = found.unclear[0]
    if len(found.unclear) == len(one.others) == 1:
        try:
            _settled(_by_folders(images, spec), spec, by_number=False)
        except DatasetError:
            return _by_lists(found, [with_only_label(one)], images, spec)
    refuse_unclear(found, images)
    raise AssertionError("it was refused")


def _by_lists(
    found: FoundLists, labelled: Sequence[ListColumns], images: Sequence[str], spec: Ingest
) -> tuple[FolderLayout, set[str]]:
    warnings = []
    counted = [one for one in labelled if SUBMISSION not in one.table.name.lower()] or [*labelled]
    if len(counted) < len(labelled):
        left = first_few([one.table.name for one in labelled if one not in counted])
        warnings.append(f"left out, as a form for answers: {left}")
    layout, used = read_lists(found, counted, images, spec)
    layout = _with_folders(layout, spec)
    layout.warnings += warnings
    return layout, used


def _with_folders(layout: FolderLayout, spec: Ingest) -> FolderLayout:
    """The layout of lists, with images that they do not name: those of a split that the lists have not are of the
    classes of its folders, or left out where they have none.

    Raises DatasetError where so many others are left that the lists were not understood.
    """
    given = spec.splits.names.by_name()
    by_split: dict[str | None, list[str]] = {}
    for name in layout.stray:
        split = next((split for step in name.split("/")[:-1] if (split := split_named(step, given))), None)
        by_split.setdefault(None if layout.splits.get(split or "") else split, []).append(name)
    layout.stray = by_split.pop(None, [])
    for split, names in by_split.items():
        assert split is not None, "they were taken out"
        labels = {label for images in layout.splits.values() for label in images.values()}
        own = {name: folder for name in names if (folder := _first_among(name.split("/")[:-1], labels)) is not None}
        if 2 * len(own) > len(names):
            layout.splits[split] = own
            layout.found_by += f", and folders of classes for the {split} split"
            layout.stray += [name for name in names if name not in own]
        else:
            text = f"{len(names):,} images of the {split} split, such as {escaped(min(names))}, stand in no list"
            layout.warnings.append(f"{text} and are left out")
    taken = sum(map(len, layout.splits.values()))
    whole = len(layout.stray) + taken
    if spec.layout == "auto" and taken and len(layout.stray) > MOST_LEFT_OUT * whole:
        raise DatasetError(
            f"{layout.found_by} names {taken:,} of {whole:,} images, and not "
            f'{escaped(min(layout.stray))} ({outline(ImageTree.of(layout.stray))}); `layout` "list" leaves the others '
            'out, "folders" leaves the list out'
        )
    return layout


def _first_among(steps: Sequence[str], labels: set[str]) -> str | None:
    return next((step for step in steps if step in labels), None)


def _no_list(found: FoundLists, lists: Mapping[str, bytes]) -> str:
    tables = [one.table for one in found.lists] + found.others
    seen = tables_shown(tables)
    return (
        f"no list with a column of images and one of classes was found among {first_few([*lists]) or 'no files'}"
        f"{f' ({seen})' if seen else ''}; `columns` names them"
    )


# Classes


def _settled(found: FolderLayout, spec: Ingest, *, by_number: bool) -> ImageLayout:
    """The layout with the final names and the order of its classes. Raises DatasetError for names that are no plain
    text, or one name in two spellings, and for classes without a training image."""
    stray, warnings = [*found.stray], [*found.warnings]
    if spec.classes:
        finder = ClassFinder(spec.classes)
        claimed: dict[str, dict[str, str]] = {}
        for split, images in found.splits.items():
            claimed[split] = {}
            for name, label in images.items():
                if (wanted := finder.find(label)) is None:
                    stray.append(name)
                else:
                    claimed[split][name] = wanted
        names: list[str] = [*spec.classes]
        missing = set(names).difference(claimed["train"].values())
        if missing:
            raise DatasetError(
                f"`classes` names {first_few(sorted(missing))}, of which no training image was found; found were "
                f"{first_few(sorted(set(found.splits['train'].values()))) or 'none'}"
            )
    else:
        claimed = _one_spelling(found.splits, warnings)
        names = sorted(set(claimed["train"].values()), key=_by_number if by_number else None)
    plain = tuple(name.strip() for name in names)
    _check_classes(plain)
    return ImageLayout(found.found_by, plain, _labelled(claimed, names), stray, warnings)


def _one_spelling(splits: Mapping[str, Mapping[str, str]], warnings: list[str]) -> dict[str, dict[str, str]]:
    """The images with the classes of other splits spelt as in training. Raises DatasetError for training classes that
    are one name in two spellings."""
    trained = set(splits["train"].values())
    for group in merged_spellings(trained):
        raise DatasetError(
            f"the classes {', '.join(map(shown, group))} are one name in several spellings; `classes` with the names "
            "of all classes takes them for one, or for several if it names each"
        )
    spelt = {loose(name): name for name in trained}
    claimed: dict[str, dict[str, str]] = {}
    for split, images in splits.items():
        claimed[split] = {}
        for name, label in images.items():
            claimed[split][name] = label if label in trained else spelt.get(loose(label), label)
        for label in sorted(set(images.values()) - trained):
            if loose(label) in spelt:
                wanted = spelt[loose(label)]
                warnings.append(f"the {split} split's class {shown(label)} is taken for the class {shown(wanted)}")
    return claimed


def _labelled(claimed: Mapping[str, Mapping[str, str]], classes: Sequence[str]) -> dict[str, list[Labelled]]:
    order = {name: label for label, name in enumerate(classes)}
    for split, images in claimed.items():
        strangers = set(images.values()).difference(order)
        if strangers:
            raise DatasetError(
                f"the {split} split holds classes that the train split lacks: {first_few(sorted(strangers))}; "
                "`classes` names those that count"
            )
    return {
        split: [(name, order[label]) for name, label in claimed[split].items()]
        for split in SPLITS
        if claimed.get(split) or split == "train"
    }


def _by_number(label: str) -> tuple[int, str]:
    """Sorts labels that are numbers by their value, before all others."""
    whole = re.fullmatch(r"(\d{1,18})(\.0*)?", label)
    return (int(whole[1]), label) if whole else (10**19, label)


def _check_classes(names: Sequence[str]) -> None:
    if len(names) < 2:
        found = f"only one class was found, {shown(names[0])}" if names else "no class was found"
        raise DatasetError(
            f"{found}; at least 2 are wanted, each a folder of images (class/1.jpg), in train/, validation/ and test/ "
            "or without them, or labels of a list"
        )
    if len(names) > MOST_CLASSES:
        raise DatasetError(f"{len(names):,} classes were found; at most {MOST_CLASSES:,} are taken in")
    for name in names:
        if has_unknown_bytes(name):
            raise DatasetError(f"the class {unknown_bytes(name)}")
        if odd := odd_characters(name):
            raise DatasetError(
                f"the class {shown(name)} has a name that is not plain text: {first_few(odd)}; `classes` gives all "
                "classes names without it"
            )
        if len(name) > LONGEST_LABEL:
            raise DatasetError(
                f"the class {shown(name)} has a name that is not plain text of at most {LONGEST_LABEL} characters: it "
                f"has {len(name):,}"
            )
