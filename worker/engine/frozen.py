"""What frozen networks say about the batches of a training: computed once for all learners, or kept from before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from worker.engine.group import ALONE, Group, SharedShelf
from worker.engine.inference import quick
from worker.engine.loading import Loaded
from worker.engine.store import KEPT_READS, Shelf, Store, network_digest, rounded
from worker.engine.views import Made
from worker.method import STUDENT, TEACHER, NetworkSpec, Outputs, Read, Tap
from worker.network import Network
from worker.recipe import Training
from worker.view import View

Said = dict[tuple[NetworkSpec, View], Outputs]


class FrozenNetworks:
    """The frozen networks of one trainer, made quick, and the shelves of what they said before."""

    def __init__(
        self,
        networks: Mapping[NetworkSpec, Network],
        taps: Iterable[Tap],
        training: Training,
        image_size: int,
        device: torch.device,
        group: Group = ALONE,
    ) -> None:
        """`taps` are those of all learners on networks that nobody trains meanwhile."""
        self._networks = networks
        self._training = training
        self._image_size = image_size
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
        self._shelves: dict[tuple[NetworkSpec, View], Shelf | SharedShelf] = {}

    def use(self, store: Store, images: int, classes: int, decides: Mapping[str, object]) -> None:
        """Keep what can be kept in a store; `decides` is all that a batch of a view depends on but the view."""
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
            shelf = store.shelf(everything, images, classes, next(iter(tops)) if len(tops) == 1 else None)
            self._shelves[spec, view] = shelf if self._group.size == 1 else SharedShelf(shelf, self._group)

    def begin_epoch(self, epoch: int) -> None:
        for shelf in self._shelves.values():
            shelf.begin(epoch)

    def end_epoch(self) -> None:
        for shelf in self._shelves.values():
            shelf.end()

    def discard(self) -> None:
        """Drop what was taken down in an epoch that does not end here."""
        for shelf in self._shelves.values():
            shelf.discard()

    def say(self, views: Mapping[View, Made], loaded: Loaded) -> Said:
        """What each network says about each view that is read of it."""
        with torch.no_grad():
            return {(spec, view): self._say(spec, view, views[view].images, loaded) for spec, view in self._reads}

    def teacher_logits(self, images: Tensor) -> Tensor:
        """(N, K) what the teacher says of images, for views that depend on it."""
        with torch.no_grad():
            return self._compute(TEACHER, images, ()).logits

    def _say(self, spec: NetworkSpec, view: View, images: Tensor, loaded: Loaded) -> Outputs:
        shelf = self._shelves.get((spec, view))
        kept = shelf.take(loaded.positions, self._device) if shelf else None
        if kept is not None and shelf is not None and not shelf.wants_check():
            return kept
        outputs = self._compute(spec, images, self._reads[spec, view])
        if self._is_rounded(spec, view):
            outputs = rounded(outputs)
        if shelf is not None:
            if kept is not None:
                shelf.check(kept, outputs)
            shelf.put(loaded.positions, outputs)
        return outputs

    def _compute(self, spec: NetworkSpec, images: Tensor, reads: Iterable[Read]) -> Outputs:
        if spec not in self._quick:
            self._quick[spec] = quick(self._networks[spec], self._image_size)
        with autocast(self._training, self._device):
            return self._group.read(self._quick[spec], images, tuple(reads))

    def _is_rounded(self, spec: NetworkSpec, view: View) -> bool:
        """Whether logits and embedding are rounded as if they were kept: whatever else is read, and by whom."""
        return self._training.keep_teacher_outputs and not view.asks_teacher and not spec.batch_statistics


def autocast(training: Training, device: torch.device) -> AbstractContextManager[None]:
    """The arithmetic of networks in training."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=training.precision == "bfloat16")


def frozen_taps(taps: Iterable[Tap], trained: NetworkSpec) -> set[Tap]:
    """Those that read other networks than the one that is trained."""
    return {tap for tap in taps if tap.network not in (STUDENT, trained)}
