"""What frozen networks say about the batches of a training: computed once for all learners, or kept from before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from retort.engine.group import ALONE, Group, SharedCacheEntry
from retort.engine.inference import quick
from retort.engine.loading import LoadedBatch
from retort.engine.teacher_cache import KEPT_READS, CacheEntry, TeacherCache, network_digest, rounded
from retort.method import STUDENT, TEACHER, NetworkSpec, Tap
from retort.network import Network
from retort.outputs import Outputs, Read
from retort.recipe import Training
from retort.view import View, ViewBatch

Said = dict[tuple[NetworkSpec, View], Outputs]


class FrozenNetworks:
    """The frozen networks of one trainer, made quick, and the shelves of what they said before."""

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
            if not (self._is_rounded(spec, view) and reads <= KEPT_READS):
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
        """Drop what was taken down in an epoch that does not end here."""
        for entry in self._entries.values():
            entry.discard()

    def say(self, views: Mapping[View, ViewBatch], loaded: LoadedBatch) -> Said:
        """What each network says about each view that is read of it."""
        with torch.no_grad():
            return {(spec, view): self._say(spec, view, views[view].inputs, loaded) for spec, view in self._reads}

    def teacher_logits(self, images: Tensor) -> Tensor:
        """(N, K) what the teacher says of images, for views that depend on it."""
        with torch.no_grad():
            return self._compute(TEACHER, images, ()).logits

    def _say(self, spec: NetworkSpec, view: View, images: Tensor, loaded: LoadedBatch) -> Outputs:
        entry = self._entries.get((spec, view))
        kept = entry.take(loaded.positions, self._device) if entry else None
        if kept is not None and entry is not None and not entry.wants_check():
            return kept
        outputs = self._compute(spec, images, self._reads[spec, view])
        if self._is_rounded(spec, view):
            outputs = rounded(outputs)
        if entry is not None:
            if kept is not None:
                entry.check(kept, outputs)
            entry.put(loaded.positions, outputs)
        return outputs

    def _compute(self, spec: NetworkSpec, images: Tensor, reads: Iterable[Read]) -> Outputs:
        if spec not in self._quick:
            self._quick[spec] = quick(self._networks[spec], self._sample)
        with autocast(self._training, self._device):
            return self._group.read(self._quick[spec], images, tuple(reads))

    def _is_rounded(self, spec: NetworkSpec, view: View) -> bool:
        """Whether logits and embedding are rounded as if they were kept: whatever else is read, and by whom."""
        return self._training.cache_teacher_outputs and not view.asks_teacher and not spec.batch_statistics


def autocast(training: Training, device: torch.device) -> AbstractContextManager[None]:
    """The arithmetic of networks in training."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=training.precision == "bfloat16")


def frozen_taps(taps: Iterable[Tap], trained: NetworkSpec) -> set[Tap]:
    """Those that read other networks than the one that is trained."""
    return {tap for tap in taps if tap.network not in (STUDENT, trained)}
