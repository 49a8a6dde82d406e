"""Patterns in names of folders and files: numbers that alone tell them apart, words with which many begin. No torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice

from retort.datasets._listing import first_few
from retort.datasets._outline import ImageTree

MOST_BEGINNINGS = 20
"""Words with which files begin that may be classes."""
BEGINNING = re.compile(r"[^\W\d_]+(?:[ _-][^\W\d_]+)*")


def are_numbered(names: Iterable[str]) -> bool:
    """Whether names differ by numbers alone: 2019 and 2020, patient_1 and patient_2."""
    kinds = {re.sub(r"\d+", "0", name) for name in names}
    return len(kinds) == 1 and "0" in kinds.pop()


def beginnings(tree: ImageTree) -> str:
    """A hint at words with which the names of files begin, if few words begin many."""
    counts = Counter(
        found[0].casefold()
        for image in islice(tree.below(), 10_000)
        if (found := BEGINNING.match(image.rpartition("/")[2].rpartition(".")[0]))
    )
    words = [word for word, count in counts.most_common(MOST_BEGINNINGS + 1) if count > 1]
    if not 2 <= len(words) <= MOST_BEGINNINGS:
        return ""
    return f'; file names begin with {first_few(words)}, which `layout` "file_names" with `classes` takes for classes'
