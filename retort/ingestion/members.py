"""The regular files in an archive or a folder, one after the other, under names that lead nowhere else.

Nothing is written here, and no name is ever used as a path: the bytes of a member are copied. An archive that holds
what it has no honest reason to (links, devices, names that lead out of it, more bytes than its size allows) is refused
as a whole.
"""

from __future__ import annotations

import gzip
import os
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, cast

from retort.dataset import DatasetError
from retort.datasets._picture_formats import HEAD_BYTES, format_of
from retort.datasets._roots import Files
from retort.ingest import MOST_FILES
from retort.ingestion.names import SURROGATE, decoded, safe_name, shown

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK = 1 << 20
HEADER_BYTES = 16 << 10
"""Bytes that may stand before one entry of a tar: long names, attributes of files. tarfile takes memory that grows with
the square of it, and calls itself once a header."""
GLOBAL_FIELDS = 100
"""Fields that a tar may set for all of its entries."""
DIRECTORY_BYTES = 64 << 20
"""Largest list of a zip's entries."""
DIRECTORY_ENTRY = struct.Struct("<4s24x3H12x")
"""One of them, but for its name, its further fields and its remark: a mark, and how long those are."""
WINDOW_LOG = 27
"""Bits of the largest window of zstd: 128 MiB, the most that its own command decompresses by default."""
NAMED = 100
"""Files that a list in the report names at most."""
LOCAL_HEADER = 30
"""Bytes that stand before an entry of a zip at least."""
UNICODE_PATH = 0x7075
"""Mark of the further field of a zip's entry that has its name in UTF-8."""
FEW_CHARACTERS = 3
"""Different characters beyond ASCII below which names in UTF-8 may be in another encoding by chance."""
BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, zstd.ZstdError, gzip.BadGzipFile, struct.error, EOFError),
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, NotImplementedError, RecursionError),
)
"""Errors of readers for a broken archive: more than they document."""


@dataclass(frozen=True)
class Bounds:
    """Limits of reading a source."""

    files: int = MOST_FILES
    """Entries of any kind."""
    zip_files: int = 300_000
    """Entries of a zip, whose list is held in memory."""
    empty: int = 300_000
    """Entries that hold nothing: folders, and empty files, which harm by their number alone."""
    bytes: int = 1 << 40
    """Of all entries, inflated."""
    ratio: int = 200
    """Inflated bytes to one that is stored: images hardly shrink, plain ones (BMP) some fifty times at most."""
    ratio_from: int = 256 << 20
    """Inflated bytes from which the ratio counts."""


class Stray:
    """Files that are left out: how many, and the first by name."""

    def __init__(self) -> None:
        self.count = 0
        self._names: list[str] = []

    def append(self, name: str) -> None:
        self.count += 1
        self._names.append(name)
        if len(self._names) >= 100 * NAMED:
            self._names = self.first()

    def extend(self, names: Iterable[str]) -> None:
        for name in names:
            self.append(name)

    def first(self) -> list[str]:
        """At most a hundred."""
        return sorted(self._names)[:NAMED]


@dataclass(frozen=True)
class Member:
    """A regular file."""

    name: str
    """Relative, with slashes, in Unicode's composed form; bytes that are not text as `\\xe9`."""
    size: int
    open: Callable[[], IO[bytes]]

    def blocks(self) -> Generator[bytes, None, None]:
        """Its bytes, to be read before the next member. Raises DatasetError if it is broken."""
        size = 0
        with readable_errors(), self.open() as content:
            while block := content.read(BLOCK):
                size += len(block)
                yield block
        if size != self.size:
            raise DatasetError(f"{shown(self.name)} has {size:,} bytes where {self.size:,} were announced")


def members_of(file: Path, bounds: Bounds, encoding: str | None = None) -> Iterator[Member]:
    """The regular files of an archive: tar, tar.gz, tar.zst or zip, whatever it is called. Raises DatasetError.

    `encoding` is that of names which are not in UTF-8.
    """
    with file.open("rb") as opened:
        begins = opened.read(2)
    with readable_errors():
        yield from _zip_members(file, bounds, encoding) if begins == b"PK" else _tar_members(file, bounds, encoding)


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn errors of archives' readers into a DatasetError."""
    try:
        yield
    except DatasetError:
        raise
    except BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"the archive cannot be read: {reason}") from error


def files_of(files: Files, stray: Stray, bounds: Bounds, encoding: str | None = None) -> Iterator[Member]:
    """The regular files of a folder that do not lead out of the allowed ones; all others are stray.

    `encoding` is that of names which are not in UTF-8.
    """
    yield from _folder_members(files, stray, bounds, encoding)


class Count:
    """Counts the entries of an archive. Raises DatasetError for more than are read."""

    def __init__(self, most: int, most_empty: int) -> None:
        self._left, self._left_empty = most, most_empty
        self._most, self._most_empty = most, most_empty

    def take(self, size: int) -> None:
        """One entry, which holds so many bytes."""
        self._left -= 1
        self._left_empty -= size == 0
        if self._left < 0:
            raise DatasetError(f"the archive holds more than {self._most:,} entries")
        if self._left_empty < 0:
            raise DatasetError(f"the archive holds more than {self._most_empty:,} entries without content")


OTHER_KINDS = {
    b"Rar!\x1a\x07": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\xfd7zXZ\0": "compressed by xz",
    b"BZh": "compressed by bzip2",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"PAR1": "a Parquet file",
    b"\x93NUMPY": "a NumPy array",
    b"%PDF-": "a PDF",
}
"""Other kinds of files that people send, by their first bytes."""


def _kind_of(file: Path) -> str | None:
    with file.open("rb") as stored:
        head = stored.read(HEAD_BYTES)
    if not head:
        return "empty"
    if picture := format_of(head):
        return f"one picture ({picture})"
    return next((kind for mark, kind in OTHER_KINDS.items() if head.startswith(mark)), None)


# Tar


def _tar_members(file: Path, bounds: Bounds, encoding: str | None) -> Iterator[Member]:
    with file.open("rb") as stored, _inflated(stored) as plain:
        forward = Forward(plain, file.stat().st_size, bounds)
        try:
            tar = tarfile.TarFile(fileobj=forward, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
        except tarfile.ReadError as error:
            kind = _kind_of(file)
            seen = f"; it is {kind}" if kind else ""
            raise DatasetError(f"the file is not a tar, tar.gz, tar.zst or zip archive{seen}") from error
        with tar:
            count = Count(bounds.files, bounds.empty)
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it would keep every header in memory
                count.take(info.size)
                if len(tar.pax_headers) > GLOBAL_FIELDS:
                    raise DatasetError(f"the archive sets more than {GLOBAL_FIELDS} fields for all of its entries")
                forward.enter_content()
                if (member := _tar_member(tar, info, encoding)) is not None:
                    yield member
                forward.enter_header()
        forward.finish()


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo, encoding: str | None) -> Member | None:
    name = safe_name(decoded(info.name, encoding))
    if info.isdir():
        return None
    if info.issym() or info.islnk():
        raise DatasetError(f"{shown(info.name)} is a link; only regular files are taken in")
    if info.issparse():
        raise DatasetError(f"{shown(info.name)} is a sparse file, whose size means nothing; wanted a plain one")
    if not info.isreg():
        raise DatasetError(f"{shown(info.name)} is a device, a pipe or the like; only regular files are taken in")
    return Member(name, info.size, partial(_content, tar, info))


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(info)
    assert content is not None, "it is a regular file"
    return content


@contextmanager
def _inflated(stored: BinaryIO) -> Iterator[IO[bytes]]:
    begins = stored.read(4)
    stored.seek(0)
    if begins[:2] == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=stored) as plain:
            yield cast("IO[bytes]", plain)
    elif begins == b"\x28\xb5\x2f\xfd":
        with zstd.ZstdFile(stored, options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG}) as plain:
            yield cast("IO[bytes]", plain)
    else:
        yield stored


class Forward:
    """A stream that tarfile may read and skip forward in, counted; it never goes back and never takes much at once.

    It begins in a header.
    """

    def __init__(self, plain: IO[bytes], stored_bytes: int, bounds: Bounds) -> None:
        self._plain = plain
        self._stored_bytes = stored_bytes
        self._bounds = bounds
        self._place = 0
        self._last = b""
        self._left: int | None = HEADER_BYTES
        """Bytes that may still stand before an entry; None within its content."""

    def enter_header(self) -> None:
        """Take all that is read from here on for the headers of an entry."""
        self._left = HEADER_BYTES

    def enter_content(self) -> None:
        """Take all that is read from here on for an entry's content."""
        self._left = None

    def read(self, size: int = -1) -> bytes:
        if self._left is not None:
            if not 0 <= size <= HEADER_BYTES:
                raise DatasetError(f"the archive holds a header of {size:,} bytes; at most {HEADER_BYTES:,} are read")
            if size > self._left:
                raise DatasetError(f"more than {HEADER_BYTES:,} bytes of headers stand before one entry of the archive")
            self._left -= size
        return self._take(size)

    def _take(self, size: int) -> bytes:
        content = self._plain.read(size)
        self._place += len(content)
        check_size(self._place, self._stored_bytes, self._bounds)
        self._last = content
        return content

    def tell(self) -> int:
        return self._place

    def seek(self, place: int) -> int:
        if place < self._place:
            raise DatasetError("the archive holds an entry that lies before its own header")
        while self._place < place and self._take(min(BLOCK, place - self._place)):
            pass
        return self._place

    def finish(self) -> None:
        """Read to the end, whose checksum is looked at then. Raises DatasetError where there is no end mark."""
        if self._last != bytes(tarfile.BLOCKSIZE):
            raise DatasetError("the archive ends without its end mark, or is damaged in the middle: it is cut short")
        while self._take(BLOCK):
            pass


def check_size(inflated: int, stored: int, bounds: Bounds) -> None:
    """Raise DatasetError for more bytes than are read, or for so many that images cannot be packed into so few."""
    if inflated > bounds.bytes:
        raise DatasetError(f"the archive holds more than {bounds.bytes:,} bytes")
    if inflated > bounds.ratio_from and inflated > bounds.ratio * stored:
        raise DatasetError(
            f"the archive has {stored:,} bytes and inflates to more than {bounds.ratio} times as many; images do not"
        )


# Zip


class Directory:
    """A zip's file, from which no list of entries is read that is longer than allowed."""

    def __init__(self, stored: BinaryIO, bounds: Bounds) -> None:
        self._stored = stored
        self._bounds = bounds
        self.seek, self.tell, self.close = stored.seek, stored.tell, stored.close
        self.seekable = stored.seekable
        self.is_listed = False
        """Whether the list has been read."""

    def read(self, size: int = -1) -> bytes:
        if size > DIRECTORY_BYTES:
            raise DatasetError(
                f"the archive's list of entries has {size:,} bytes; at most {DIRECTORY_BYTES:,} are read"
            )
        content = self._stored.read(size)
        if not self.is_listed:
            self._count(content)
        return content

    def _count(self, content: bytes) -> None:
        """Count the entries of the list, whatever number the archive gives; zipfile makes some 600 bytes of
        each."""
        most = min(self._bounds.files, self._bounds.zip_files)
        count = Count(most, most)
        place = 0
        while place + DIRECTORY_ENTRY.size <= len(content):
            mark, *lengths = DIRECTORY_ENTRY.unpack_from(content, place)
            if mark != b"PK\1\2":
                break
            count.take(1)
            place += DIRECTORY_ENTRY.size + sum(lengths)


def _zip_members(file: Path, bounds: Bounds, encoding: str | None) -> Iterator[Member]:
    with file.open("rb") as stored:
        directory = Directory(stored, bounds)
        with closing(zipfile.ZipFile(cast("BinaryIO", directory))) as opened:
            directory.is_listed = True
            entries = opened.infolist()
            check_size(sum(info.file_size for info in entries), file.stat().st_size, bounds)
            _refuse_overlaps(entries, opened.start_dir)
            for info, found in zip(entries, _zip_names(entries, encoding), strict=True):
                name = safe_name(found)
                if _is_zip_file(info):
                    yield Member(name, info.file_size, partial(opened.open, info))


def _zip_names(entries: Sequence[zipfile.ZipInfo], encoding: str | None) -> list[str]:
    """The names. Those that are not marked as UTF-8 are in one encoding, which no archive names: UTF-8 if all of them
    can be that, and else the one that is given; without one, bytes that are not ASCII become lone surrogates."""
    contents = {
        info.orig_filename: info.orig_filename.encode("cp437")
        for info in entries
        if not (info.flag_bits & 0x800 or info.orig_filename.isascii())
    }
    texts = {name: content.decode(errors="surrogateescape") for name, content in contents.items()}
    characters = {c for text in texts.values() for c in text if not c.isascii()}
    # Two bytes of another encoding happen to be UTF-8 now and then; Windows writes its own code pages.
    by_chance = len(characters) < FEW_CHARACTERS and all(info.create_system == 0 for info in entries)
    if by_chance or any(map(SURROGATE.search, texts.values())):
        texts = {name: content.decode(encoding or "ascii", "surrogateescape") for name, content in contents.items()}
    return [
        info.orig_filename
        if info.flag_bits & 0x800
        else _unicode_path(info) or texts.get(info.orig_filename, info.orig_filename)
        for info in entries
    ]


def _unicode_path(info: zipfile.ZipInfo) -> str | None:
    """The name in UTF-8 that an entry may have besides, if it belongs to its other one."""
    place = 0
    while place + 4 <= len(info.extra):
        kind, length = struct.unpack_from("<HH", info.extra, place)
        field = info.extra[place + 4 : place + 4 + length]
        if kind == UNICODE_PATH and len(field) > 5 and field[0] == 1:
            (checksum,) = struct.unpack_from("<I", field, 1)
            if checksum == zlib.crc32(info.orig_filename.encode("cp437")):
                return field[5:].decode()
        place += 4 + length
    return None


def _is_zip_file(info: zipfile.ZipInfo) -> bool:
    """Whether an entry is a file. Raises DatasetError for one that is neither that nor a folder, or cannot be read."""
    mode = stat.S_IFMT(info.external_attr >> 16)
    if mode == stat.S_IFLNK:
        raise DatasetError(f"{shown(info.filename)} is a link; only regular files are taken in")
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DatasetError(f"{shown(info.filename)} is a device, a pipe or the like; only regular files are taken in")
    if mode == stat.S_IFDIR or info.orig_filename.endswith(("/", "\\")):
        return False
    if info.flag_bits & 1:
        raise DatasetError(f"{shown(info.filename)} is encrypted; wanted an archive without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DatasetError(f"{shown(info.filename)} is compressed by method {info.compress_type}; deflate is read")
    return True


def _refuse_overlaps(entries: list[zipfile.ZipInfo], ends_at: int) -> None:
    """Raise DatasetError where entries share bytes, as those of bombs do."""
    ordered = sorted(entries, key=lambda info: info.header_offset)
    begins = [info.header_offset for info in ordered[1:]] + [ends_at]
    for info, next_begins in zip(ordered, begins, strict=True):
        if info.header_offset < 0:
            raise DatasetError(f"{shown(info.filename)} begins before the archive does")
        if info.header_offset + LOCAL_HEADER + info.compress_size > next_begins:
            raise DatasetError(f"{shown(info.filename)} overlaps with another entry of the archive")


# Folder


def _folder_members(files: Files, stray: Stray, bounds: Bounds, encoding: str | None) -> Iterator[Member]:
    count = 0
    for root, folders, names in os.walk(files.folder):
        folders.sort()
        inside = os.path.relpath(root, files.folder)
        for inner in folders:
            if os.path.islink(os.path.join(root, inner)):
                stray.append(os.path.normpath(os.path.join(inside, inner)))
        for name in sorted(names):
            count += 1
            if count > bounds.files:
                raise DatasetError(f"the folder holds more than {bounds.files:,} files")
            file = os.path.normpath(os.path.join(inside, name))
            if not files.hold(file):
                stray.append(file)
                continue
            path = files.folder / file
            opens = cast("Callable[[], IO[bytes]]", partial(path.open, "rb"))
            yield Member(safe_name(decoded(file, encoding)), path.stat().st_size, opens)
