"""Columns of a table: which holds the images' files, which the classes, which the splits; by content, then by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from retort.dataset import DatasetError
from retort.datasets._listing import escaped, first_few
from retort.ingest import Columns
from retort.ingestion.tables import Row, Table, without_header

PATH_NAMES = frozenset({
    *("path", "file", "files", "filename", "filenames", "filepath", "image", "images", "imagename", "imagepath"),
    *("imagefile", "imageid", "img", "imgname", "imgpath", "imgid", "id", "name", "key", "photo", "picture", "fname"),
    *("relpath", "relativepath", "uri", "url"),
})  # fmt: skip
LABEL_NAMES = frozenset({
    *("label", "labels", "labelname", "labelid", "labelidx", "labelindex", "class", "classes", "classname"),
    *("classlabel", "classid", "classidx", "classindex", "category", "categories", "categoryname", "categoryid"),
    *("target", "targets", "species", "breed", "tag", "tags", "groundtruth", "gt", "diagnosis"),
})  # fmt: skip
SPLIT_NAMES = frozenset({
    *("split", "splits", "set", "subset", "partition", "datasplit", "datasetsplit", "usage", "phase"),
})  # fmt: skip
"""Usual names of columns, in small letters without anything between them."""
FLAG = re.compile(r"is_?(train|valid|val|validation|test)(ing)?(_?(img|image|set))?", re.IGNORECASE)
"""Names of columns of yes and no about one split."""
FEW_ROWS = 10
"""Rows from which on a column of values that are all different is none of classes."""
SCORED_ROWS = 100
"""Rows by which a separator is told."""
YES, NO = frozenset({"1", "1.0", "true", "yes"}), frozenset({"0", "0.0", "false", "no"})


@dataclass(frozen=True)
class ListColumns:
    """A table that lists images, and its columns by their positions."""

    table: Table
    path: int
    label: int | None = None
    one_hot: tuple[int, ...] = ()
    """Columns of yes and no, one a class."""
    split: int | None = None
    flag: str | None = None
    """The split that `split`, a column of yes and no, is about."""
    others: tuple[int, ...] = ()
    """Columns that may be labels, where none is."""

    @property
    def has_labels(self) -> bool:
        return self.label is not None or bool(self.one_hot)

    def words(self) -> str:
        """The list and the columns that are read, for sentences."""
        read = [("path", self.path), ("label", self.label), ("split", self.split)]
        named = [f"{column_name(self.table, at)} as {word}" for word, at in read if at is not None]
        named += [f"{len(self.one_hot)} columns of classes"] if self.one_hot else []
        return f"the list {escaped(self.table.name)} ({', '.join(named)})"


def column_name(table: Table, at: int) -> str:
    """A column's name, or its number from 1 where it has none."""
    return escaped(table.header[at]) if table.header and table.header[at] else f"column {at + 1}"


def columns_shown(table: Table) -> str:
    """The names of a table's columns, for sentences."""
    return first_few([name for name in table.header if name]) if table.header else "without names"


def tables_shown(tables: Sequence[Table]) -> str:
    """The columns of the first few tables, for sentences; empty for none."""
    return "; ".join(f"{escaped(table.name)} has the columns {columns_shown(table)}" for table in tables[:3])


def recognise(
    table: Table, knows: Callable[[object], bool], is_split: Callable[[str], bool], wish: Columns
) -> ListColumns | None:
    """The table as a list of images; None where no column holds images' files, and no names of columns say so.

    `knows` says whether a cell means an image, and `is_split` whether a text is the name of a split.
    """
    sample = table.sample()
    if table.header is not None and any(map(knows, table.header)):
        table = without_header(table)
        sample = [*table.sample()]
    width = len(table.header) if table.header is not None else max((len(row) for row in sample), default=0)
    columns = [[_cell(row, at) for row in sample] for at in range(width)]
    path = _path_column(table, columns, knows, wish)
    if path is None:
        return None
    found = ListColumns(table, path)
    split, flag = _split_column(table, columns, path, is_split, wish)
    found = replace(found, split=split, flag=flag)
    label = _label_column(table, columns, found, wish)
    if label is not None:
        return replace(found, label=label)
    rest = [at for at in range(width) if at not in (path, split)]
    hot = tuple(at for at in rest if table.header and _is_flag(columns[at]))
    if len(hot) > 1:
        return replace(found, one_hot=hot)
    rest = [at for at in rest if not _are_all_different(columns[at])]
    return replace(found, others=tuple(at for at in rest if len(rest) == 1 or _may_be_labels(columns[at])))


def points(table: Table, knows: Callable[[object], bool]) -> int:
    """The different images that a table's best column means, among the first rows; less than one image counts a header
    that names columns of files and of labels."""
    sample = table.sample()[:SCORED_ROWS]
    rows = [*sample, table.header or ()]
    width = max((len(row) for row in rows), default=0)
    best = max((len({cell for row in rows if knows(cell := _cell(row, at))}) for at in range(width)), default=0)
    return 2 * best or int(_is_named_list(table))


def _is_named_list(table: Table) -> bool:
    names = [*map(_key, table.header or ())]
    return any(name in PATH_NAMES for name in names) and any(name in LABEL_NAMES for name in names)


def _is_named(table: Table, at: int, names: Set[str]) -> bool:
    return table.header is not None and _key(table.header[at]) in names


def _path_column(
    table: Table, columns: Sequence[Sequence[Any]], knows: Callable[[object], bool], wish: Columns
) -> int | None:
    if wish.path is not None:
        return _wished(table, wish.path, len(columns))
    # Numbers may be names of files by chance: they count where the column is called so, or none is called anything.
    may_be = [
        table.header is None or _is_named(table, at, PATH_NAMES) or not _is_number(column)
        for at, column in enumerate(columns)
    ]
    counts = [
        len({str(cell) for cell in column if knows(cell)}) if may else 0
        for column, may in zip(columns, may_be, strict=True)
    ]
    most = max(counts, default=0)
    if most:
        leading = [at for at, count in enumerate(counts) if 2 * count >= most]
        best = min(leading, key=lambda at: (_is_number(columns[at]), -counts[at], not _is_named(table, at, PATH_NAMES)))
        different = len({str(cell) for cell in columns[best]})
        return best if 2 * counts[best] >= different or _is_named_list(table) else None
    if table.header is None or not _is_named_list(table):
        return None
    names = [_key(name) for name in table.header]
    return next(at for at, name in enumerate(names) if name in PATH_NAMES)


def _split_column(
    table: Table, columns: Sequence[Sequence[Any]], path: int, is_split: Callable[[str], bool], wish: Columns
) -> tuple[int | None, str | None]:
    """The column of splits; and the split of a column of yes and no."""
    if wish.split is not None:
        at = _wished(table, wish.split, len(columns))
        return (at, _flag_of(table, at) if at is not None and _is_flag(columns[at]) else None)
    for at in range(len(columns) if table.header else 0):
        if at != path and (flag := _flag_of(table, at)) is not None and _is_flag(columns[at]):
            return at, flag
    others = [at for at in range(len(columns)) if at != path]
    named = [at for at in others if _is_named(table, at, SPLIT_NAMES)]
    if "split" in map(_key, table.header or ()):
        return next((at for at in named if table.header and _key(table.header[at]) == "split"), None), None
    values = {at: {_text(cell) for cell in columns[at]} - {""} for at in others}
    found = [at for at in named if any(map(is_split, values[at]))]
    found = found or [at for at in others if len(values[at]) > 1 and all(map(is_split, values[at]))]
    return (found[0] if len(found) == 1 else None), None


def _label_column(table: Table, columns: Sequence[Sequence[Any]], found: ListColumns, wish: Columns) -> int | None:
    if wish.label is not None:
        return _wished(table, wish.label, len(columns))
    rest = [at for at in range(len(columns)) if at not in (found.path, found.split)]
    named = [at for at in rest if _is_named(table, at, LABEL_NAMES)]
    if len(named) > 1:
        named = _one_of(table, columns, named)
    if named:
        return named[0]
    if table.header is not None:
        return None
    rest = [at for at in rest if not _are_all_different(columns[at])]
    texts = [at for at in rest if not _is_number(columns[at])]
    return rest[0] if len(rest) == 1 else texts[0] if len(texts) == 1 else None


def _one_of(table: Table, columns: Sequence[Sequence[Any]], named: Sequence[int]) -> list[int]:
    """The column whose labels are words, of several that name the same classes. Raises DatasetError for columns that do
    not."""
    pairs = {tuple(_text(columns[at][row]) for at in named) for row in range(len(columns[named[0]]))}
    if any(len({pair[i] for pair in pairs}) != len(pairs) for i in range(len(named))):
        names = ", ".join(column_name(table, at) for at in named)
        raise DatasetError(
            f"{escaped(table.name)} has several columns that may be the classes ({names}); `columns.label` says which"
        )
    return sorted(named, key=lambda at: _is_number(columns[at]))[:1]


def _wished(table: Table, name: str, width: int) -> int | None:
    """The column of that name or number; None where the table has none."""
    if table.header is not None:
        exact = [at for at, found in enumerate(table.header) if found == name]
        alike = [at for at, found in enumerate(table.header) if _key(found) == _key(name)]
        return next(iter((*exact, *alike)), None)
    return int(name) - 1 if name.isdecimal() and 0 < int(name) <= width else None


def has_column(table: Table, name: str) -> bool:
    """Whether a table has a column of that name or number."""
    return _wished(table, name, max((len(row) for row in table.sample()), default=0)) is not None


def _flag_of(table: Table, at: int) -> str | None:
    matched = FLAG.fullmatch(table.header[at].strip()) if table.header else None
    return None if matched is None else {"train": "train", "test": "test"}.get(matched[1].lower(), "validation")


def _cell(row: Row, at: int) -> Any:
    return row[at] if at < len(row) else None


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def is_yes(value: Any) -> bool | None:
    """The meaning of a cell of yes and no; None for any other."""
    text = _text(value).casefold()
    return True if text in YES else False if text in NO else None


def _is_flag(column: Sequence[Any]) -> bool:
    return bool(column) and all(is_yes(cell) is not None for cell in column)


def _is_number(column: Sequence[Any]) -> bool:
    return all(re.fullmatch(r"[-+]?\d*[.,]?\d*(e[-+]?\d+)?", _text(cell).casefold()) for cell in column)


def _are_all_different(column: Sequence[Any]) -> bool:
    """Whether a column numbers or names its rows; of few rows that says nothing."""
    return len(column) >= FEW_ROWS and len(set(map(_text, column))) == len(column)


def _may_be_labels(column: Sequence[Any]) -> bool:
    """Whether a column has few different words, each twice or more on average."""
    different = len(set(map(_text, column)))
    return 1 < different <= len(column) // 2 and not _is_number(column)
