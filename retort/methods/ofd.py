"""OFD: the student's maps before activation follow the teacher's where those are informative."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import Batch, LiveSetup, Method, MethodError, Setup, Tap
from retort.methods._maps import (
    BOTH_PREACTIVATIONS,
    averaged,
    by_stage,
    cards,
    check_preactivations,
    check_stages,
    paired,
    stage_maps,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.methods._layers import MarginConnector

SMALLEST_MASS = 1e-3
"""Share of a channel below zero up to which its mean there is not taken from the normal distribution."""


class OFD(Method):
    """Overhaul of feature distillation: squared error between maps before activation, but for neurons that are
    inactive in the teacher and inactive enough in the student.

    s is the student's map after a trained 1x1 convolution with batch norm, t the teacher's, averaged to the student's
    size. A teacher's value below the margin m, the mean of its channel's negative values, counts as m, so that it need
    not be reached. All stages but the first are compared, the last with the last; a stage weighs twice as much as the
    one before it. m comes from the scale and shift of the batch norm before the activation, without the shortcut that
    may be added to it, or is measured. The authors sum over the batch and divide by its size afterwards: the same
    value. Their code leaves the teacher in train mode, so that its batch norm drifts; here it is frozen. For ImageNet
    the weight is 0.0001.
    """

    source: ClassVar[str] = (
        "Heo, Kim, Yun, Park, Kwak, Choi: A Comprehensive Overhaul of Feature Distillation, ICCV 2019, section 3, "
        "https://arxiv.org/abs/1904.01866"
    )
    formula: ClassVar[str] = (
        "weight * sum_i 2^(i - n + 1) * mean_n sum_{c,hw} (s - max(t, m))^2 1(s > max(t, m) or t > 0), "
        "stages i = 0, ..., n - 1, m = E[t | t < 0]"
    )
    label_weight: ClassVar[float | None] = 1.0
    refuses: ClassVar[str] = (
        "networks whose maps cannot be read before their activation, a teacher whose batch norms are not known unless "
        "the margin is measured, and networks of one stage"
    )

    name: Literal["ofd"] = "ofd"
    weight: float = Field(default=0.001, gt=0, le=1000)
    """Weight of all stages, a pure number."""
    margin: Literal["batch_norm", "measured"] = "batch_norm"
    """Source of m: as published the teacher's batch norms, or a pass over the training images."""

    def check(self, setup: Setup) -> None:
        check_stages(setup)
        check_preactivations(setup)
        _, teacher = cards(setup)
        if self.margin == "batch_norm" and not teacher.norms:
            raise MethodError(
                f"the batch norms before the activations of the teacher {teacher.architecture} are not known, from "
                "which the margins would come; margin: measured serves"
            )

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return BOTH_PREACTIVATIONS

    def modules(self, setup: LiveSetup) -> nn.ModuleList:
        from torch import nn

        from retort.methods._layers import MarginConnector, pointwise

        student, teacher = cards(setup)
        pairs = paired(student.stages, teacher.stages)
        margins = self._margins(setup)[-len(pairs) :]
        return nn.ModuleList(
            MarginConnector(pointwise(s.channels, t.channels), margin_C)
            for (s, t), margin_C in zip(pairs, margins, strict=True)
        )

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """A term for each pair of stages, a mean over images, a sum over elements."""
        connectors, pairs = cast("Iterable[MarginConnector]", modules), stage_maps(batch, "preactivations")
        terms = [
            2.0 ** (i - len(pairs) + 1) * partial_error(connector, *pair)
            for i, (connector, pair) in enumerate(zip(connectors, pairs, strict=True))
        ]
        return by_stage(self.weight * term for term in terms)

    def _margins(self, setup: LiveSetup) -> list[Tensor]:
        """(C) for each of the teacher's stages."""
        if self.margin == "measured":
            return setup.once("teacher's mean negative preactivations", lambda: measured_margins(setup))
        network = setup.teacher_network
        assert network is not None, "the recipe's validation asks for a teacher where a method needs one"
        norms = [network.norm(stage) for stage in range(len(network.layout.stages))]
        return [normal_margin(norm.weight.detach(), norm.bias.detach()) for norm in norms]


def partial_error(connector: MarginConnector, student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
    """Squared error of the neurons that count, a mean over images, a sum over elements."""
    student_NCHW = connector(student_NCHW)
    teacher_NCHW = averaged(teacher_NCHW, (student_NCHW.shape[2], student_NCHW.shape[3]))
    target_NCHW = teacher_NCHW.maximum(connector.margin_C11)
    counts_NCHW = (student_NCHW > target_NCHW) | (teacher_NCHW > 0)
    return ((student_NCHW - target_NCHW).square() * counts_NCHW).sum((1, 2, 3)).mean()


def normal_margin(scale_C: Tensor, shift_C: Tensor) -> Tensor:
    """The mean of the negative values of a normal distribution; where hardly any is negative, -3 deviations."""
    import torch

    deviation_C = scale_C.abs().clamp(min=torch.finfo(scale_C.dtype).tiny)
    z_C = shift_C / deviation_C
    mass_C = torch.special.ndtr(-z_C)
    density_C = torch.exp(-z_C.square() / 2) / (2 * torch.pi) ** 0.5
    mean_C = shift_C - deviation_C * density_C / mass_C
    return torch.where(mass_C > SMALLEST_MASS, mean_C, -3 * deviation_C)


def measured_margins(setup: LiveSetup) -> list[Tensor]:
    """The mean of each channel's negative values over the training images, 0 where there is none; float32, a stage
    each."""
    import torch

    totals: list[Tensor] = []
    for outputs, _, _ in setup.teacher_pass("preactivations"):
        maps = [map_NCHW.double() for map_NCHW in outputs.preactivations]
        # Sum and count of the negative values of each channel.
        found = [torch.stack([m.clamp(max=0).sum((0, 2, 3)), (m < 0).double().sum((0, 2, 3))]) for m in maps]
        totals = [total + new for total, new in zip(totals, found, strict=True)] if totals else found
    return [(sum_C / count_C.clamp(min=1)).float() for sum_C, count_C in totals]
