"""Published weights: downloaded once into torch's cache, and checked against the digest in their file's name."""

from __future__ import annotations

import re
from hashlib import file_digest
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlparse

import torch
from torch import Tensor

from retort.download import download

NAMED_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")
"""`resnet18-f37072fd.pth`: the first digits of the file's sha256."""
LARGEST_FILE = 8 * 2**30
"""Bytes up to which a file is fetched."""


def load(url: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name. Raises what `fetch` does."""
    weights: dict[str, Tensor] = torch.load(fetch(url), map_location="cpu", weights_only=True)
    return weights


def fetch(url: str) -> Path:
    """The file of a checkpoint, in torch's cache.

    Raises Unreachable when the network failed, OSError when it cannot be had, ValueError when it is another.
    """
    name = Path(urlparse(url).path).name
    digest = NAMED_DIGEST.search(name)
    if digest is None:
        raise ValueError(f"{name} does not contain a digest, so the file cannot be verified")
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not file.exists():
        _fetch(url, file, digest[1])
    _refuse_other(file, digest[1])
    return file


def _fetch(url: str, file: Path, digest: str) -> None:
    """Download it, twice when it is another at first: it may have been damaged on its way."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # In a folder of its own until it is whole, so that runs beside this one never see half of it.
    with TemporaryDirectory(dir=file.parent, prefix=".partial-") as scratch:
        came = Path(scratch, file.name)
        download(url, came, LARGEST_FILE)
        if not _sha256(came).startswith(digest):
            download(url, came, LARGEST_FILE)
            _refuse_other(came, digest)
        came.replace(file)


def _refuse_other(file: Path, digest: str) -> None:
    found = _sha256(file)
    if not found.startswith(digest):
        raise ValueError(f"{file} has the sha256 {found}; {digest} was wanted as its start")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()
