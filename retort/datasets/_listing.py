"""Lists of image files, before any image is decoded. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from retort.datasets._picture_formats import HEAD_BYTES, may_be_picture
from retort.datasets._roots import Files

NAMED_AT_MOST = 5
"""Files that a sentence names before it only counts."""

Labelled = tuple[str, int]
"""An image's file, relative to the data set's folder, and its class index."""


def images_in(files: Files, place: str, stray: list[str]) -> Iterator[str]:
    """The images below a folder, relative to the data set's, in a fixed order; what is none goes to the stray files,
    and hidden folders are not looked into."""
    for root, folders, names in os.walk(files.folder / place):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        stray += [path for path in (os.path.join(root, inner) for inner in folders) if os.path.islink(path)]
        inside = os.path.relpath(root, files.folder)
        for name in sorted(names):
            file = os.path.normpath(os.path.join(inside, name))
            if not name.startswith(".") and files.hold(file) and may_be_picture(name, partial(_head, files, file)):
                yield file
            else:
                stray.append(os.path.join(root, name))


def _head(files: Files, file: str) -> bytes:
    with (files.folder / file).open("rb") as content:
        return content.read(HEAD_BYTES)


def stray_warning(stray: list[str]) -> Iterator[str]:
    """A sentence about the files that were passed over; empty if none were."""
    if stray:
        named = first_few([short(file) for file in stray])
        yield f"left out, as no images or as links out of the allowed folders: {named} ({len(stray)} in all)"


def first_few(names: list[str]) -> str:
    """The first few, sorted, and how many more there are."""
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return ", ".join(map(escaped, sorted(names)[:NAMED_AT_MOST])) + more


def escaped(name: str) -> str:
    """A name for a sentence: characters that cannot be seen, or that turn the text around, as `\\u202e`."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def short(file: str) -> str:
    """A file's name below that of the folder above it."""
    return "/".join(file.split(os.sep)[-2:])
