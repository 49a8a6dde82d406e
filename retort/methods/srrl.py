"""SRRL: the teacher's classifier gives the student's features the logits of the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, LiveSetup, Method, MethodError, Setup, Tap, at_least_float32
from retort.methods._maps import cards

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.methods._layers import TeacherClassifier


class SRRL(Method):
    """Softmax regression representation learning: mean squared errors between the student's features and the teacher's
    embedding, and between the logits that the teacher's frozen classifier gives for either.

    h is the student's embedding after a trained 1x1 convolution with batch norm and ReLU. With `map` these act on the
    last map and h is the mean over space of what comes out, as in the authors' code for ImageNet; `pooled` is the form
    in which the method is compared on CIFAR-100.
    """

    source: ClassVar[str] = (
        "Yang, Martinez, Bulat, Tzimiropoulos: Knowledge Distillation via Softmax Regression Representation Learning, "
        "ICLR 2021, https://openreview.net/forum?id=ZzwDy_wiWv"
    )
    formula: ClassVar[str] = (
        "feature_weight * mean_{n,d} (h - f_t)^2 + regression_weight * mean_{n,k} (W_t h + b_t - z_t)^2, "
        "h = relu(bn(W f_s))"
    )
    label_weight: ClassVar[float | None] = 1.0
    refuses: ClassVar[str] = "a teacher without a linear classifier on an embedding"

    name: Literal["srrl"] = "srrl"
    feature_weight: float = Field(default=1.0, ge=0, le=1_000_000)
    """Weight of the error between features, a pure number."""
    regression_weight: float = Field(default=1.0, ge=0, le=1_000_000)
    """Weight of the error between logits, a pure number."""
    connector: Literal["pooled", "map"] = "pooled"
    """The student's output that the connector reads: the embedding, or the last map."""

    def check(self, setup: Setup) -> None:
        _, teacher = cards(setup)
        if teacher.head == "other":
            raise MethodError(
                f"the teacher {teacher.architecture} has no linear classifier on an embedding, which scores the "
                "student's features"
            )

    def taps(self, setup: Setup) -> frozenset[Tap]:
        student = Tap(STUDENT, "embedding" if self.connector == "pooled" else "maps")
        return frozenset({student, Tap(TEACHER, "embedding"), Tap(TEACHER)})

    def modules(self, setup: LiveSetup) -> TeacherClassifier:
        from torch import nn

        from retort.methods._layers import TeacherClassifier

        student = setup.student
        assert setup.teacher_network is not None, "the recipe's validation asks for a teacher where a method needs one"
        channels = student.embedding if self.connector == "pooled" else student.stages[-1].channels
        classifier = setup.teacher_network.classifier
        assert isinstance(classifier, nn.Linear), "the teacher's card says so"
        return TeacherClassifier(channels, classifier)

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`feature` and `softmax_regression`, means over images and their elements."""
        from torch.nn.functional import mse_loss

        teacher = batch.teacher()
        assert teacher.embedding is not None, "it was tapped"
        h_ND, logits_NK = cast("TeacherClassifier", modules)(self._features(batch))
        return {
            "feature": self.feature_weight * mse_loss(h_ND, at_least_float32(teacher.embedding)),
            "softmax_regression": self.regression_weight * mse_loss(logits_NK, at_least_float32(teacher.logits)),
        }

    def _features(self, batch: Batch) -> Tensor:
        """(N, C, H, W) what the connector reads; an embedding is a map of one position."""
        student = batch.student()
        if self.connector == "map":
            return at_least_float32(student.maps[-1])
        assert student.embedding is not None, "it was tapped"
        return at_least_float32(student.embedding)[:, :, None, None]
