"""SimKD: the student keeps the teacher's classifier and learns the features that it reads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.architecture import Card, Stage
from retort.method import Batch, BuildNetwork, LiveSetup, Method, MethodError, Setup, Tap, Wrapper
from retort.methods._maps import BOTH_MAPS, averaged, cards, check_both, last_maps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.network import Network


class ReusedClassifier(Wrapper):
    """A projector behind the student's last stage, and behind its mean a frozen classifier of the teacher's shape."""

    student_channels: int
    """Channels of the student's own last map."""
    teacher_channels: int
    """Channels of the teacher's last map, which are the projector's."""
    classes: int
    reduction: int
    """Factor by which the middle of the projector is narrower than the teacher's map."""
    pooling: int
    """Side of the squares of positions that are averaged before the projector; 1 leaves the map as it is."""

    def build(self, network: Network, build_network: BuildNetwork) -> None:
        from torch import nn

        network.extend_last_stage(self.projector())
        network.replace_classifier(nn.Linear(self.teacher_channels, self.classes).requires_grad_(False))

    def projector(self) -> nn.Sequential:
        """1x1, 3x3 and 1x1 convolutions to the teacher's channels, each with batch norm and ReLU."""
        from torch import nn

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if self.pooling > 1:
            layers["pool"] = nn.AvgPool2d(self.pooling)
        for i, (inputs, outputs, kernel) in enumerate(self._convolutions(), 1):
            layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
            layers[f"bn{i}"] = nn.BatchNorm2d(outputs)
            layers[f"relu{i}"] = nn.ReLU()
        return nn.Sequential(layers)

    def card(self, card: Card, cards: Mapping[str, Card]) -> Card:
        convolutions = self._convolutions()
        weights = sum(inputs * outputs * kernel**2 for inputs, outputs, kernel in convolutions)
        scales_and_shifts = sum(2 * outputs for _, outputs, _ in convolutions)
        stride = card.stages[-1].stride * self.pooling
        return card.model_copy(
            update={
                "stages": (*card.stages[:-1], Stage(channels=self.teacher_channels, stride=stride)),
                "embedding": self.teacher_channels,
                "preactivations": False,
                "norms": False,
                "classifier_bias": True,
                "body_parameters": card.body_parameters + weights + scales_and_shifts,
                "multiply_adds": card.multiply_adds + weights * (card.image_size // stride) ** 2,
            }
        )

    def _convolutions(self) -> tuple[tuple[int, int, int], ...]:
        """Input channels, output channels and side of the kernel."""
        middle = self.teacher_channels // self.reduction
        return (self.student_channels, middle, 1), (middle, middle, 3), (middle, self.teacher_channels, 1)


class SimKD(Method):
    """Reused classifier: mean squared error between the student's last map, after a trained projector, and the
    teacher's; the teacher's own classifier reads the projected map's mean.

    Projector and classifier are part of the student that is shipped, and its numbers are counted so. A student's map
    that is larger than the teacher's is averaged before the projector, by the whole number by which their strides
    differ; a teacher's map that is larger is averaged to the student's size. As published there is no term of labels
    (a label weight of 0) and the classifier is never trained. The student's maps cannot be read before their
    activation any more.
    """

    source: ClassVar[str] = (
        "Chen, Mei, Zhang, Wang, Feng, Chen: Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022, "
        "section 3, https://arxiv.org/abs/2203.14001"
    )
    formula: ClassVar[str] = "weight * mean_{n,c,hw} (P(F_s) - F_t)^2, with logits W_t mean_hw P(F_s) + b_t"
    label_weight: ClassVar[float | None] = 0.0
    wrapper_type: ClassVar[type[Wrapper] | None] = ReusedClassifier
    refuses: ClassVar[str] = "networks that do not end in the mean of the last map and one linear layer"

    name: Literal["simkd"] = "simkd"
    weight: float = Field(default=1.0, gt=0, le=1_000_000)
    """Weight of the error, a pure number."""
    reduction: int = Field(default=2, ge=1, le=32)
    """Factor by which the middle of the projector is narrower than the teacher's map."""

    def check(self, setup: Setup) -> None:
        check_both(
            setup,
            lambda card: card.head == "pool_linear",
            "does not end in the mean of its last map and one linear layer, which are reused",
        )
        student, teacher = (card.stages[-1] for card in cards(setup))
        if teacher.stride > max(student.stride, setup.image_size):
            raise MethodError(
                f"images of {setup.image_size} pixels a side are smaller than a position of the teacher's last "
                f"map, {teacher.stride} pixels, to which the student's map is averaged"
            )

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return BOTH_MAPS

    def wrapper(self, setup: Setup) -> ReusedClassifier:
        student, teacher = (card.stages[-1] for card in cards(setup))
        return ReusedClassifier(
            student_channels=student.channels,
            teacher_channels=teacher.channels,
            classes=setup.outputs,
            reduction=self.reduction,
            pooling=max(1, teacher.stride // student.stride),
        )

    def wrap(self, network: Network, wrapper: Wrapper, setup: LiveSetup) -> None:
        import torch
        from torch import nn

        wrapper.build(network, setup.build_network)
        assert setup.teacher_network is not None, "the recipe's validation asks for a teacher where a method needs one"
        own, reused = network.classifier, setup.teacher_network.classifier
        assert isinstance(own, nn.Linear)
        assert isinstance(reused, nn.Linear), "the teacher's card says so"
        own.load_state_dict({"bias": torch.zeros_like(own.bias), **reused.state_dict()})

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`feature`, a mean over all elements."""
        from torch.nn.functional import mse_loss

        student_NCHW, teacher_NCHW = last_maps(batch)
        teacher_NCHW = averaged(teacher_NCHW, (student_NCHW.shape[2], student_NCHW.shape[3]))
        return {"feature": self.weight * mse_loss(student_NCHW, teacher_NCHW)}
