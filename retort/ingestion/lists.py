"""Classes and splits by lists: files with a row an image, found by their contents among all that may be one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from retort.dataset import DatasetError
from retort.datasets._folders import FolderLayout
from retort.datasets._listing import escaped, first_few
from retort.datasets._outline import ImageTree, outline
from retort.datasets._split_words import split_named
from retort.ingest import Ingest
from retort.ingestion.assignment import Assignment
from retort.ingestion.class_index import INDEX_NAMES, is_index, named_by_index
from retort.ingestion.columns import (
    ListColumns,
    column_name,
    columns_shown,
    has_column,
    points,
    recognise,
    tables_shown,
)
from retort.ingestion.names import shown
from retort.ingestion.paths import ImageIndex
from retort.ingestion.tables import JSON_ENDINGS, Table, json_tables, plain_table, separated, text_of

SUBMISSION = "submission"
"""A word in names of lists whose labels are examples of the form that answers are to have."""
SHEET_ENDINGS = (".xlsx", ".xls", ".ods", ".parquet")
"""Endings of tables that are no text."""
SEVERAL = ("|", ";", ",")
"""Characters between the classes of an image that has several."""


@dataclass(frozen=True)
class FoundLists:
    """The lists among the files of a source."""

    index: ImageIndex
    lists: list[ListColumns] = field(default_factory=list)
    others: list[Table] = field(default_factory=list)
    """Tables that list no images."""

    @property
    def labelled(self) -> list[ListColumns]:
        return [one for one in self.lists if one.has_labels]

    @property
    def unclear(self) -> list[ListColumns]:
        """Lists with columns that may be labels, and none that is."""
        return [one for one in self.lists if not one.has_labels and one.others]

    @property
    def plain(self) -> list[ListColumns]:
        """Lists without a column that may be labels."""
        return [one for one in self.lists if not one.has_labels and not one.others]


def find_lists(images: Sequence[str], files: Mapping[str, bytes], spec: Ingest) -> FoundLists:
    """The lists among files that may be such. Raises DatasetError for one that cannot be read."""
    found = FoundLists(ImageIndex(images))
    wanted = [name for name in files if not spec.lists or _is_among(name, spec.lists)]
    if spec.lists and len(wanted) < len(set(spec.lists)):
        raise DatasetError(
            f"`lists` names {first_few(list(spec.lists))}, and the files that may be lists are "
            f"{first_few([*files]) or 'none'}"
        )
    given = spec.splits.names.by_name()

    def is_split(text: str) -> bool:
        return split_named(text, given) is not None

    for name in sorted(wanted):
        base = name.rpartition("/")[0]

        def knows(cell: object, base: str = base) -> bool:
            return found.index.knows(cell, base)

        for table in _tables(name, files[name], spec, knows, given):
            columns = None if is_index(table, knows) else recognise(table, knows, is_split, spec.columns)
            if columns is None:
                found.others.append(table)
            else:
                found.lists.append(columns)
    _check_columns(found, spec)
    return found


def _check_columns(found: FoundLists, spec: Ingest) -> None:
    """Raise DatasetError for a column that is asked for and that no list has."""
    tables = [one.table for one in found.lists] + found.others
    for field_name, name in spec.columns:
        if name is not None and not any(has_column(table, name) for table in tables):
            seen = tables_shown(tables)
            raise DatasetError(
                f"`columns.{field_name}` is {shown(name)}, which no list has ({seen or 'none was found'})"
            )


def _is_among(name: str, lists: Iterable[str]) -> bool:
    return any(name == one or name.endswith(f"/{one}") for one in lists)


def _tables(name: str, content: bytes, spec: Ingest, knows: Any, given: Mapping[str, str]) -> list[Table]:
    if name.lower().endswith(SHEET_ENDINGS):
        raise DatasetError(
            f'{escaped(name)} may be a list of the images and is no text; wanted it as CSV, or `layout` "folders" to '
            "leave it out, or `lists` with the names of others"
        )
    text = text_of(name, content, spec.encoding)
    if name.lower().endswith(JSON_ENDINGS):
        return json_tables(name, text, lambda word: split_named(word, given))
    table = separated(name, text, lambda table: points(table, knows))
    if table is None and INDEX_NAMES.search(name.rpartition("/")[2]):
        table = plain_table(name, text)
    return [] if table is None else [table]


# Assigning


def read_lists(
    found: FoundLists, lists: Sequence[ListColumns], images: Sequence[str], spec: Ingest
) -> tuple[FolderLayout, set[str]]:
    """The layout that lists with labels give, and the names of the files that were read. Raises DatasetError where
    lists are at odds with one another or with the images."""
    splits = _splits_of_lists(lists, spec)
    assignment = Assignment(found.index, spec)
    for one in lists:
        assignment.add(one, splits[one.table.name, one.table.split])
    claimed = assignment.splits()
    _refuse_several_classes(lists, claimed, spec.classes)
    named, index = named_by_index(claimed, found.others, spec)
    found_by = " and ".join(one.words() for one in lists[:3]) + (", ..." if len(lists) > 3 else "")
    taken = {name for labels in claimed.values() for name in labels}
    rest = [name for name in images if name not in taken]
    used = {one.table.name for one in lists}
    if index is not None:
        found_by += f", names of classes in {escaped(index)}"
        used.add(index)
    return FolderLayout(found_by, named, rest, assignment.warnings), used


def _splits_of_lists(lists: Sequence[ListColumns], spec: Ingest) -> dict[tuple[str, str | None], str | None]:
    """The split of each list's rows, by its name or its folder's; None where its own column or its images say it.

    Raises DatasetError for several lists that are not told apart so.
    """
    given = spec.splits.names.by_name()
    splits = {}
    for one in lists:
        folder, _, file = one.table.name.rpartition("/")
        words = (file.partition(".")[0], folder.rpartition("/")[2])
        by_name = next((split for word in words if (split := split_named(word, given)) is not None), None)
        splits[one.table.name, one.table.split] = one.table.split or by_name
    unknown = [name for (name, _), split in splits.items() if split is None]
    if len(lists) > 1 and unknown and not spec.lists:
        names = first_few(sorted({one.table.name for one in lists}))
        raise DatasetError(
            f"{len(lists)} lists were found ({names}); wanted one, or one a split, or `lists` with the names of those "
            "that count"
        )
    return splits


def _refuse_several_classes(
    lists: Sequence[ListColumns], claimed: Mapping[str, Mapping[str, str]], asked: Sequence[str]
) -> None:
    """Raise DatasetError where labels are put together of others: `cat|dog` beside `cat`, or all of the same few.
    Those that a request asks for by their names are one class each."""
    labels = {label for images in claimed.values() for label in images.values()}.difference(asked)
    for separator in SEVERAL:
        whole = {label: [piece.strip() for piece in label.split(separator)] for label in labels if separator in label}
        pieces = {piece for parts in whole.values() for piece in parts}
        # Names with commas are usual: "Paris, France".
        are_few = separator != "," and len(pieces | labels.difference(whole)) < len(labels)
        if whole and (are_few or not pieces.isdisjoint(labels)):
            raise DatasetError(
                f"{escaped(lists[0].table.name)} gives images several classes, such as {shown(min(whole))}; wanted one "
                "class an image, or `classes` with that name, if it is one"
            )


# Lists without labels


def split_by_lists(
    found: FoundLists, lists: Sequence[ListColumns], folders: FolderLayout, spec: Ingest
) -> FolderLayout | None:
    """Classes by folders, and splits by lists of the images of each; None where lists name no splits."""
    splits = {
        (one.table.name, one.table.split): split
        for one in lists
        if (split := _splits_of_lists([one], spec)[one.table.name, one.table.split]) or one.split is not None
    }
    counted = [one for one in lists if (one.table.name, one.table.split) in splits]
    if "train" not in splits.values() and not any(one.split is not None for one in counted):
        return None
    assignment = Assignment(found.index, spec)
    for one in counted:
        assignment.add(one, splits[one.table.name, one.table.split])
    labels = {name: label for images in folders.splits.values() for name, label in images.items()}
    claimed = {
        split: {name: labels[name] for name in images if name in labels}
        for split, images in assignment.splits().items()
    }
    taken = {name for images in claimed.values() for name in images}
    names = ", ".join(escaped(one.table.name) for one in counted[:3])
    rest = [name for name in labels if name not in taken]
    return FolderLayout(f"{folders.found_by}, and splits of {names}", claimed, folders.stray + rest, folders.warnings)


def refuse_unclear(found: FoundLists, images: Sequence[str]) -> None:
    """Raise DatasetError for lists whose columns do not say which is the class."""
    one = found.unclear[0]
    names = ", ".join(column_name(one.table, at) for at in one.others)
    raise DatasetError(
        f"{escaped(one.table.name)} lists images, and none of its columns ({columns_shown(one.table)}) is named like "
        f'classes; `columns.label` names it ({names}), or `layout` "folders" leaves the list out '
        f"({outline(ImageTree.of(images))})"
    )


def with_only_label(columns: ListColumns) -> ListColumns:
    """The list with its only further column as the labels."""
    return replace(columns, label=columns.others[0], others=())
