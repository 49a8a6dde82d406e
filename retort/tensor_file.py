"""The header of a safetensors file, read by hand and doubted before anything is mapped. Imports no torch.

The format: 8 bytes with the length of a header, little-endian; the header, JSON, which gives each tensor's dtype, shape
and place in what follows; the tensors' bytes (https://github.com/huggingface/safetensors, Format).
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

LARGEST_HEADER = 8 * 2**20
"""Bytes; the networks of the catalogue with the most tensors need a fortieth."""
MOST_TENSORS = 50_000
MOST_DIMENSIONS = 8
LONGEST_NAME = 500
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes a number of each dtype that weights and counters come in."""
LENGTH_BYTES = 8
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
"""How what torch.save writes begins: a pickle, or a zip archive that holds one."""


class TensorFileError(ValueError):
    """The file is no safetensors file that may be read; the sentence says why."""


@dataclass(frozen=True)
class TensorPlace:
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    """Where its bytes lie behind the header: [begin, end)."""


@dataclass(frozen=True)
class TensorFileHeader:
    """All that a header says."""

    tensors: dict[str, TensorPlace]
    metadata: dict[str, str]


def read_header(read: Callable[[int, int], bytes], size: int) -> TensorFileHeader:
    """The header of a file of that size; `read` gives its bytes [begin, end). Raises TensorFileError.

    Holds no more than the header, which is bounded, and no tensor's bytes.
    """
    start = read(0, min(size, LENGTH_BYTES))
    if start.startswith(PICKLES):
        raise TensorFileError(
            "the file is a pickle or an archive of one, as torch.save writes it, and those are never read; write the "
            "weights with safetensors.torch.save_file"
        )
    if size < LENGTH_BYTES + 2:
        raise TensorFileError(f"the file has {size} bytes; a safetensors file begins with a header of 10 at least")
    (length,) = struct.unpack("<Q", start)
    if length > LARGEST_HEADER:
        raise TensorFileError(f"the header is said to have {length:,} bytes; at most {LARGEST_HEADER:,} are read")
    if length > size - LENGTH_BYTES:
        raise TensorFileError(f"the header is said to have {length:,} bytes, the file has {size:,}")
    entries = _parsed(read(LENGTH_BYTES, LENGTH_BYTES + length))
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise TensorFileError("the header's __metadata__ is no object of texts")
    if len(entries) > MOST_TENSORS:
        raise TensorFileError(f"the file has {len(entries):,} tensors; at most {MOST_TENSORS:,} are read")
    if not entries:
        raise TensorFileError("the file holds no tensor")
    tensors = {name: _place(name, entry) for name, entry in entries.items()}
    _check_places(tensors, size - LENGTH_BYTES - length)
    return TensorFileHeader(tensors, metadata)


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=_object)
    except TensorFileError:
        raise
    except (ValueError, RecursionError):
        raise TensorFileError("the header is not JSON, so this is no safetensors file") from None
    if not isinstance(found, dict):
        raise TensorFileError("the header is JSON, but no object, so this is no safetensors file")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise TensorFileError(f"the header gives {twice[:LONGEST_NAME]!r} twice")
    return found


def _place(name: str, entry: Any) -> TensorPlace:
    if len(name) > LONGEST_NAME:
        raise TensorFileError(f"a tensor's name has {len(name):,} characters; at most {LONGEST_NAME} are read")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(f"the header's entry of {name!r} is not an object of dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise TensorFileError(
            f"tensor {name!r} has the dtype {str(dtype)[:40]!r}; wanted one of {', '.join(ITEM_BYTES)}"
        )
    if not _are_counts(shape) or len(shape) > MOST_DIMENSIONS:
        raise TensorFileError(f"the shape of tensor {name!r} is no list of at most {MOST_DIMENSIONS} counts")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise TensorFileError(f"the data_offsets of tensor {name!r} are not where it begins and where it ends")
    wanted, found = prod(shape) * ITEM_BYTES[dtype], offsets[1] - offsets[0]
    if wanted != found:
        said = f"tensor {name!r} of shape {shape} and dtype {dtype} takes {wanted:,} bytes"
        raise TensorFileError(f"{said}, its data_offsets hold {found:,}")
    return TensorPlace(dtype, tuple(shape), *offsets)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _check_places(tensors: dict[str, TensorPlace], size: int) -> None:
    """Each tensor begins where the one before ends, and the last ends with the file."""
    reached, before = 0, ""
    for name, place in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.begin < reached:
            raise TensorFileError(f"tensors {before!r} and {name!r} overlap")
        if place.begin > reached:
            raise TensorFileError(f"{place.begin - reached:,} bytes before tensor {name!r} belong to none")
        reached, before = place.end, name
    if reached != size:
        raise TensorFileError(f"the tensors end after {reached:,} bytes, the file has {size:,} behind its header")
