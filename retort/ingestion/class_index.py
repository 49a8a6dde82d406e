"""Names of classes that lists give as numbers: in a file beside the lists, such as classes.txt."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from retort.ingest import Ingest
from retort.ingestion.tables import Table

INDEX_NAMES = re.compile(r"class|label|categor|names|synset|words|index", re.IGNORECASE)


def is_index(table: Table, knows: Callable[[object], bool]) -> bool:
    """Whether a table is one of classes by its name, with a number and a name of its own for each: 0 cat, 1 dog; names
    that mean images are none."""
    if not INDEX_NAMES.search(table.name.rpartition("/")[2]):
        return False
    first = [table.header] if table.header and any(map(str.isdecimal, table.header)) else []
    rows = [*first, *table.sample()]
    pairs = [tuple(map(str, row)) for row in rows if len(row) == 2]
    if len(pairs) < len(rows) or not rows:
        return False
    names = {name for pair in pairs for name in pair if not name.isdecimal()}
    return (
        len(names) == len(pairs)
        and not any(map(knows, names))
        and all(sum(map(str.isdecimal, pair)) == 1 for pair in pairs)
    )


Claimed = dict[str, dict[str, str]]
"""The label of each image, by split."""


def named_by_index(claimed: Claimed, tables: Sequence[Table], spec: Ingest) -> tuple[Claimed, str | None]:
    """The images with the names of their classes, and the file that has those; the same where labels are names, or no
    file beside the lists names them all."""
    labels = {label for images in claimed.values() for label in images.values()}
    if spec.classes or not labels or not all(label.isdecimal() for label in labels):
        return claimed, None
    found = [
        (table.name, names)
        for table in tables
        if INDEX_NAMES.search(table.name.rpartition("/")[2]) and (names := _names(table, labels)) is not None
    ]
    if len(found) != 1:
        return claimed, None
    name, names = found[0]
    named = {split: {image: names[label] for image, label in images.items()} for split, images in claimed.items()}
    return named, name


def _names(table: Table, labels: set[str]) -> Mapping[str, str] | None:
    """The name of each label, where a table has all of them once."""
    rows = [[str(cell).strip() for cell in row] for row in (*([table.header] if table.header else []), *table.sample())]
    numbers = {label: str(int(label)) for label in labels}
    if all(len(row) == 1 for row in rows):  # a name a line, counted from 0 or from 1
        first = min(map(int, numbers.values()))
        listed = {str(number): row[0] for number, row in enumerate(rows, first)}
        return {label: listed[n] for label, n in numbers.items()} if _is_all(numbers.values(), listed, first) else None
    for at in (0, 1):
        pairs = {_number(row[at]): row[1 - at] for row in rows if len(row) > 1}
        if set(numbers.values()) <= set(pairs) and len(set(pairs.values())) == len(pairs):
            return {label: pairs[number] for label, number in numbers.items()}
    return None


def _is_all(numbers: Iterable[str], listed: Mapping[str, str], first: int) -> bool:
    return first in (0, 1) and set(numbers) == set(listed) and len(set(listed.values())) == len(listed)


def _number(cell: str) -> str:
    return str(int(cell)) if cell.isdecimal() and len(cell) < 19 else cell
