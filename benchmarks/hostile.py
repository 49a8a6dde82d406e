"""Seconds and memory that hostile files take of an engine before they are refused.

    .venv/bin/python benchmarks/hostile.py [--only NAME]

Each is made, small on the disk or sparse, and given to an engine of its own as a job of its kind would give it. The
memory is the process's peak (VmHWM) less that of an engine which is given an empty file, the time likewise.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from _paced import machine
from onnx import helper, numpy_helper

ROOT = Path(__file__).parents[1]
BLOCK = 512
PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


def headers(count: int, ending: str, size: int = 0) -> Iterator[bytes]:
    """That many files of a tar, a few at a time: seven digits are their names."""
    info = tarfile.TarInfo(f"a/0000000{ending}")
    info.size = size
    base = np.frombuffer(info.tobuf(tarfile.GNU_FORMAT) + bytes(BLOCK if size else 0), np.uint8)
    for start in range(0, count, 50_000):
        numbers = np.arange(start, min(start + 50_000, count))[:, None]
        rows = np.repeat(base[None], len(numbers), 0)
        rows[:, 2:9] = numbers // 10 ** np.arange(6, -1, -1) % 10 + 48
        rows[:, 148:156] = 32
        sums = rows[:, :BLOCK].sum(1, dtype=np.int64)[:, None]
        rows[:, 148:154] = sums // 8 ** np.arange(5, -1, -1) % 8 + 48
        rows[:, 154] = 0
        yield rows.tobytes()


def packed(count: int, ending: str, size: int = 0) -> Callable[[Path], None]:
    """A tar.gz of so many files."""

    def make(file: Path) -> None:
        with gzip.open(file, "wb", 1) as out:
            for some in headers(count, ending, size):
                out.write(some)
            out.write(bytes(2 * BLOCK))

    return make


def zeros(file: Path) -> None:
    """Ten gigabytes of nothing, as one image in a tar.gz."""
    info = tarfile.TarInfo("a/x.jpg")
    info.size = 10 << 30
    with gzip.open(file, "wb", 1) as out:
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(640):
            out.write(bytes(1 << 24))
        out.write(bytes(2 * BLOCK))


def listed(count: int) -> Callable[[Path], None]:
    """A zip of so many empty entries."""

    def make(file: Path) -> None:
        begins, directory = 0, bytearray()
        with file.open("wb") as out:
            for number in range(count):
                name = b"a/%07d.txt" % number
                directory += (
                    struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *[0] * 6, 0, len(name), *[0] * 5, begins) + name
                )
                begins += out.write(struct.pack("<4s5H3L2H", b"PK\3\4", 20, *[0] * 7, len(name), 0) + name)
            size = len(directory)
            out.write(directory)
            out.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, begins))
            out.write(struct.pack("<4sLQL", b"PK\6\7", 0, begins + size, 1))
            out.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, size, begins, 0))

    return make


def sharing(file: Path) -> None:
    """A zip of 60,000 entries that are all the same bytes, as those of bombs of terabytes are."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join(packer.compress(bytes(1 << 24)) for _ in range(2)) + packer.flush()
    sizes = (0, len(body), 1 << 25)
    out = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, *sizes, 7, 0) + b"a/0.png" + body
    directory = bytearray()
    for number in range(60_000):
        name = b"a/%05d.png" % number
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0, *sizes, len(name), *[0] * 6) + name
    file.write_bytes(
        out + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 60_000, 60_000, len(directory), len(out), 0)
    )


def huge_header(file: Path) -> None:
    """A safetensors file whose header is two gigabytes, all there, though sparse."""
    with file.open("wb") as out:
        out.write(struct.pack("<Q", 2 * 10**9))
        out.truncate(2 * 10**9 + 100)


def field(number: int, content: bytes) -> bytes:
    """A message as a field of that number."""
    length, left = b"", len(content)
    while left > 127:
        length, left = length + bytes([left & 127 | 128]), left >> 7
    return bytes([number << 3 | 2]) + length + bytes([left]) + content


def many_messages(file: Path) -> None:
    """An ONNX file of a hundred million nodes of two bytes."""
    file.write_bytes(field(7, field(1, b"") * 100_000_000))


def activations(file: Path) -> None:
    """An ONNX network of a few numbers that makes twelve terabytes of them."""
    tensors = [numpy_helper.from_array(np.array([1, 3, 10**6, 10**6]), "s")]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"]),
        helper.make_node("Expand", ["m", "s"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    given, gives = (
        helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", ["N", 3, 8, 8]), ("y", ["N", 3]))
    )
    graph = helper.make_graph(nodes, "g", [given], [gives], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    file.write_bytes(model.SerializeToString())


CASES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "5 million empty files, tar.gz": ("dataset", packed(5_000_000, ".txt")),
    "5 million empty images, tar.gz": ("dataset", packed(5_000_000, ".png")),
    "2 million files of a byte, tar.gz": ("dataset", packed(2_000_000, ".txt", 1)),
    "2 million images of a byte, tar.gz": ("dataset", packed(2_000_000, ".png", 1)),
    "10 GiB of zeros, tar.gz": ("dataset", zeros),
    "1.2 million entries, zip": ("dataset", listed(1_200_000)),
    "400,000 entries, zip": ("dataset", listed(400_000)),
    "300,000 entries, zip": ("dataset", listed(300_000)),
    "60,000 entries of the same bytes, 2 TB, zip": ("dataset", sharing),
    "a header of 2 GB, safetensors": ("safetensors", huge_header),
    "100 million nodes, ONNX": ("onnx", many_messages),
    "12 TB of activations, ONNX": ("onnx", activations),
}


def job(kind: str, place: Path) -> tuple[list[str], dict[str, object], Path]:
    """Arguments and spec of the engine for a file of that kind, and where the file lies."""
    if kind == "dataset":
        file = place / "inputs/upload_1" / ("0" * 64)
        spec: dict[str, object] = {"name": "hostile", "source": {"upload": "upload_1"}, "image_size": 32}
        return ["--kind", "ingest", "--data-root", str(place / "inputs")], spec, file
    folder = place / "weights/model_1"
    folder.mkdir(parents=True)
    expects = {"size": 8, "channel_order": "rgb", "range": [0, 1], "mean": [0, 0, 0], "std": [1, 1, 1]}
    architecture = "onnx" if kind == "onnx" else "resnet8"
    record = {"id": "model_1", "form": kind, "architecture": architecture, "classes": 10, "class_names": None}
    (folder / "model.json").write_text(json.dumps(record | {"expects": expects}))
    return ["--kind", "check", "--weights", str(place / "weights")], {"model": "model_1"}, folder / f"model.{kind}"


def refused(kind: str, make: Callable[[Path], None]) -> tuple[float, float, str, int]:
    """Seconds, MiB, and what the engine said; bytes of the file."""
    with tempfile.TemporaryDirectory(prefix="retort-hostile-") as name:
        place = Path(name)
        arguments, spec, file = job(kind, place)
        file.parent.mkdir(parents=True, exist_ok=True)
        make(file)
        (place / "spec.json").write_text(json.dumps(spec))
        command = [sys.executable, "-m", "retort.engine", str(place / "spec.json"), str(place / "out"), *arguments]
        begin = time.monotonic()
        with (place / "said").open("wb") as said:
            engine = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.DEVNULL)
            most = 0
            while engine.poll() is None:
                # Not what wait4 tells, which counts what this process had when it started that one.
                if found := PEAK.search(Path(f"/proc/{engine.pid}/status").read_text()):
                    most = int(found[1])
                time.sleep(0.02)
        seconds = time.monotonic() - begin
        last = json.loads((place / "said").read_text().splitlines()[-1])
        return seconds, most / 1024, str(last.get("text")), file.stat().st_size


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="part of the names of those that are tried")
    options = parser.parse_args()
    idle = {kind: refused(kind, Path.touch) for kind in ("dataset", "safetensors", "onnx")}
    rows = []
    for name, (kind, make) in CASES.items():
        if options.only not in name:
            continue
        seconds, mebibytes, said, size = refused(kind, make)
        row = {
            "file": name,
            "bytes": size,
            "seconds": round(seconds - idle[kind][0], 1),
            "mebibytes": round(mebibytes - idle[kind][1]),
            "said": said,
        }
        print(f"{name:45} {size:>13,} bytes {row['seconds']:>7} s {row['mebibytes']:>6} MiB   {said}", flush=True)
        rows.append(row)
    print(json.dumps({"benchmark": "hostile", **machine(), "rows": rows}))


if __name__ == "__main__":
    main()
