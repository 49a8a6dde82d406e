"""LSKD: another logit method on standardised logits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from retort.method import Batch, Method, Setup, Tap, at_least_float32
from retort.methods.dkd import DKD
from retort.methods.kd import KD
from retort.methods.mlld import MLLD

if TYPE_CHECKING:
    from torch import Tensor, nn

SPREAD_EPSILON = 1e-7


class LSKD(Method):
    """Logit standardisation: each image's logits get mean 0 and standard deviation 1 before another method sees them.

    The student then imitates the order and the proportions of the teacher's logits, not their size. Cross-entropy reads
    the logits as they are, on the strong view of MLLD too. The published base is temperature 2 (3 for some pairs) with
    the base's own weights times 9: DKD with alpha 9 and beta 9 times its own, MLLD with weight 9. Beside DKD, cross-
    entropy weighs 1. With MLLD the authors' code standardises the divergences alone, not the batch and class parts nor
    the teacher's confidences; here all of the base reads standardised logits.
    """

    source: ClassVar[str] = (
        "Sun, Ren, Li, Wang, Cao: Logit Standardization in Knowledge Distillation, CVPR 2024, section 4, "
        "https://arxiv.org/abs/2403.01427"
    )
    formula: ClassVar[str] = "the base's formula on (z - mean_k z) / (std_k z + 1e-7) of both networks"
    label_weight: ClassVar[float | None] = 0.1
    couples_batch: ClassVar[bool] = True  # with the base mlld
    refuses: ClassVar[str] = "what its base refuses"
    reads_labels: ClassVar[bool] = True  # with the bases dkd and mlld
    with_two_classes: ClassVar[str] = (
        "two standardised logits are the same whatever they were, but for their order, so that no term has a gradient"
    )

    name: Literal["lskd"] = "lskd"
    base: Annotated[KD | DKD | MLLD, Field(discriminator="name")] = KD(temperature=2, weight=9)
    """The method that reads the standardised logits, with its own fields."""

    def check(self, setup: Setup) -> None:
        self.base.check(setup)

    def taps(self, setup: Setup) -> frozenset[Tap]:
        # What the base makes do with, the mean and spread of the logits do not.
        return frozenset(replace(tap, top=None) for tap in self.base.taps(setup))

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """The base's terms."""
        outputs = {key: replace(found, logits=standardised(found.logits)) for key, found in batch.outputs.items()}
        # Bases name each view that they read: with a default argument this batch, made here, would not compile.
        terms = self.base.terms(replace(batch, outputs=outputs), modules)
        return terms | self.base.label_terms(batch) if isinstance(self.base, MLLD) else terms


def standardised(logits_NK: Tensor) -> Tensor:
    """Each row less its mean, over its unbiased standard deviation; constant rows become 0. In float32 at least."""
    z_NK = at_least_float32(logits_NK)
    return (z_NK - z_NK.mean(1, keepdim=True)) / (z_NK.std(1, keepdim=True) + SPREAD_EPSILON)
