"""Classes and splits of images by the rows of lists."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from retort.dataset import DatasetError
from retort.datasets._listing import escaped, first_few
from retort.datasets._split_words import split_named
from retort.ingest import Ingest
from retort.ingestion.columns import ListColumns, column_name, is_yes
from retort.ingestion.encodings import refuse_unknown_bytes
from retort.ingestion.names import shown
from retort.ingestion.paths import ImageIndex


class Assignment:
    """Classes and splits of images, row by row. Raises DatasetError for a row that is at odds with others."""

    def __init__(self, index: ImageIndex, spec: Ingest) -> None:
        self._index = index
        self._given = spec.splits.names.by_name()
        self._most_missing = spec.limits.missing
        self._seen: dict[str, tuple[str, str | None]] = {}
        self.warnings: list[str] = []

    def add(self, columns: ListColumns, split_of_list: str | None) -> None:
        """Take the rows of a list; those without a split are of the list's, if it has one."""
        base = columns.table.name.rpartition("/")[0]
        missing: list[str] = []

        def is_of_list(name: str) -> bool:
            return split_of_list is not None and self._folder_split(name) == split_of_list

        for number, row in enumerate(columns.table.rows(), 1):
            where = f"row {number} of {escaped(columns.table.name)}"
            cell = self._text(columns, row, columns.path, where)
            if not cell:
                raise DatasetError(f"{where} has no path")
            label = self._label(columns, row, where) if columns.has_labels else ""
            split = self._split(columns, row, where) or split_of_list
            try:
                name = self._index.find(cell, base, is_of_list)
            except DatasetError as error:
                raise DatasetError(f"{where}: {error}") from None
            if name is None:
                missing.append(cell)
            elif self._seen.setdefault(name, (label, split)) != (label, split):
                raise DatasetError(
                    f"{where} gives {shown(cell)} another label or split than a row before; wanted one class an image"
                )
        self._most_missing -= len(missing)
        if missing:
            text = (
                f"{escaped(columns.table.name)} names {len(missing)} files that are not there or are no pictures: "
                f"{first_few(missing)}"
            )
            if self._most_missing < 0:
                raise DatasetError(f"{text}; `limits.missing` allows for so many, and {columns.words()} was read")
            self.warnings.append(text)

    def splits(self) -> dict[str, dict[str, str]]:
        """The images of each split with their labels; where lists name no split, folders that are named as splits
        do."""
        by_folder = {name: self._folder_split(name) for name, (_, split) in self._seen.items() if split is None}
        are_splits = "train" in by_folder.values() and None not in by_folder.values()
        claimed: dict[str, dict[str, str]] = {"train": {}}
        for name, (label, split) in self._seen.items():
            found = split or (by_folder[name] if are_splits else None) or "train"
            claimed.setdefault(found, {})[name] = label
        return claimed

    def _folder_split(self, name: str) -> str | None:
        steps = name.split("/")[:-1]
        return next((split for step in steps if (split := split_named(step, self._given)) is not None), None)

    def _text(self, columns: ListColumns, row: Sequence[Any], at: int, where: str) -> str:
        """A cell that holds text or a whole number; blank for one of anything else."""
        value = row[at] if at < len(row) else None
        if isinstance(value, bool) or not isinstance(value, str | int):
            return ""
        refuse_unknown_bytes(str(value), where)
        return str(value).strip()

    def _label(self, columns: ListColumns, row: Sequence[Any], where: str) -> str:
        if columns.label is not None:
            value = row[columns.label] if columns.label < len(row) else None
            if isinstance(value, list) and len(value) == 1:
                row = [*row[: columns.label], value[0], *row[columns.label + 1 :]]
            elif isinstance(value, list) and value:
                raise DatasetError(f"{where} has {len(value)} labels; wanted one class an image")
            if label := self._text(columns, row, columns.label, where):
                return unicodedata.normalize("NFC", label)
            raise DatasetError(f"{where} has no label; wanted text or a whole number")
        hot = [at for at in columns.one_hot if is_yes(row[at] if at < len(row) else None)]
        if len(hot) != 1:
            names = [column_name(columns.table, at) for at in hot]
            found = f"{len(hot)} classes ({', '.join(names)})" if hot else "no class"
            raise DatasetError(f"{where} has {found} in its columns of 0 and 1; wanted one class an image")
        assert columns.table.header is not None, "columns of classes have names"
        return unicodedata.normalize("NFC", columns.table.header[hot[0]])

    def _split(self, columns: ListColumns, row: Sequence[Any], where: str) -> str | None:
        if columns.split is None:
            return None
        value = row[columns.split] if columns.split < len(row) else None
        if columns.flag is not None and (yes := is_yes(value)) is not None:
            return columns.flag if yes else "test" if columns.flag == "train" else "train"
        text = "" if value is None else str(value).strip()
        if not text:
            return "train"
        if (split := split_named(text, self._given)) is None:
            raise DatasetError(
                f"{where} has the split {shown(text)}; wanted train, validation or test, or that name in `splits.names`"
            )
        return split
