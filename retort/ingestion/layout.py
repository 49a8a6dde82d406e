"""Class and split of each image, by folders' names or by a manifest; before any image is decoded."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from retort.dataset import DatasetError
from retort.datasets._archive import SPLITS
from retort.datasets._listing import Labelled, first_few
from retort.datasets.image_folder import SPLIT_FOLDERS
from retort.ingestion.members import safe_name, shown

MANIFEST_ENDINGS = (".csv", ".jsonl", ".ndjson")
MANIFEST_BYTES = 256 << 20
"""Largest manifest that is read."""
JUNK = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
"""Names that systems leave in folders, besides hidden files."""
MOST_CLASSES = 100_000
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
    """Images that no class claims."""


def may_matter(name: str) -> bool:
    """Whether a file is neither hidden nor one that systems leave in folders; such are stray, whatever they hold."""
    return not any(step.startswith(".") or step in JUNK for step in name.split("/"))


def is_named_manifest(name: str) -> bool:
    """Whether a file may be a manifest: it lies at the top, or in the one folder that wraps all."""
    return name.lower().endswith(MANIFEST_ENDINGS) and name.count("/") <= 1


def find_layout(images: Sequence[str], manifests: Mapping[str, bytes]) -> ImageLayout:
    """The layout by the names of images, or by a manifest among the files that may be one. Raises DatasetError."""
    if not images:
        raise DatasetError("no image was found; wanted files like class/1.jpg, or a manifest beside the images")
    rows = {name: found for name, content in manifests.items() if (found := _rows(name, content)) is not None}
    if len(rows) > 1:
        raise DatasetError(f"{len(rows)} manifests were found ({first_few([*rows])}); wanted one")
    layout = _by_manifest(images, *rows.popitem()) if rows else _by_folders(images)
    _check_classes(layout)
    for images_of_split in layout.splits.values():
        images_of_split.sort(key=lambda item: (item[1], item[0]))
    layout.stray += [name for name in manifests if layout.found_by != _manifest_words(name)]
    return layout


# Folders


def _by_folders(images: Sequence[str]) -> ImageLayout:
    paths = [PurePosixPath(name).parts for name in images]
    tops = {path[0] for path in paths}
    wrapped = len(tops) == 1 and _split_of(next(iter(tops))) is None and any(len(path) > 2 for path in paths)
    depth = 1 if wrapped else 0
    named = _split_folders({path[depth] for path in paths if len(path) > depth + 2})
    claimed: dict[str, list[tuple[str, str]]] = {split: [] for split in named.values() or ("train",)}
    stray: list[str] = []
    for name, path in zip(images, paths, strict=True):
        inner = path[depth:]
        split = named.get(inner[0]) if named else "train"
        label = inner[1 if named else 0]
        if split is None or len(inner) < (3 if named else 2):
            stray.append(name)
        else:
            claimed[split].append((name, label))
    classes = sorted({label for _, label in claimed["train"]})
    found_by = "folders of classes in folders of splits" if named else "folders of classes"
    return ImageLayout(found_by, tuple(classes), _labelled(claimed, classes), stray)


def _split_folders(names: set[str]) -> dict[str, str]:
    """The folders that hold class folders and are named as splits, if one of them is for training."""
    found = {name: split for name in sorted(names) if (split := _split_of(name)) is not None}
    if found and set(found) == names and "train" not in found.values():
        raise DatasetError(f"the folders {first_few([*found])} hold images, and none to train on was found")
    for split in SPLITS:
        same = [name for name in found if found[name] == split]
        if len(same) > 1 and "train" in found.values():
            raise DatasetError(f"the folders {first_few(same)} are both the {split} split; wanted one")
    return found if "train" in found.values() else {}


def _split_of(name: str) -> str | None:
    return next((split for split, names in SPLIT_FOLDERS.items() if name.casefold() in names), None)


def _labelled(claimed: Mapping[str, Iterable[tuple[str, str]]], classes: Sequence[str]) -> dict[str, list[Labelled]]:
    order = {name: label for label, name in enumerate(classes)}
    for split, images in claimed.items():
        strangers = {label for _, label in images}.difference(order)
        if strangers:
            raise DatasetError(
                f"the {split} split holds classes that the train split lacks: {first_few(sorted(strangers))}"
            )
    return {split: [(name, order[label]) for name, label in images] for split, images in claimed.items()}


# Manifest


def _by_manifest(images: Sequence[str], manifest: str, rows: Iterable[Mapping[str, Any]]) -> ImageLayout:
    base = manifest.rpartition("/")[0]
    held = set(images)
    claimed: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    missing: list[str] = []
    seen: dict[str, tuple[str, str]] = {}
    for number, row in enumerate(rows, 1):
        where = f"row {number} of {manifest}"
        path, label, split = _row(row, where)
        name = next((name for name in (f"{base}/{path}" if base else path, path) if name in held), None)
        if name is None:
            missing.append(path)
        elif seen.setdefault(name, (label, split)) != (label, split):
            raise DatasetError(f"{where} gives {shown(path)} another label or split than a row before")
        else:
            claimed[split][name] = label
    if missing:
        raise DatasetError(
            f"{manifest} names {len(missing)} files that are not there or are no pictures: {first_few(missing)}"
        )
    classes = sorted(set(claimed["train"].values()), key=_by_number)
    splits = {split: list(labels.items()) for split, labels in claimed.items() if labels or split == "train"}
    stray = [name for name in images if name not in seen]
    return ImageLayout(_manifest_words(manifest), tuple(classes), _labelled(splits, classes), stray)


def _manifest_words(manifest: str) -> str:
    return f"the manifest {manifest}"


def _rows(name: str, content: bytes) -> Iterable[Mapping[str, Any]] | None:
    """The rows of a manifest; None for a file that is not one."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    lines = text.splitlines()
    if name.lower().endswith(".csv"):
        reader = csv.DictReader(lines, skipinitialspace=True, strict=True)
        try:
            columns = {column.strip().lower() for column in reader.fieldnames or ()}
        except csv.Error:
            return None
        if not {"path", "label"} <= columns:
            return None
        reader.fieldnames = [column.strip().lower() for column in reader.fieldnames or ()]
        return _checked_rows(name, reader)
    first = next((line for line in lines if line.strip()), "")
    try:
        begins = json.loads(first)
    except ValueError:
        return None
    if not isinstance(begins, dict) or not {"path", "label"} <= set(begins):
        return None
    return _checked_rows(name, (json.loads(line) for line in lines if line.strip()))


def _checked_rows(name: str, rows: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    """The rows; an error of their reader becomes a DatasetError."""
    number = 0
    try:
        for row in rows:
            number += 1
            if not isinstance(row, dict):
                raise DatasetError(f"row {number} of {name} is not an object with path and label")
            yield row
    except DatasetError:
        raise
    except (csv.Error, RecursionError, ValueError) as error:
        raise DatasetError(f"row {number + 1} of {name} cannot be read: {error}") from error


def _row(row: Mapping[str, Any], where: str) -> tuple[str, str, str]:
    """Path, label and split of one row."""
    path, label, split = row.get("path"), row.get("label"), row.get("split")
    if not isinstance(path, str) or not path:
        raise DatasetError(f"{where} has no path")
    if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
        raise DatasetError(f"{where} has no label; wanted text or a whole number")
    found = "train" if split in (None, "") else _split_of(str(split).strip())
    if found is None:
        raise DatasetError(f"{where} has the split {shown(str(split))}; wanted train, validation or test")
    return safe_name(path), str(label).strip(), found


def _by_number(label: str) -> tuple[int, str]:
    """Sorts labels that are numbers by their value, before all others."""
    return (int(label), label) if label.isdecimal() and len(label) < 19 else (10**19, label)


def _check_classes(layout: ImageLayout) -> None:
    names = layout.class_names
    if len(names) < 2:
        found = f"only one class was found, {shown(names[0])}" if names else "no class was found"
        raise DatasetError(
            f"{found}; at least 2 are wanted, each a folder of images (class/1.jpg), in train/, validation/ and test/ "
            "or without them, or labels of a manifest"
        )
    if len(names) > MOST_CLASSES:
        raise DatasetError(f"{len(names):,} classes were found; at most {MOST_CLASSES:,} are taken in")
    for name in names:
        if not name.isprintable() or "\\x" in name or len(name) > LONGEST_LABEL:
            raise DatasetError(
                f"the class {shown(name)} has a name that is not plain text in UTF-8 of at most {LONGEST_LABEL} "
                "characters"
            )
