"""Checkpoints: all that resuming needs, written whole or not at all; the newest two stay.

A checkpoint is a safetensors file: the state's tensors, and the rest of it as JSON in the header. Its name bears its
own digest, so that one that was cut short or changed is recognised and passed over for the one before.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from retort.engine.version_1 import Version1

KEPT = 2
FORMAT = "2"
SUFFIX = ".safetensors"
PATTERN = f"[0-9]*{SUFFIX}"

State = dict[str, Any]
"""Nested dicts and lists of tensors, numbers, strings and None; keys are strings or integers."""


def are_there(directory: Path) -> bool:
    """Whether a directory holds checkpoints, whatever they are of."""
    return any(directory.glob(PATTERN))


@dataclass
class Checkpoints:
    """The checkpoints of one job: of this recipe and these data, or they are passed over."""

    directory: Path
    recipe_digest: str
    data_digest: str
    run: str
    """Names the attempt in file names, so that two attempts never write the same file."""
    seconds: float
    """Seconds from one to the next."""
    version_1: Version1 | None = None
    """Reads those of version 0.1; None passes them over."""

    latest: str | None = field(default=None, init=False)
    """File of the newest state that was written or read."""
    _last: float = field(default_factory=time.monotonic, init=False, repr=False)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)

    def is_due(self) -> bool:
        return time.monotonic() - self._last >= self.seconds

    def write(self, state: State) -> str:
        """Write a checkpoint and drop all but the newest two; returns the file's name."""
        number = max((_number(file) for file in self._files()), default=0) + 1
        tensors: dict[str, Tensor] = {}
        header = {
            "format": FORMAT,
            "recipe": self.recipe_digest,
            "data": self.data_digest,
            "state": json.dumps(_take(state, tensors)),
        }
        draft = self.directory / f".{number:08d}-{self.run}.draft"
        try:
            save_file(tensors, draft, metadata=header)
            _sync(draft)
            file = draft.rename(self.directory / f"{number:08d}-{self.run}-{_digest(draft)}{SUFFIX}")
        except (OSError, SafetensorError):
            draft.unlink(missing_ok=True)
            raise
        _sync(self.directory)
        for old in self._files()[:-KEPT]:
            old.unlink(missing_ok=True)
        self._last = time.monotonic()
        self.latest = file.name
        return file.name

    def newest(self, device: torch.device) -> State | None:
        """The newest good state of this recipe and data, or None; names on standard error the files that it passes
        over."""
        for file in reversed(self._files()):
            try:
                state = self._read(file, device)
            except (SafetensorError, OSError, ValueError, KeyError) as error:
                print(f"checkpoint {file.name} is passed over: {error}", file=sys.stderr)
                continue
            self.latest = file.name
            return state
        return None

    def _read(self, file: Path, device: torch.device) -> State:
        if _digest(file) != file.name.removesuffix(SUFFIX).rpartition("-")[2]:
            raise ValueError("its content is not what was written")
        with safe_open(file, framework="pt", device=str(device)) as opened:
            header = opened.metadata()
            old = self.version_1 if header.get("format", "1") == "1" else None
            recipe = old.recipe_digest if old else self.recipe_digest
            for what, wanted in (("recipe", recipe), ("data", self.data_digest)):
                if header[what] != wanted:
                    raise ValueError(f"it was made with another {what}")
            state: State = _give(json.loads(header["state"]), opened.get_tensor)
            return old.upgrade(state) if old else state

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob(PATTERN), key=lambda file: (_number(file), file.name))


def _number(file: Path) -> int:
    return int(file.name.partition("-")[0])


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        made = sha256()
        while block := opened.read(1 << 20):
            made.update(block)
    return made.hexdigest()[:32]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take(node: Any, tensors: dict[str, Tensor]) -> Any:
    """The state as JSON, with tensors put aside under a number each. Dicts become lists of pairs: keys keep types."""
    if isinstance(node, Tensor):
        # A copy each: safetensors refuses tensors that share memory, as tied weights do.
        tensors[str(len(tensors))] = node.detach().clone(memory_format=torch.contiguous_format)
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(node, dict):
        return {"dict": [[key, _take(value, tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return {"list": [_take(value, tensors) for value in node]}
    return {"value": node}


def _give(node: dict[str, Any], tensor: Callable[[str], Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensor(content)
    if kind == "dict":
        return {key: _give(value, tensor) for key, value in content}
    if kind == "list":
        return [_give(value, tensor) for value in content]
    return content
