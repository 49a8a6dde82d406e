"""KCD: knowledge distillation on ever fewer images, those of which the student is least certain."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import (
    STUDENT,
    TEACHER,
    Batch,
    Choice,
    LiveSetup,
    Method,
    MethodError,
    Setup,
    Tap,
    at_least_float32,
)
from retort.methods.kd import softened_divergence

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.methods._layers import EntropyHistory

FEWEST_IMAGES = 2
"""Batch norm cannot take the statistics of one image."""


class KCD(Method):
    """Knowledge condensation distillation: KD on a training set that shrinks to the images of highest entropy.

    Every `every_epochs` epochs all training images are ranked by (n / count_norm)^count_power times the mean entropy of
    the student's predictions for them, in the n epochs that saw them; dropped images compete with what is known of
    them. With `mixing` the images that were dropped at that time are blended into the last ones kept: image i of L
    keeps the share 1 - (1 - mix_start) i / L. Blends are of the original images and last until the next ranking; the
    authors overwrite the images, so that their blends add up and stay.
    """

    source: ClassVar[str] = (
        "Li, Lin, Ding, Lin, Zhuang, Huang, Ding, Cao: Knowledge Condensation Distillation, ECCV 2022, "
        "https://arxiv.org/abs/2207.05409"
    )
    formula: ClassVar[str] = (
        "weight * T^2 * mean_n KL(p_t || p_s) over the max(M - i int(M (1 - final_share) / parts), int(final_share M)) "
        "of M images that rank first, i rankings so far"
    )
    label_weight: ClassVar[float | None] = 0.1
    chooses_images: ClassVar[bool] = True
    refuses: ClassVar[str] = "a training split of which fewer than two images would be kept"
    reads_labels: ClassVar[bool] = True

    name: Literal["kcd"] = "kcd"
    temperature: float = Field(default=4.0, gt=0, le=100)
    """T, a pure number that divides both networks' logits; 1 leaves them as they are."""
    weight: float = Field(default=0.9, ge=0, le=1000)
    """Weight of the divergence, a pure number."""
    every_epochs: int = Field(default=40, ge=1, le=10_000)
    """Epochs from one ranking to the next; the first epochs see all images."""
    final_share: float = Field(default=0.7, gt=0, le=1)
    """Share of the images that is always kept, a pure number."""
    parts: int = Field(default=6, ge=1, le=10_000)
    """Rankings it takes to come down to that share."""
    count_norm: float = Field(default=40.0, gt=0, le=10_000)
    """Divisor of the number of epochs that saw an image, in epochs."""
    count_power: float = Field(default=0.03, ge=0, le=10)
    """Power of that quotient in the rank, a pure number; 0 ranks by entropy alone."""
    mixing: bool = True
    """Whether the images just dropped are blended into the last ones kept, the authors' third version."""
    mix_start: float = Field(default=0.7, ge=0, le=1)
    """The kept image's last share in a blend, which falls from 1; a pure number."""

    def check(self, setup: Setup) -> None:
        kept = self.images_in_epoch(setup.epochs - 1, setup)
        if kept < FEWEST_IMAGES:
            raise MethodError(
                f"of {setup.facts.train} training images {kept} would be kept in the end; "
                f"at least {FEWEST_IMAGES} are needed"
            )

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT), Tap(TEACHER)})

    def modules(self, setup: LiveSetup) -> EntropyHistory:
        from retort.methods._layers import EntropyHistory

        return EntropyHistory(setup.facts.train)

    def images_in_epoch(self, epoch: int, setup: Setup) -> int:
        return self._kept(epoch // self.every_epochs, setup.facts.train)

    def begin_epoch(self, epoch: int, modules: nn.Module | None) -> None:
        """Rank all images anew when it is time."""
        if epoch and epoch % self.every_epochs == 0:
            cast("EntropyHistory", modules).rank(self.count_norm, self.count_power)

    def choose(self, epoch: int, modules: nn.Module | None) -> Choice | None:
        import torch

        rankings = epoch // self.every_epochs
        if not rankings:
            return None
        order_M = cast("EntropyHistory", modules).order_M
        kept, before = (self._kept(count, len(order_M)) for count in (rankings, rankings - 1))
        positions, dropped = order_M[:kept], order_M[kept:before]
        if not self.mixing:
            return Choice(positions)
        mixed = min(len(dropped), kept)
        partner = positions.clone()
        partner[kept - mixed :] = dropped[:mixed]
        # In the authors' order of operations: where a blend is a whole number, the last bit decides its level.
        weight = torch.ones(kept, dtype=torch.float64, device=positions.device)
        falling = (mixed - torch.arange(mixed, dtype=torch.float64, device=positions.device)) / max(mixed, 1)
        weight[kept - mixed :] = (1 - self.mix_start) * falling + self.mix_start
        return Choice(positions, partner, weight)

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`soft`, in nats per image times T^2."""
        divergence = softened_divergence(batch.student().logits, batch.teacher().logits, self.temperature)
        return {"soft": self.weight * divergence}

    def update(self, batch: Batch, modules: nn.Module | None) -> None:
        """Keep record of the entropy of the student's predictions, at temperature 1."""
        import torch

        p_NK = at_least_float32(batch.student().logits.detach()).softmax(1)
        cast("EntropyHistory", modules).record(batch.indices, torch.special.entr(p_NK).sum(1))

    def _kept(self, rankings: int, images: int) -> int:
        """Number of the images that are kept after so many rankings."""
        a_part = int(images * (1 - self.final_share) / self.parts)
        return max(images - rankings * a_part, int(self.final_share * images))
