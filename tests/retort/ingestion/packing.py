"""Archives for the tests, honest and hostile, and runs of the ingestion on them."""

from __future__ import annotations

import gzip
import io
import json
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from retort.dataset import DatasetError
from retort.datasets._archive import Archive
from retort.engine.event_log import EventLog
from retort.engine.interrupt import Interrupt
from retort.ingest import Ingest
from retort.ingestion import Ingestion
from retort.ingestion.members import Bounds
from retort.order import Paths

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Files = Mapping[str, bytes]


def picture(
    colour: tuple[int, int, int] = (0, 0, 0), size: tuple[int, int] = (12, 9), kind: str = "PNG", **how: Any
) -> bytes:
    """An image of one colour, as a file's bytes."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind, **how)
    return out.getvalue()


def pictures(*names: str) -> dict[str, bytes]:
    """A picture of its own under each name."""
    return {name: picture((number % 256, number // 256, 99)) for number, name in enumerate(names)}


def flowers(count: int = 5, before: str = "", ending: str = "png") -> dict[str, bytes]:
    """Two classes of so many pictures."""
    return pictures(*(f"{before}{name}/{i:02d}.{ending}" for name in ("aster", "poppy") for i in range(count)))


def tar(files: Files, *further: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of files, and of entries without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as opened:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
        for info in further:
            opened.addfile(info)
    return out.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    """An entry of a tar."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def zst(content: bytes) -> bytes:
    return zstd.compress(content)


def zipped(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as opened:
        for name, content in files.items():
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.compress_type = name, method
            opened.writestr(info, content)
    return out.getvalue()


def overlapping_zip() -> bytes:
    """A zip whose two entries share their bytes, as those of a bomb do."""
    content = zipped({"aster/1.png": bytes(1000)})
    directory = content.index(b"PK\1\2")
    end = content.index(b"PK\5\6")
    first = content[directory:end]
    second = first.replace(b"aster/1.png", b"aster/2.png")
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(first) * 2, directory, 0)
    return content[:directory] + first + second + tail


def claiming_png(width: int, height: int) -> bytes:
    """A small file that claims to be an image of any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@dataclass
class Taken:
    """What an ingestion left."""

    directory: Path
    lines: list[dict[str, Any]]

    @property
    def archive(self) -> Path:
        return self.directory / "artifacts/dataset.tar"

    @property
    def digest(self) -> str:
        return sha256(self.archive.read_bytes()).hexdigest()

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.directory / "artifacts/report.json").read_text())["report"]

    def names(self) -> dict[str, list[tuple[str, int]]]:
        """What the images of each part were called, with their labels."""
        with tarfile.open(self.archive) as opened:
            index = opened.extractfile("index.jsonl")
            assert index is not None
            sources = {name: source for name, _, source in map(json.loads, index)}
        listed = Archive(self.archive).listed()
        return {split: [(sources[name], label) for name, label in items] for split, items in listed.items()}

    def warnings(self) -> list[str]:
        return [line["text"] for line in self.lines if line.get("kind") == "warning"]


def request(**fields: Any) -> Ingest:
    """A spec for images that come from nowhere."""
    return Ingest.model_validate({"name": "flowers", "source": {"upload": "upload_1"}, **fields})


def take_in(
    place: Path, content: bytes | Path, bounds: Bounds | None = None, root: Path | None = None, **spec: Any
) -> Taken:
    """Take in an archive's bytes, or a folder below a root."""
    directory = place / f"attempt-{len(list(place.glob('attempt-*')))}"
    directory.mkdir()
    if isinstance(content, Path):
        source, roots = {"folder": str(content)}, (root or content.parent,)
    else:
        source, roots = {"upload": "upload_1"}, (directory / "inputs",)
        file = directory / "inputs/upload_1" / sha256(content).hexdigest()
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    chosen = Ingest.model_validate({"name": "flowers", "source": source, "image_size": 16, **spec})
    log = directory / "log.jsonl"
    with log.open("wb") as out:
        paths = Paths(directory=directory, checkpoints=directory, weights=directory, data_roots=roots)
        made = Ingestion(chosen, paths, EventLog(out.fileno()), Interrupt())
        made.bounds = bounds or Bounds()
        made()
    return Taken(directory, [json.loads(line) for line in log.read_text().splitlines()])


def refusal(place: Path, content: bytes, bounds: Bounds | None = None, **spec: Any) -> str:
    """The sentence with which an archive is refused; nothing is left of it, here or elsewhere."""
    before = set(place.rglob("*"))
    with pytest.raises(DatasetError) as refused:
        take_in(place, content, bounds, **spec)
    left = {file.name for file in place.rglob("*") if file not in before and file.is_file()}
    assert left <= {"log.jsonl", sha256(content).hexdigest()}
    assert "\n" not in str(refused.value)
    return str(refused.value)
