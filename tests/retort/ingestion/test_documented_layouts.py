"""The tables of layouts in docs/datasets.md: each row says what becomes of its files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from retort.dataset import DatasetError
from retort.ingestion.layout import ImageLayout, find_layout, is_named_list
from tests.retort.ingestion.packing import request

PAGE = Path(__file__).parents[3] / "docs/datasets.md"
IMAGES = 4
"""Images that a * in a name stands for."""


def rows() -> Iterator[tuple[str, str, str]]:
    """Files, fields and result of each row of the tables that begin with `files`."""
    tables = re.findall(r"\| files \| fields \| result \|\n\|[- |]+\n((?:\|.*\n)+)", PAGE.read_text("utf-8"))
    for table in tables:
        for line in table.splitlines():
            files, fields, result = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            yield files.replace("\\|", "|"), fields, result


def expanded(pattern: str) -> list[str]:
    """The names that a pattern with {a,b} and * stands for."""
    if found := re.search(r"\{([^{}]*)\}", pattern):
        choices = (pattern[: found.start()] + choice + pattern[found.end() :] for choice in found[1].split(","))
        return [name for choice in choices for name in expanded(choice)]
    return [pattern.replace("*", str(i)) for i in range(1, IMAGES + 1)] if "*" in pattern else [pattern]


def laid_out(files: str, fields: str) -> ImageLayout:
    """The layout of a row's files: `names`, and `list`: `row` `row` ... for each list."""
    images: list[str] = []
    lists: dict[str, bytes] = {}
    for part in files.split("<br>"):
        name, *content = re.findall(r"`([^`]*)`", part)
        if is_named_list(name):
            lists[name] = "".join(f"{line}\n" for line in content).encode()
        else:
            images += expanded(name)
    return find_layout(images, lists, request(**json.loads(fields.strip("`") or "{}")))


def result(files: str, fields: str) -> str:
    """The row's result, in the words of the page."""
    try:
        layout = laid_out(files, fields)
    except DatasetError as refused:
        named = Counter(re.findall(r"`([a-z_.]+)`", str(refused)))
        return f"refused: {', '.join(f'`{name}`' for name in named)}" if named else "refused"
    splits = ", ".join(f"{split} {len(images)}" for split, images in layout.splits.items())
    out = f"; left out {len(layout.stray)}" if layout.stray else ""
    return f"{', '.join(layout.class_names)}: {splits}{out}"


def test_the_page_says_what_becomes_of_files() -> None:
    found = [*rows()]
    assert len(found) > 40
    wrong = [(files, said, is_so) for files, fields, said in found if (is_so := result(files, fields)) != said]
    assert not wrong, "\n".join(f"{files}\n  page: {said}\n  code: {is_so}" for files, said, is_so in wrong)
