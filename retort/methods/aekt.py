"""AEKT: the teacher's confidence in the label and its view of the rest, past a trained layer. A reconstruction."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, LiveSetup, Method, Setup, Tap, at_least_float32
from retort.methods.dkd import split_target
from retort.methods.kd import divergences, same_classes

if TYPE_CHECKING:
    from torch import Tensor, nn


class AEKT(Method):
    """Adaptive explicit knowledge transfer: DKD's two parts, the label's one stronger where the student is less sure.

    A reconstruction: the abstract and a summary describe a term for the target class that is weighted by the ratio of
    the teacher's confidence to the student's, of DKD's non-target part beside it, and of a linear layer that puts
    classification and distillation in series; the equations could not be read and no code was published. Here the
    layer is K by K on the student's logits, starts as the identity, is trained with the student and thrown away. The
    recipe's labels meet the student's own logits; both terms meet the layer's output. The ratio takes no gradient and
    is limited, since it starts near K for a sure teacher. All defaults are guesses; with
    a limit of 10 and weights of 1 and 2 training diverged now and then on a small task.
    """

    source: ClassVar[str] = (
        "Park, Lee: Adaptive Explicit Knowledge Transfer for Knowledge Distillation, 2024, "
        "https://arxiv.org/abs/2409.01679"
    )
    formula: ClassVar[str] = (
        "T^2 * mean_n [explicit_weight * min(p_t(y) / p_s(y), ratio_limit) * KL(b_t || b_s) + implicit_weight * "
        "KL(q_t || q_s)], p_s = softmax((A z_s + c) / T), b = (p_y, 1 - p_y), q = p without y, normalised"
    )
    reconstruction: ClassVar[bool] = True
    reads_labels: ClassVar[bool] = True

    name: Literal["aekt"] = "aekt"
    temperature: float = Field(default=4.0, gt=0, le=100)
    """T, a pure number that divides the layer's output and the teacher's logits."""
    explicit_weight: float = Field(default=0.3, ge=0, le=1000)
    """Weight of the label against the rest, a pure number."""
    implicit_weight: float = Field(default=1.0, ge=0, le=1000)
    """Weight of the rest among itself, a pure number."""
    ratio_limit: float = Field(default=2.0, gt=0, le=1000)
    """The largest weight that the ratio of confidences may give an image, a pure number."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT), Tap(TEACHER)})

    def modules(self, setup: LiveSetup) -> nn.Linear:
        from torch import nn

        layer = nn.Linear(setup.outputs, setup.outputs)
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`explicit` and `implicit`, in nats per image times T^2."""
        assert modules is not None
        pair = same_classes(modules(at_least_float32(batch.student().logits)), batch.teacher().logits)
        t = self.temperature
        (log_b_s, log_q_s), (log_b_t, log_q_t) = (split_target(z_NK / t, batch.targets) for z_NK in pair)
        ratios_N = (log_b_t - log_b_s)[:, 0].detach().exp().clamp(max=self.ratio_limit)
        return {
            "explicit": self.explicit_weight * t**2 * (ratios_N * divergences(log_b_s, log_b_t)).mean(),
            "implicit": self.implicit_weight * t**2 * divergences(log_q_s, log_q_t).mean(),
        }
