"""The start of a safetensors file, read with a bound where the library is missing or too generous. Imports no torch.

The format: 8 bytes with the length of a header, little-endian; the header, JSON, which gives each tensor's dtype, shape
and place in what follows, and texts under `__metadata__`; the tensors' bytes
(https://github.com/huggingface/safetensors, Format). The header's entries for tensors are checked by safetensors
itself.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

LARGEST_HEADER = 8 * 2**20
"""Bytes; the networks of the catalogue with the most tensors need a fortieth, safetensors reads 100 MB."""
LENGTH_BYTES = 8
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
"""First bytes of what torch.save writes: a pickle, or a zip archive that holds one."""


class TensorFileError(ValueError):
    """The file is not a safetensors file that may be read; the sentence gives the reason."""


def read_header(read: Callable[[int, int], bytes], size: int) -> bytes:
    """The header of a file of that size, unparsed; `read` gives its bytes [begin, end).

    Raises TensorFileError for a pickle, and for a header that is longer than the file or than LARGEST_HEADER.
    """
    start = read(0, min(size, LENGTH_BYTES))
    if start.startswith(PICKLES):
        raise TensorFileError(
            "the file is a pickle or an archive of one, as torch.save writes it, and those are never read; write the "
            "weights with safetensors.torch.save_file"
        )
    if size < LENGTH_BYTES + 2:
        raise TensorFileError(f"the file has {size} bytes; a safetensors file begins with a header of at least 10")
    (length,) = struct.unpack("<Q", start)
    if length > LARGEST_HEADER:
        raise TensorFileError(
            f"the header has {length:,} bytes by its own account; at most {LARGEST_HEADER:,} are read"
        )
    if length > size - LENGTH_BYTES:
        raise TensorFileError(f"the header has {length:,} bytes by its own account, the file has {size:,}")
    return read(LENGTH_BYTES, LENGTH_BYTES + length)


def parse_metadata(header: bytes) -> dict[str, str]:
    """The texts under a header's `__metadata__`; empty where there are none. Raises TensorFileError."""
    try:
        found = json.loads(header.decode("utf-8"))
    except (ValueError, RecursionError):
        raise TensorFileError("the header is not JSON, so this is not a safetensors file") from None
    if not isinstance(found, dict):
        raise TensorFileError("the header is JSON, but not an object, so this is not a safetensors file")
    metadata = found.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise TensorFileError("the header's __metadata__ is not an object of texts")
    return metadata
