"""FT: the student gives the factors into which the teacher's last map was paraphrased."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import TEACHER, Batch, LiveSetup, Method, MethodError, Phase, Setup, Tap, at_least_float32
from retort.methods._maps import BOTH_MAPS, last_maps, same_size, shapes

if TYPE_CHECKING:
    from torch import Tensor, nn


class FT(Method):
    """Factor transfer: a translator of the student's last map gives the same factors as a paraphraser of the
    teacher's, which was trained before the loop to give that map back.

    The paraphraser is an encoder of three 3x3 convolutions to fewer channels, with as many transposed ones behind it
    in its own phase, and is frozen after it; the translator is like the encoder, with batch norm, and is trained with
    the student. u is a factor, flattened and of length 1; `attention` averages F^p1 over channels before that, as the
    code does by which the method is compared on CIFAR-100 and to which the weight 200 belongs. `paper` compares whole
    factors, as the authors do, with weight 500 on CIFAR-10. Where sizes differ, the larger factor is averaged to the
    smaller one's.
    """

    source: ClassVar[str] = (
        "Kim, Park, Kwak: Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018, "
        "section 3, https://arxiv.org/abs/1802.04977"
    )
    formula: ClassVar[str] = "weight * mean |u_s - u_t|^p2, u = f / |f|, f = vec(mean_c F^p1) or vec(F)"
    label_weight: ClassVar[float | None] = 1.0
    refuses: ClassVar[str] = "last maps of one position, unless whole factors are compared"

    name: Literal["ft"] = "ft"
    weight: float = Field(default=200.0, gt=0, le=1_000_000)
    """Weight of the difference, a pure number."""
    form: Literal["attention", "paper"] = "attention"
    """Whether factors are averaged over channels before they are compared, or compared as they are."""
    p1: int = Field(default=2, ge=1, le=8)
    """Power of the factors before the mean over channels, a pure number; `paper` has none."""
    p2: Literal[1, 2] = 1
    """1 takes the mean difference. 2 takes the mean square, or, with `paper`, the mean over images of the length."""
    factor_rate: float = Field(default=0.5, gt=0, le=1)
    """Channels of the factors as a share of those of the teacher's map, rounded down."""
    epochs: int = Field(default=30, ge=1, le=10_000)
    """Epochs of the paraphraser's phase, before those of the recipe."""
    paraphraser_learning_rate: float | None = Field(default=0.01, gt=0, le=10)
    """Learning rate of that phase, as published for ResNets; null takes the recipe's."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return BOTH_MAPS

    def modules(self, setup: LiveSetup) -> nn.ModuleDict:
        from torch import nn

        (student, student_side), (teacher, teacher_side) = (stages[-1] for stages in shapes(setup))
        if self.form == "attention" and min(student_side, teacher_side) == 1:
            raise MethodError("a last map has one position alone, whose attention is always 1; form: paper serves")
        factor = max(1, int(teacher * self.factor_rate))
        return nn.ModuleDict(
            {
                "encoder": convolutions(nn.Conv2d, (teacher, teacher, factor, factor)),
                "decoder": convolutions(nn.ConvTranspose2d, (factor, factor, teacher, teacher)),
                "translator": convolutions(nn.Conv2d, (student, student, factor, factor), norms=True),
            }
        )

    def phases(self, setup: Setup) -> tuple[Phase, ...]:
        taps = frozenset({Tap(TEACHER, "maps")})
        rate = self.paraphraser_learning_rate
        return (Phase("paraphraser", self.epochs, taps, self._paraphrase, trains=None, learning_rate=rate),)

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`factor`, a mean over images and positions, with `paper` over channels too."""
        import torch

        parts = cast("nn.ModuleDict", modules)
        student_NCHW, teacher_NCHW = last_maps(batch)
        with torch.no_grad():
            factor_NCHW = parts["encoder"](teacher_NCHW)
        return {"factor": self.weight * self.distance(parts["translator"](student_NCHW), factor_NCHW)}

    def distance(self, student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
        """Distance of two factors, before the weight."""
        from torch.linalg import vector_norm

        student_ND, teacher_ND = map(self._unit, same_size(student_NCHW, teacher_NCHW))
        differences_ND = student_ND - teacher_ND
        if self.form == "paper" and self.p2 == 2:
            lengths_N: Tensor = vector_norm(differences_ND, dim=1)
            return lengths_N.mean()
        return differences_ND.abs().pow(self.p2).mean()

    def _unit(self, factor_NCHW: Tensor) -> Tensor:
        """(N, D) of length 1."""
        from torch.nn.functional import normalize

        if self.form == "attention":
            factor_NCHW = factor_NCHW.pow(self.p1).mean(1)
        return normalize(factor_NCHW.flatten(1))

    def _paraphrase(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`reconstruction` of the teacher's map, a mean square over all elements."""
        from torch.nn.functional import mse_loss

        parts = cast("nn.ModuleDict", modules)
        teacher_NCHW = at_least_float32(batch.teacher().maps[-1])
        return {"reconstruction": mse_loss(parts["decoder"](parts["encoder"](teacher_NCHW)), teacher_NCHW)}


def convolutions(
    kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], channels: Sequence[int], *, norms: bool = False
) -> nn.Sequential:
    """3x3 convolutions from each number of channels to the next, which keep the size; a leaky ReLU after each."""
    from torch import nn

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (inputs, outputs) in enumerate(pairwise(channels), 1):
        layers[f"conv{i}"] = kind(inputs, outputs, 3, padding=1)
        if norms:
            layers[f"bn{i}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{i}"] = nn.LeakyReLU(0.1)
    return nn.Sequential(layers)
