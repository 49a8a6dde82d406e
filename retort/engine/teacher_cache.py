"""Outputs of frozen networks, cached between jobs: float16 rows by position in the training split, a file an epoch.

Every draw is a function of (data_seed, epoch, sample) or (data_seed, epoch, step), so that another job of the same
data, views and batches has the same inputs in the same epoch. A file's folder is named by all that decides its
content; its own name bears its digest.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from retort.method import LARGEST_FLOAT16, from_top, top_logits
from retort.network import Network
from retort.outputs import Outputs

FORMAT = 1
"""Version of the files, and of all code that decides a view or a network's outputs."""
CACHED_READS = frozenset({"logits", "embedding"})
"""Readings that are small enough to be cached; maps are computed."""
SUFFIX = ".npy"
DRAFT_SECONDS = 7 * 86400.0
FREE_SHARE = 0.1
"""Share of the disk that is left free."""


def network_digest(network: Network) -> str:
    """sha256, hex, of a network's structure, weights and input."""
    made = sha256(f"{network.body!r} {network.layout!r} {network.image!r}".encode())
    for name, tensor in network.state_dict().items():
        made.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        made.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return made.hexdigest()


def device_name(device: torch.device) -> str:
    """Name of a kind of device: the last bits of results differ between them."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def rounded(outputs: Outputs) -> Outputs:
    """The same with logits and embedding as they are cached: rounded to float16, its largest number at most."""
    embedding = outputs.embedding
    return replace(outputs, logits=_round(outputs.logits), embedding=None if embedding is None else _round(embedding))


def _round(values: Tensor) -> Tensor:
    return values.float().clamp(-LARGEST_FLOAT16, LARGEST_FLOAT16).half().float()


@dataclass(frozen=True)
class TeacherCache:
    """A folder of cached outputs, and the size up to which it may grow."""

    directory: Path
    most_bytes: int
    run: str
    """Names the attempt in drafts' names."""
    warn: Callable[[str], None]
    """Takes a sentence about cached outputs that cannot be used."""

    def entry(self, decides: dict[str, Any], examples: int, outputs: int, top: int | None) -> CacheEntry:
        """The epochs of one network on one view; `decides` is all that its outputs depend on.

        With `top` no more is stored of the logits than `top_logits` leaves of them.
        """
        key = sha256(json.dumps(decides | {"top": top}, sort_keys=True).encode()).hexdigest()[:32]
        return CacheEntry(self, self.directory / key, examples, outputs, top)

    def has_room(self, needed_bytes: int) -> bool:
        """Whether so much may be added, once the files that were used longest ago are removed."""
        self._remove_old_drafts()
        files = sorted(self.directory.glob(f"*/*{SUFFIX}"), key=_used)
        held = sum(map(_bytes, files))
        for file in files:
            if held + needed_bytes <= self.most_bytes:
                break
            held -= _bytes(file)
            file.unlink(missing_ok=True)
        usage = shutil.disk_usage(self.directory)
        return held + needed_bytes <= self.most_bytes and usage.free - needed_bytes >= FREE_SHARE * usage.total

    def _remove_old_drafts(self) -> None:
        """Drafts of runs that were killed; a living run writes more often than that."""
        for draft in self.directory.glob("*/.*.draft"):
            if time.time() - _used(draft) > DRAFT_SECONDS:
                draft.unlink(missing_ok=True)


Rows = np.memmap[Any, np.dtype[np.float16]]
"""(M, L + D + 1): logits as `_columns` puts them, the embedding if it is cached too, and 1 where the row is known."""


class CacheEntry:
    """The outputs of one network for one view, epoch after epoch."""

    def __init__(self, cache: TeacherCache, directory: Path, examples: int, outputs: int, top: int | None) -> None:
        self.cache = cache
        self.directory = directory
        self.examples = examples
        self.outputs = outputs
        self.top = top
        self.trusted = True
        """False once a row differed from the network's outputs: from then on nothing cached is used."""
        self._epoch = 0
        self._file: Path | None = None
        self._known: Rows | None = None
        self._draft: Rows | None = None
        self._writes = True
        self._checked = False

    def begin(self, epoch: int) -> None:
        """Turn to an epoch: open its cached outputs."""
        self.discard()
        self._epoch, self._checked, self._file, self._known = epoch, False, None, None
        if self.trusted:
            self._open()
        self._writes = self._known is None or not self._known[:, -1].all()

    def read(self, positions: Tensor, device: torch.device) -> Outputs | None:
        """The cached outputs for the examples at (N,) positions, in float32; None unless they are known for all."""
        if self._known is None:
            return None
        rows = self._known[positions.numpy()]
        if not rows[:, -1].all():
            return None
        values = torch.from_numpy(rows[:, :-1]).to(device)
        width = self.outputs if self.top is None else 2 * self.top + 1
        embedding = values[:, width:].float()
        return Outputs(self._logits(values[:, :width]), embedding if embedding.shape[1] else None)

    def check_is_due(self) -> bool:
        """Whether outputs that were read are to be computed as well and compared: the first of each epoch."""
        return not self._checked

    def check(self, cached: Outputs, computed: Outputs) -> None:
        """Compare cached outputs with those that the network computes now; after a difference nothing cached is
        used."""
        self._checked = True
        both = [(cached.logits, self._logits(self._columns(computed.logits)))]
        if cached.embedding is not None and computed.embedding is not None:
            both.append((cached.embedding, computed.embedding))
        if not all(torch.equal(a, b) for a, b in both):
            self.cache.warn(
                f"the outputs cached for epoch {self._epoch + 1} are not what the network computes; they are not used"
            )
            self.trusted, self._known, self._writes = False, None, True

    def write(self, positions: Tensor, outputs: Outputs) -> None:
        """Add the outputs for the examples at (N,) positions to the draft; values must have been rounded."""
        if not self._writes:
            return
        embedding = [] if outputs.embedding is None else [outputs.embedding.half()]
        known = outputs.logits.new_ones(len(positions), 1).half()
        rows = torch.cat([self._columns(outputs.logits), *embedding, known], dim=1).cpu().numpy()
        if self._draft is None:
            self._start_draft(rows.shape[1])
        if self._draft is not None:
            self._draft[positions.numpy()] = rows

    def _columns(self, logits_NK: Tensor) -> Tensor:
        """(N, L) float16: the logits; or the largest, the bits of their positions, and the mean of the others."""
        if self.top is None:
            return logits_NK.half()
        values, at, rest = top_logits(logits_NK, self.top)
        return torch.cat([values, at.short().view(torch.float16), rest], dim=1)

    def _logits(self, columns: Tensor) -> Tensor:
        """(N, K) float32 of such columns."""
        if self.top is None:
            return columns.float()
        values, at, rest = torch.split(columns, [self.top, self.top, 1], dim=1)
        return from_top(values, at.contiguous().view(torch.int16).long(), rest, self.outputs)

    def end(self) -> None:
        """Store the draft of the epoch, whole or not at all."""
        if self._draft is None:
            return
        self._draft.flush()
        self._draft = None
        digest = _digest(self._draft_file)
        file = self.directory / f"{self._epoch:06d}-{digest}{SUFFIX}"
        self._draft_file.rename(file)
        if self._file is not None and self._file != file:
            self._file.unlink(missing_ok=True)

    def discard(self) -> None:
        """Drop the draft of an epoch that did not end."""
        self._draft = None
        self._draft_file.unlink(missing_ok=True)

    @property
    def _draft_file(self) -> Path:
        return self.directory / f".{self._epoch:06d}-{self.cache.run}.draft"

    def _open(self) -> None:
        """Open the newest whole file of the epoch; files that were cut short or changed are removed."""
        for file in sorted(self.directory.glob(f"{self._epoch:06d}-*{SUFFIX}"), key=_used, reverse=True):
            try:
                if _digest(file) != file.stem.partition("-")[2]:
                    raise ValueError("its content is not what was written")
                known = open_memmap(file, mode="r")
                if len(known) != self.examples or known.dtype != np.float16:
                    raise ValueError(
                        f"it holds {len(known)} rows of {known.dtype}; {self.examples} of float16 were wanted"
                    )
                _mark_used(file)
            except (OSError, ValueError) as error:
                self.cache.warn(f"cached outputs {file.name} are not used: {error}")
                file.unlink(missing_ok=True)
                continue
            self._known, self._file = known, file
            return

    def _start_draft(self, width: int) -> None:
        """Begin the draft of the epoch's rows; none is begun where there is no room."""
        self._writes = False
        shape, draft = (self.examples, width), self._draft_file
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if not self.cache.has_room(2 * self.examples * width):
                return
            rows = open_memmap(draft, mode="w+", dtype=np.float16, shape=shape)
            with draft.open("r+b") as opened:
                # A full disk shows itself here, and not by a signal at some later row.
                os.posix_fallocate(opened.fileno(), 0, os.path.getsize(draft))
            if self._known is not None:
                rows[:] = self._known
        except OSError as error:
            draft.unlink(missing_ok=True)
            self.cache.warn(f"teacher outputs cannot be cached: {error}")
            return
        self._draft, self._writes = rows, True


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()[:32]


def _mark_used(file: Path) -> None:
    """Give a file the time of now by writing its first byte again: an engine may set no times."""
    with file.open("r+b") as opened:
        first = opened.read(1)
        opened.seek(0)
        opened.write(first)


def _used(file: Path) -> float:
    with suppress(FileNotFoundError):
        return file.stat().st_mtime
    return 0.0


def _bytes(file: Path) -> int:
    with suppress(FileNotFoundError):
        return file.stat().st_size
    return 0
