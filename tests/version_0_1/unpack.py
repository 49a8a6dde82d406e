"""Unpacks the data of version 0.1 that lie beside this file."""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PLACEHOLDER = re.compile(rb"\\\\x@(\d+)(?=\n)")
"""In the dump, in the place of a chunk's bytes: COPY's `\\\\x` and the number of bytes."""


def expected() -> dict[str, Any]:
    """Ids, keys, lists and ends: see README.md."""
    found: dict[str, Any] = json.loads((HERE / "expected.json").read_text())
    return found


def answers() -> dict[str, Any]:
    """Whole answers of the API of version 0.1, by project and path."""
    found: dict[str, Any] = json.loads(lzma.decompress((HERE / "answers.json.xz").read_bytes()))
    return found


def unpack(folder: Path) -> Path:
    """Write `data/`, a data directory, and `backup.retort`, the backup of it, into a new folder."""
    folder.mkdir(mode=0o700)
    with tarfile.open(HERE / "old.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def dump() -> bytes:
    """The whole plain dump, as pg_dump wrote it.

    It is stored without the bytes of blobs, since the SQLite file has the same.
    """
    short = lzma.decompress((HERE / "postgres.sql.xz").read_bytes())
    with tempfile.TemporaryDirectory() as folder, tarfile.open(HERE / "old.tar.xz") as archive:
        archive.extract("data/retort.db", folder, filter="data")
        with closing(sqlite3.connect(Path(folder, "data/retort.db"))) as database:
            whole = b"".join(_filled(short, database))
    assert hashlib.sha256(whole).hexdigest() == expected()["postgres"]["sha256"], "the dump is not as it was dumped"
    return whole


def _filled(short: bytes, database: sqlite3.Connection) -> Iterator[bytes]:
    """Lines of the dump, those of table `chunks` with their bytes."""
    inside = False
    for line in short.splitlines(keepends=True):
        if line.startswith(b"COPY "):
            inside = line.startswith(b"COPY public.chunks ")
        elif line == b"\\.\n":
            inside = False
        elif inside and (found := PLACEHOLDER.search(line)):
            yield line[: found.start()] + b"\\\\x" + _chunk(line, database, int(found[1])) + line[found.end() :]
            continue
        yield line


def _chunk(line: bytes, database: sqlite3.Connection, size: int) -> bytes:
    """The bytes of a line's chunk, in hexadecimal digits."""
    blob, number = line.decode().split("\t")[:2]
    query = "SELECT content FROM chunks WHERE blob_id = ? AND number = ?"
    [(content,)] = database.execute(query, (blob, int(number)))
    assert len(content) == size
    return bytes(content.hex().encode())
