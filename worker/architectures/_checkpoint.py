"""Published weights: downloaded once into torch's cache, and checked against the digest in their file's name."""

from __future__ import annotations

import re
import sys
from contextlib import redirect_stdout
from hashlib import file_digest
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor

NAMED_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")
"""`resnet18-f37072fd.pth`: the first digits of the file's sha256."""


def fetch(url: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name. Raises OSError when it cannot be had, ValueError when it is another."""
    name = Path(urlparse(url).path).name
    digest = NAMED_DIGEST.search(name)
    if digest is None:
        raise ValueError(f"{name} does not bear its digest, so nothing could tell whether it is the right file")
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        # torch says on standard output what it does, where the engine speaks JSON.
        with redirect_stdout(sys.stderr):
            torch.hub.download_url_to_file(url, str(file), hash_prefix=digest[1], progress=False)
    with file.open("rb") as opened:
        found = file_digest(opened, "sha256").hexdigest()
    if not found.startswith(digest[1]):
        raise ValueError(f"{file} has the sha256 {found}; {digest[1]} was wanted as its start")
    weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return weights
