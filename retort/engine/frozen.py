"""Outputs of frozen networks for the batches of a training: computed once for all networks in training, or cached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from retort.engine.group import ALONE, Group
from retort.engine.inference import quick
from retort.engine.loading import LoadedBatch
from retort.engine.shared_cache import SharedCacheEntry
from retort.engine.teacher_cache import CACHED_READS, CacheEntry, TeacherCache, network_digest, rounded
from retort.method import STUDENT, TEACHER, NetworkSpec, Tap
from retort.network import Network
from retort.outputs import Outputs, Read
from retort.recipe import Training
from retort.view import View, ViewBatch

FrozenOutputs = dict[tuple[NetworkSpec, View], Outputs]


class FrozenNetworks:
    """The frozen networks of one trainer, made quick, with the cache of their outputs."""

    def __init__(
        self,
        networks: Mapping[NetworkSpec, Network],
        taps: Iterable[Tap],
        training: Training,
        sample: Tensor,
        device: torch.device,
        group: Group = ALONE,
    ) -> None:
        """`taps` are those of all train states on networks that are not trained meanwhile; networks are compared on
        the inputs `sample` when they are made quick."""
        self._networks = networks
        self._training = training
        self._sample = sample
        self._device = device
        self._group = group
        self._reads: dict[tuple[NetworkSpec, View], set[Read]] = defaultdict(set)
        self._tops: dict[tuple[NetworkSpec, View], set[int | None]] = defaultdict(set)
        # In one order in all processes; a set's is each process's own.
        for tap in sorted(taps, key=repr):
            self._reads[tap.network, tap.view].add(tap.reads)
            if tap.reads == "logits":
                self._tops[tap.network, tap.view].add(tap.top)
        self._quick: dict[NetworkSpec, Network] = {}
        self._entries: dict[tuple[NetworkSpec, View], CacheEntry | SharedCacheEntry] = {}

    def use(self, cache: TeacherCache, examples: int, outputs: int, decides: Mapping[str, object]) -> None:
        """Cache all outputs that may be cached; `decides` is all that a batch of a view depends on but the view."""
        for (spec, view), reads in self._reads.items():
            if not (self._is_rounded(spec, view) and reads <= CACHED_READS):
                continue
            everything = {
                **decides,
                "network": network_digest(self._networks[spec]),
                "view": repr(view),
                "reads": sorted(reads),
            }
            tops = self._tops[spec, view]
            entry = cache.entry(everything, examples, outputs, next(iter(tops)) if len(tops) == 1 else None)
            self._entries[spec, view] = entry if self._group.size == 1 else SharedCacheEntry(entry, self._group)

    def begin_epoch(self, epoch: int) -> None:
        for entry in self._entries.values():
            entry.begin(epoch)

    def end_epoch(self) -> None:
        for entry in self._entries.values():
            entry.end()

    def discard(self) -> None:
        """Drop the outputs of an epoch that does not end here."""
        for entry in self._entries.values():
            entry.discard()

    def read(self, views: Mapping[View, ViewBatch], loaded: LoadedBatch) -> FrozenOutputs:
        """The outputs of each network for each view that is read of it."""
        with torch.no_grad():
            return {(spec, view): self._outputs(spec, view, views[view].inputs, loaded) for spec, view in self._reads}

    def teacher_logits(self, inputs: Tensor) -> Tensor:
        """(N, K) the teacher's logits of (N, ...) inputs, for views that depend on them."""
        with torch.no_grad():
            return self._compute(TEACHER, inputs, ()).logits

    def _outputs(self, spec: NetworkSpec, view: View, inputs: Tensor, loaded: LoadedBatch) -> Outputs:
        entry = self._entries.get((spec, view))
        cached = entry.read(loaded.positions, self._device) if entry else None
        if cached is not None and entry is not None and not entry.check_is_due():
            return cached
        outputs = self._compute(spec, inputs, self._reads[spec, view])
        if self._is_rounded(spec, view):
            outputs = rounded(outputs)
        if entry is not None:
            if cached is not None:
                entry.check(cached, outputs)
            entry.write(loaded.positions, outputs)
        return outputs

    def _compute(self, spec: NetworkSpec, inputs: Tensor, reads: Iterable[Read]) -> Outputs:
        if spec not in self._quick:
            self._quick[spec] = quick(self._networks[spec], self._sample)
        with autocast(self._training, self._device):
            return self._group.read(self._quick[spec], inputs, tuple(reads))

    def _is_rounded(self, spec: NetworkSpec, view: View) -> bool:
        """Whether logits and embedding are rounded as if they were cached: whatever is read besides, by any network."""
        return self._training.cache_teacher_outputs and not view.asks_teacher and not spec.batch_statistics


def autocast(training: Training, device: torch.device) -> AbstractContextManager[None]:
    """The arithmetic of networks in training."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=training.precision == "bfloat16")


def frozen_taps(taps: Iterable[Tap], trained: NetworkSpec) -> set[Tap]:
    """Those that read other networks than the one that is trained."""
    return {tap for tap in taps if tap.network not in (STUDENT, trained)}
