"""Text files read as tables: separated columns, whatever separates them, or JSON in the forms that lists come in."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from retort.dataset import DatasetError

SAMPLE_ROWS = 1000
"""Rows by which columns are recognised."""
SAMPLE_CELLS = 1 << 16
"""Cells of those rows, from which on no further row is taken."""
LONGEST_LINE = 1 << 18
"""Characters of a line."""
MOST_COLUMNS = 10_000
HEAD_CHARACTERS = 1 << 19
"""Characters by which a separator is told."""
JSON_BYTES = 64 << 20
"""Largest JSON file that is read whole; of JSON lines only one line is in memory at once."""
MOST_TITLES = 10
"""Lines before the names of columns, or the first row, at most."""
MOST_WRAPPERS = 3
"""Objects of JSON around a list at most."""
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
JSON_ENDINGS = (".json", ".jsonl", ".ndjson")

Row = Sequence[Any]
"""Cells: text, or values of JSON."""


@dataclass(frozen=True)
class Table:
    """A file's rows."""

    name: str
    header: tuple[str, ...] | None
    """Names of the columns; None where the first row holds values already."""
    rows: Callable[[], Iterator[Row]]
    """All rows anew, from the first. Raises DatasetError, which names the row, for one that cannot be read."""
    split: str | None = None
    """The split whose rows these are, where the file says so for all of them."""

    def sample(self) -> list[Row]:
        """The first rows, up to one that cannot be read."""
        found: list[Row] = []
        cells = 0
        with suppress(DatasetError):
            for row in islice(self.rows(), SAMPLE_ROWS):
                found.append(row)
                cells += len(row)
                if cells > SAMPLE_CELLS:
                    break
        return found


def text_of(name: str, content: bytes, encoding: str | None) -> str:
    """A file's text: in UTF-8, in UTF-16 or UTF-32 by its mark, or in the code page that is given. Without one, bytes
    that are not UTF-8 become lone surrogates, one each. Raises DatasetError for bytes that the code page does not
    have."""
    marked = next((codec for mark, codec in MARKS if content.startswith(mark)), None)
    if marked is None and b"\0" in content[:100]:
        marked = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    try:
        return content.decode(marked or "utf-8")
    except UnicodeDecodeError:
        pass
    try:
        return content.decode(encoding) if encoding else content.decode("utf-8", "surrogateescape")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{name} is not in the `encoding` {encoding}: {error.reason} at byte {error.start}"
        ) from None


# Separated columns

Splitter = Callable[[str], Iterator[Row]]


def separated(name: str, text: str, score: Callable[[Table], int]) -> Table | None:
    """The table of a text, by the separator with which a column scores most; None where none scores."""
    if text.startswith("sep="):  # with which Excel marks the separator
        text = text.partition("\n")[2]
    head = _head(text)
    scores = [(score(_separated_table(name, head, splitter)), splitter) for splitter in SPLITTERS]
    best, splitter = max(scores, key=lambda one: one[0])
    return _separated_table(name, _without_titles(text, head, splitter), splitter) if best else None


def _without_titles(text: str, head: str, splitter: Splitter) -> str:
    """The text without the first lines that have one cell each where the rows have several: titles, and comments."""
    if splitter not in SPLITTERS[: len(CHARACTERS)]:
        return text
    lines = head.splitlines(keepends=True)[: MOST_TITLES + 1]
    with suppress(csv.Error, ValueError):
        widths = [len([*filter(None, next(splitter(line), ()))]) for line in lines]
        first = next((at for at, width in enumerate(widths) if width > 1), 0)
        return text[sum(map(len, lines[:first])) :]
    return text


def plain_table(name: str, text: str) -> Table | None:
    """The table of a text whose rows all have two cells, or one, by the first separator that gives such."""
    head = _head(text)
    for width in (2, 1):
        for splitter in SPLITTERS:
            if {len(row) for row in without_header(_separated_table(name, head, splitter)).sample()} == {width}:
                return without_header(_separated_table(name, text, splitter))
    return None


def _head(text: str) -> str:
    """The first lines, by which a separator is told."""
    head = text[:HEAD_CHARACTERS]
    return head if len(head) == len(text) or "\n" not in head else head[: head.rindex("\n") + 1]


def _separated_table(name: str, text: str, splitter: Splitter) -> Table:
    """The table, with its first row as a header; `without_header` takes that for a row."""
    try:
        header = tuple(cell.strip() for cell in next(splitter(text), ()))
    except (csv.Error, ValueError):
        header = ()
    return Table(name, header, lambda: _numbered_rows(name, islice(splitter(text), 1, None)))


def without_header(table: Table) -> Table:
    """The same with the header as its first row."""
    first = table.header or ()

    def rows() -> Iterator[Row]:
        yield first
        yield from table.rows()

    return Table(table.name, None, rows, table.split)


def _by_character(separator: str) -> Splitter:
    def split(text: str) -> Iterator[Row]:
        reader = csv.reader(_lines(text), delimiter=separator, skipinitialspace=True, strict=True)
        return ([cell.strip() for cell in _bounded(row)] for row in reader if any(row))

    return split


def _by_space(cut: Callable[[str], list[str]]) -> Splitter:
    return lambda text: (_bounded(cut(line)) for line in _lines(text) if line.strip())


def _lines(text: str) -> Iterator[str]:
    """The lines, with their ends. Raises ValueError for a longer one than is read."""
    for line in io.StringIO(text, newline=""):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"a line has {len(line):,} characters; at most {LONGEST_LINE:,} are read")
        yield line


def _bounded(row: list[str]) -> list[str]:
    if len(row) > MOST_COLUMNS:
        raise ValueError(f"it has {len(row):,} columns; at most {MOST_COLUMNS:,} are read")
    return row


CHARACTERS = ",;\t|"
SPLITTERS: tuple[Splitter, ...] = (
    *map(_by_character, CHARACTERS),
    _by_space(str.split),
    _by_space(lambda line: line.strip().rsplit(None, 1)),
    _by_space(lambda line: line.strip().split(None, 1)),
)


def _numbered_rows(name: str, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows; an error of their reader becomes a DatasetError."""
    number = 0
    try:
        for row in rows:
            number += 1
            yield row
    except (csv.Error, RecursionError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"row {number + 1} of {name} cannot be read: {error}") from error


# JSON


def json_tables(name: str, text: str, is_split: Callable[[str], str | None]) -> list[Table]:
    """The tables in a file of JSON, or of JSON lines: one, or one a split. None in a file that is neither."""
    if not name.lower().endswith(".json"):

        def objects() -> Iterator[Any]:
            return (json.loads(line) for line in _lines(text) if line.strip())

        try:
            first = next(objects(), None)
        except (ValueError, RecursionError):
            return []
        return [_object_table(name, objects, tuple(first)[:MOST_COLUMNS])] if isinstance(first, dict) else []
    if len(text) > JSON_BYTES:
        raise DatasetError(f"{name} has {len(text):,} characters; of JSON at most {JSON_BYTES:,} are read")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return _tables_in(name, value, is_split)


def _tables_in(name: str, value: Any, is_split: Callable[[str], str | None], depth: int = 0) -> list[Table]:
    match value:
        case [dict(), *_]:
            header = tuple(dict.fromkeys(key for one in value[:SAMPLE_ROWS] if isinstance(one, dict) for key in one))
            return [_object_table(name, lambda: iter(value), header[:MOST_COLUMNS])]
        case [list(), *_]:
            return [Table(name, None, lambda: _numbered_rows(name, map(_as_list, value)))]
        case [str(), *_]:
            return [Table(name, None, lambda: ([one] for one in value))]
        case {"images": [dict(), *_] as images, "annotations": [dict(), *_] as notes}:
            return [_coco_table(name, images, notes, value.get("categories"))]
        case dict() if value:
            return _tables_of_object(name, value, is_split, depth)
    return []


def _tables_of_object(
    name: str, value: Mapping[str, Any], is_split: Callable[[str], str | None], depth: int
) -> list[Table]:
    """Tables of an object: of splits, of a wrapper, or of entries by the names of files or of classes."""
    filled = {key: inner for key, inner in value.items() if isinstance(inner, list | dict) and inner}
    if filled and len(filled) == len(value) and all(is_split(key) for key in filled):
        return [
            Table(table.name, table.header, table.rows, is_split(key))
            for key, inner in filled.items()
            for table in _tables_in(name, inner, is_split, depth + 1)
        ]
    listed = [inner for inner in filled.values() if isinstance(inner, list)]
    if depth < MOST_WRAPPERS and (len(filled) == 1 or (len(listed) == 1 and len(filled) > 1)):
        (inner,) = listed or filled.values()
        if wrapped := _tables_in(name, inner, is_split, depth + 1):
            return wrapped
    first = next(iter(value.values()))
    if isinstance(first, dict):
        fields = tuple(
            dict.fromkeys(key for one in islice(value.values(), SAMPLE_ROWS) if isinstance(one, dict) for key in one)
        )
        rows = ({"": key, **(one if isinstance(one, dict) else {})} for key, one in value.items())
        held = [*rows]
        return [_object_table(name, lambda: iter(held), ("", *fields[:MOST_COLUMNS]))]
    if isinstance(first, list):  # files by class, or classes by file
        pairs = [[item, key] for key, inner in value.items() if isinstance(inner, list) for item in inner]
        return [Table(name, None, lambda: iter(pairs))]
    return [Table(name, None, lambda: ([key, one] for key, one in value.items()))]


def _object_table(name: str, objects: Callable[[], Iterator[Any]], header: tuple[str, ...]) -> Table:
    def rows() -> Iterator[Row]:
        for number, one in enumerate(objects(), 1):
            if not isinstance(one, dict):
                raise DatasetError(f"row {number} of {name} is not an object with path and label")
            yield [one.get(column) for column in header]

    return Table(name, header, lambda: _numbered_rows(name, rows()))


def _as_list(value: Any) -> Row:
    if not isinstance(value, list):
        raise ValueError("it is no list, as the first is")
    return value


def _coco_table(name: str, images: Sequence[Any], notes: Sequence[Any], categories: Any) -> Table:
    """A file in COCO's form: images, and annotations with a category each."""
    files = {repr(one.get("id")): one.get("file_name") for one in images if isinstance(one, dict)}
    named = categories if isinstance(categories, list) else []
    names = {repr(one.get("id")): one.get("name") for one in named if isinstance(one, dict)}
    rows = [
        [files.get(repr(one.get("image_id"))), names.get(repr(one.get("category_id")), one.get("category_id"))]
        for one in notes
        if isinstance(one, dict)
    ]
    return Table(name, ("file_name", "category"), lambda: iter(rows))
