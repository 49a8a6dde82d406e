"""The usual words for training, validation and test splits, in names of folders and in lists. No torch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "validate", "valid", "val"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
BESIDE = (
    *("set", "split", "data", "dataset", "folder", "part", "subset", "image", "images", "img", "imgs", "photo"),
    *("photos", "picture", "pictures", "pics", "sample", "samples", "example", "examples", "file", "files", "list"),
    *("label", "labels", "annotation", "annotations", "classes", "unlabeled", "unlabelled", "unknown", "hidden"),
    *("public", "private", "original", "resized", "cropped", "the", "my"),
)
"""Words that may stand beside these and say nothing of their own."""
JOINED = {
    joined: split
    for word, split in WORDS.items()
    for other in (*BESIDE, "s")
    for joined in (f"{word}{other}", f"{other}{word}" if len(other) > 1 else word)
}
STEPS = re.compile(r"(?<=[a-z])(?=[A-Z])")
"""Places between the words of CamelCase."""
LETTERS = re.compile(r"[^\W\d_]+")


def split_named(name: str, given: Mapping[str, str] | None = None) -> str | None:
    """The split that a name stands for: `train`, `Training Set`, `val_data`, `testImages`, `test1`; None for any
    other. `given` has further names, which count as they are written."""
    if given and name in given:
        return given[name]
    words = LETTERS.findall(STEPS.sub(" ", unicodedata.normalize("NFKC", name)).casefold())
    found = [WORDS.get(word) or JOINED.get(word) for word in words]
    splits = {split for split in found if split is not None}
    others = [word for word, split in zip(words, found, strict=True) if split is None and word not in BESIDE]
    return splits.pop() if len(splits) == 1 and not others else None


def divided(name: str) -> tuple[str, str] | None:
    """A name without the one word for a split in it, and that split: `cats_train`; None where there is no such word or
    nothing else."""
    found = [word for word in LETTERS.finditer(name) if word[0].casefold() in WORDS]
    if len(found) != 1:
        return None
    (word,) = found
    rest = (name[: word.start()] + name[word.end() :]).strip(" _-.()[]")
    return (rest, WORDS[word[0].casefold()]) if rest else None


def divided_alike(names: Iterable[str]) -> dict[str, str]:
    """The splits of those names that differ in the word for it alone, such as seg_train and seg_test; empty where there
    are none, or where others have a word for a split, too."""
    parts = {name: part for name in names if (part := divided(name)) is not None}
    rests = {rest.casefold() for rest, _ in parts.values()}
    splits = {name: split for name, (_, split) in parts.items()}
    return splits if len(rests) == 1 and len(set(splits.values())) > 1 else {}
