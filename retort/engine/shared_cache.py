"""The teacher cache of several processes that train as one."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from retort.engine.group import Group
from retort.engine.teacher_cache import CacheEntry
from retort.outputs import Outputs


class SharedCacheEntry:
    """A cache entry of process 0: it alone reads and writes the files, and sends the others what it read."""

    def __init__(self, entry: CacheEntry, group: Group) -> None:
        self._entry = entry
        self._group = group
        self._check_is_due = False

    def read(self, positions: Tensor, device: torch.device) -> Outputs | None:
        cached = self._entry.read(positions, device) if self._group.rank == 0 else None
        width = 0 if cached is None or cached.embedding is None else cached.embedding.shape[1]
        header = torch.tensor([cached is not None, self._entry.check_is_due(), width], dtype=torch.int64)
        dist.broadcast(header, 0)
        known, check_is_due, width = header.tolist()
        self._check_is_due = bool(check_is_due)
        if not known:
            return None
        values = torch.empty(len(positions), self._entry.outputs + width, device=device)
        if cached is not None:
            values = torch.cat([cached.logits, *([] if cached.embedding is None else [cached.embedding])], dim=1)
        dist.broadcast(values, 0)
        embedding = values[:, self._entry.outputs :]
        return Outputs(values[:, : self._entry.outputs], embedding if width else None)

    def check_is_due(self) -> bool:
        return self._check_is_due

    def check(self, cached: Outputs, computed: Outputs) -> None:
        if self._group.rank == 0:
            self._entry.check(cached, computed)

    def write(self, positions: Tensor, outputs: Outputs) -> None:
        if self._group.rank == 0:
            self._entry.write(positions, outputs)

    def begin(self, epoch: int) -> None:
        if self._group.rank == 0:
            self._entry.begin(epoch)

    def end(self) -> None:
        if self._group.rank == 0:
            self._entry.end()

    def discard(self) -> None:
        if self._group.rank == 0:
            self._entry.discard()
