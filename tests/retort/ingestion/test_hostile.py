"""Archives that somebody made to do harm: each is refused in one sentence, and nothing is written anywhere."""

from __future__ import annotations

import io
import random
import struct
import tarfile
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from retort import ingestion
from retort.dataset import DatasetError
from retort.engine.interrupt import Impossible
from retort.ingestion import members
from retort.ingestion.members import Bounds
from tests.retort.ingestion.packing import (
    entry,
    flowers,
    gz,
    overlapping_zip,
    picture,
    pictures,
    refusal,
    take_in,
    tar,
    zipped,
    zst,
)

NO_ARCHIVE = "the file is not a tar, tar.gz, tar.zst or zip archive"
NO_IMAGE = "no image was found; wanted files like class/1.jpg, or a list beside the images"
OUT = "leads out of the archive"
ABSOLUTE = "is absolute; wanted names relative to the archive"
SPELLINGS = {
    "../aster/1.png": OUT,
    "aster/../../1.png": OUT,
    "aster/..": OUT,
    "./../1.png": OUT,
    "..\\aster\\1.png": OUT,
    "aster\\..\\..\\1.png": OUT,
    "%2e%2e/1.png": OUT,
    "aster/%2E%2E%2f%2e%2e%2f1.png": OUT,
    "\uff0e\uff0e/1.png": OUT,
    "\u2025/1.png": OUT,
    "..\uff0f1.png": OUT,
    "aster/..\u2215..\u2215..\u20441.png": OUT,
    "..\uff3c1.png": OUT,
    "..\u22161.png": OUT,
    ".. /1.png": OUT,
    ".../1.png": OUT,
    "/etc/1.png": ABSOLUTE,
    "//host/share/1.png": ABSOLUTE,
    "\\\\host\\share\\1.png": ABSOLUTE,
    "C:\\1.png": ABSOLUTE,
    "c:/1.png": ABSOLUTE,
    "c:1.png": ABSOLUTE,
    "%2fetc/1.png": ABSOLUTE,
}


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("pack", [tar, zipped])
def test_names_that_lead_elsewhere(tmp_path: Path, pack: object, name: str) -> None:
    assert callable(pack)
    said = refusal(tmp_path, pack({**flowers(), **pictures(name)}))
    assert said.startswith("the name ")
    assert said.endswith(SPELLINGS[name])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (entry("aster/x.png", tarfile.SYMTYPE, linkname="/etc/passwd"), "'aster/x.png' is a link"),
        (entry("aster/x.png", tarfile.LNKTYPE, linkname="aster/00.png"), "'aster/x.png' is a link"),
        (entry("notes", tarfile.SYMTYPE, linkname=".."), "'notes' is a link"),
        (entry("aster/x.png", tarfile.CHRTYPE, devmajor=1, devminor=5), "'aster/x.png' is a device"),
        (entry("aster/x.png", tarfile.BLKTYPE, devmajor=8), "'aster/x.png' is a device"),
        (entry("aster/x.png", tarfile.FIFOTYPE), "'aster/x.png' is a device"),
        (entry("aster/00.png"), "the name 'aster/00.png' stands twice"),
        (entry("aster/./00.png"), "the name 'aster/00.png' stands twice"),
        (entry("a" * 2000), "has 2000 characters in 1 parts; at most 1024 in 32 are read"),
        (entry("a/" * 40 + "1.png"), "in 41 parts; at most 1024 in 32 are read"),
    ],
)  # fmt: skip
def test_entries_that_are_no_files_of_their_own(tmp_path: Path, wrong: tarfile.TarInfo, said: str) -> None:
    assert said in refusal(tmp_path, tar(flowers(), wrong))


def test_a_zip_may_hold_neither_links_nor_devices(tmp_path: Path) -> None:
    for kind, said in (
        (0o120777, "is a link"),
        (0o010644, "is a device, a pipe or the"),
        (0o020666, "is a device"),
    ):
        out = io.BytesIO(zipped(flowers()))
        with zipfile.ZipFile(out, "a") as opened:
            info = zipfile.ZipInfo("aster/x.png")
            info.external_attr = kind << 16
            opened.writestr(info, "/etc/passwd")
        assert said in refusal(tmp_path, out.getvalue())


def test_a_sparse_tar_of_ten_gigabytes(tmp_path: Path) -> None:
    header = bytearray(entry("aster/x.png", size=512).tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (10 * 2**30 - 512, 512)  # where the one piece of it lies
    header[483:495] = b"%011o\0" % (10 * 2**30)
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    content = bytes(header) + bytes(512) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(content)) as opened:
        assert opened.next().size == 10 * 2**30
    assert "is a sparse file" in refusal(tmp_path, content)


@pytest.mark.parametrize("squeeze", [gz, zst])
def test_a_bomb_is_refused_by_its_ratio_before_it_takes_much(tmp_path: Path, squeeze: object) -> None:
    assert callable(squeeze)
    bomb = squeeze(tar({**flowers(), "aster/x.png": bytes(64 << 20)}))
    assert len(bomb) < 300_000
    said = refusal(tmp_path, bomb, Bounds(ratio_from=1 << 20))
    assert said.endswith("inflates to more than 200 times as many; images do not")
    assert "more than 1,000,000 bytes" in refusal(tmp_path, bomb, Bounds(bytes=1_000_000))


def test_a_zip_bomb_is_refused_by_what_it_says_of_itself(tmp_path: Path) -> None:
    bomb = zipped({**flowers(), "aster/x.png": bytes(64 << 20)})
    assert "more than 200 times as many" in refusal(tmp_path, bomb, Bounds(ratio_from=1 << 20))


def test_a_zip_that_lies_about_a_size_gives_no_more_than_it_said(tmp_path: Path) -> None:
    content = bytearray(zipped({**flowers(), "aster/x.png": bytes(1 << 20)}))
    for mark, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        begins = [i for i in range(len(content)) if content[i : i + 4] == mark][-1]
        assert content[begins + place : begins + place + 4] == struct.pack("<I", 1 << 20)
        content[begins + place : begins + place + 4] = struct.pack("<I", 1000)
    assert refusal(tmp_path, bytes(content)).startswith("the archive cannot be read: Bad CRC-32 for file 'aster/x.png'")


def test_overlapping_entries(tmp_path: Path) -> None:
    assert refusal(tmp_path, overlapping_zip()) == "'aster/1.png' overlaps with another entry of the archive"


def test_encrypted_entries_and_other_methods(tmp_path: Path) -> None:
    content = bytearray(zipped(flowers()))
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + place] |= 1
    assert "is encrypted; wanted an archive without a password" in refusal(tmp_path, bytes(content))
    packed = zipped(flowers(), zipfile.ZIP_LZMA)
    assert "is compressed by method 14; deflate is read" in refusal(tmp_path, packed)


@pytest.mark.parametrize("squeeze", [bytes, gz, zst])
def test_five_million_empty_files(tmp_path: Path, squeeze: object) -> None:
    """Of a tar of so many headers no more are read, or kept, than are allowed; here of a thousandth of both."""
    assert callable(squeeze)
    headers = b"".join(entry(f"aster/{i}.txt").tobuf() for i in range(5000))
    archive = squeeze(headers + bytes(1024))
    assert refusal(tmp_path, archive, limits={"files": 2000}) == "the archive holds more than 2,000 entries"
    said = refusal(tmp_path, archive, Bounds(empty=1000))
    assert said == "the archive holds more than 1,000 entries without content"


def test_a_zip_of_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = zipped({f"aster/{i}.txt": b"" for i in range(3000)})
    assert refusal(tmp_path, packed, limits={"files": 2000}) == "the archive holds more than 2,000 entries"
    # Its list is what counts: how many it says that there are does not.
    end = packed.index(b"PK\5\6")
    lying = packed[: end + 8] + struct.pack("<2H", 1, 1) + packed[end + 12 :]
    assert refusal(tmp_path, lying, Bounds(zip_files=2999)) == "the archive holds more than 2,999 entries"
    monkeypatch.setattr(members, "DIRECTORY_BYTES", 10_000)
    said = refusal(tmp_path, packed)
    assert said.startswith("the archive's list of entries has ")
    assert said.endswith(" bytes; at most 10,000 are read")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_of_gigabytes_is_not_taken_into_memory(tmp_path: Path, kind: bytes) -> None:
    content = gz(entry("x", kind, size=8 * 2**30).tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20))
    tracemalloc.start()
    said = refusal(tmp_path, content)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said.startswith("the archive holds a header of 8,589,934,592 bytes")
    assert most < 32 << 20


def pax(*records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """A header of further fields, each written out."""
    body = b"".join(records)
    return entry("x", kind, size=len(body)).tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512)


def record(name: str, value: str) -> bytes:
    """One field, after its own length."""
    rest = f" {name}={value}\n"
    length = next(n for n in range(len(rest), len(rest) + 9) if n == len(rest) + len(str(n)))
    return f"{length}{rest}".encode()


def before_flowers(content: bytes) -> bytes:
    return content + tar(flowers())


def sparse_with(**fields: str) -> bytes:
    return pax(*(record(f"GNU.sparse.{name}", value) for name, value in fields.items()))


def extended_sparse(blocks: int) -> bytes:
    """GNU's first form of a sparse file, whose list of pieces goes on for so many blocks."""
    header = bytearray(entry("aster/x.png").tobuf(tarfile.GNU_FORMAT))
    header[156:157], header[482] = tarfile.GNUTYPE_SPARSE, 1
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    return bytes(header) + (b"%011o\0" % 1 * 42 + b"\1" * 8) * blocks


TOO_LONG = "more than 16,384 bytes of headers stand before one entry of the archive"
HEADERS = {
    "a thousand headers before one entry": (pax() * 1000, TOO_LONG),
    "a thousand long names of one entry": (pax(kind=tarfile.GNUTYPE_LONGNAME) * 1000, TOO_LONG),
    "fields that share their bytes": (pax(b"2 " * 100_000 + b"="), "the archive holds a header of 200,192 bytes"),
    "fields for all": (
        pax(*(record(f"a{i}", "b") for i in range(200)), kind=tarfile.XGLTYPE),
        "the archive sets more than 100 fields for all of its entries",
    ),
    "a sparse file's list without end": (extended_sparse(5000), TOO_LONG),
    "a sparse file's list in the content": (
        sparse_with(major="1", minor="0", realsize=str(10 * 2**30)) + entry("aster/x.png", size=1 << 20).tobuf()
        + b"99999999\n" + b"1\n" * (1 << 19),
        TOO_LONG,
    ),
    "a sparse file of the second form": (
        sparse_with(size=str(10 * 2**30), numblocks="1", offset="0", numbytes="512"), "'aster/00.png' is a sparse file"
    ),
    "a sparse file of the third form": (
        sparse_with(size=str(10 * 2**30), map="0,512"), "'aster/00.png' is a sparse file"
    ),
    "a sparse file of no numbers": (sparse_with(map="a,b"), "the archive cannot be read: invalid literal for int()"),
    "a sparse file of the fourth form": (
        sparse_with(major="1", minor="0", realsize="9"), "the archive cannot be read: "
    ),
    "a name with NUL": (pax(record("path", "aster/x\0.png")), "the name 'aster/x\\x00.png' holds a NUL character"),
    "a name that leads elsewhere": (pax(record("path", "../x.png")), "the name '../x.png' leads out of the archive"),
    "a size below zero": (pax(record("size", "-512")), "'aster/00.png' has "),
    "a length of 5,000 digits": (pax(b"1" * 5000 + b" a=b\n"), "the archive cannot be read: Exceeds the limit"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), HEADERS.values(), ids=HEADERS)
def test_headers_of_a_tar_that_its_reader_would_believe(tmp_path: Path, content: bytes, said: str) -> None:
    tracemalloc.start()
    found = refusal(tmp_path, before_flowers(content))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.startswith(said)
    assert most < 32 << 20


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("aster/x.png", "'aster/x.png' has 0 bytes where -4,096 were announced"),
        (".notes", "the archive holds an entry that lies before its own header"),
    ],
)
def test_an_entry_of_negative_size(tmp_path: Path, name: str, said: str) -> None:
    header = bytearray(entry(name).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xf0\x00"  # -4096 in base 256
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    body = tar(flowers()).rstrip(b"\0")
    content = body + bytes(-len(body) % 512) + bytes(header) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(content[-1536:])) as opened:
        assert opened.next().size == -4096
    assert refusal(tmp_path, content) == said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", f"{NO_ARCHIVE}; it is empty"),
        (b"hello", NO_ARCHIVE),
        (b"Rar!\x1a\x07\x01\x00" + bytes(2000), f"{NO_ARCHIVE}; it is a RAR archive"),
        (picture(), f"{NO_ARCHIVE}; it is one picture (PNG)"),
        (gz(b"hello"), NO_ARCHIVE),
        (b"PK\3\4 and no more", "the archive cannot be read: File is not a zip file"),
        (bytes(10240), "no image was found"),
        (tar({"aster/notes.txt": b"none"}), f"{NO_IMAGE}; it holds aster/notes.txt"),
        (zipped({"x.npy": b"\x93NUMPY", "a.zip": b"PK"}), f"{NO_IMAGE}; it holds a.zip, x.npy"),
        (b"\x1f\x8b and no more", "the archive cannot be read: "),
        (b"\x28\xb5\x2f\xfd and no more", "the archive cannot be read: "),
    ],
)  # fmt: skip
def test_files_that_are_no_archives(tmp_path: Path, content: bytes, said: str) -> None:
    assert refusal(tmp_path, content).startswith(said)


@pytest.mark.parametrize("pack", [tar, lambda files: gz(tar(files)), lambda files: zst(tar(files)), zipped])
def test_an_archive_that_is_cut_short_anywhere_is_never_taken_for_whole(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    whole = pack(flowers())
    chance = random.Random(1)
    # A tar's end mark is a block; what may follow it is padding.
    last = len(whole.rstrip(b"\0")) if pack is tar else len(whole) - 1
    for end in {*chance.sample(range(last), 15), last}:
        assert refusal(tmp_path, whole[:end]), end


def test_a_tar_that_is_damaged_in_the_middle_does_not_end_there(tmp_path: Path) -> None:
    whole = bytearray(tar(flowers()))
    place = whole.index(b"poppy/00.png")
    whole[place + 150] ^= 1  # its checksum
    assert refusal(tmp_path, bytes(whole)) == (
        "the archive ends without its end mark, or is damaged in the middle: it is cut short"
    )


def test_noise_never_does_more_than_be_refused(tmp_path: Path) -> None:
    chance = random.Random(0)
    for pack in (tar, zipped):
        whole = pack(flowers())
        for _ in range(20):
            content = bytearray(whole)
            for _ in range(8):
                content[chance.randrange(len(content))] = chance.randrange(256)
            with suppress(DatasetError, Impossible):
                take_in(tmp_path, bytes(content), limits={"broken": 100})
    assert {file.parts[len(tmp_path.parts)][:8] for file in tmp_path.rglob("*")} == {"attempt-"}


def test_files_that_may_be_lists_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "LIST_BYTES", 1000)
    said = refusal(tmp_path, tar({**flowers(), "a.csv": bytes(600), "b.csv": bytes(600)}))
    assert said.startswith("2 files that may be lists (a.csv, b.csv) have 1,200 bytes; at most 1,000 are read")
    take_in(tmp_path, tar({**flowers(), "a.csv": bytes(1200)}), layout="folders")
