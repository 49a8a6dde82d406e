"""Residual KD: an assistant learns what the student misses of the teacher's features. A reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.architecture import Card
from retort.method import (
    STUDENT,
    TEACHER,
    Batch,
    BuildNetwork,
    Method,
    MethodError,
    Setup,
    Tap,
    Wrapper,
    at_least_float32,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.network import Network


class StudentAndAssistant(Wrapper):
    """The student and an assistant side by side: both embeddings, each after a linear map to the teacher's width, are
    added up, and one linear classifier reads the sum."""

    assistant: str
    """Architecture of the assistant."""
    student_features: int
    """Width of the student's own embedding."""
    assistant_features: int
    """Width of the assistant's own embedding."""
    teacher_features: int
    """Width of the teacher's embedding, which is the sum's."""
    classes: int

    def build(self, network: Network, build_network: BuildNetwork) -> None:
        from dataclasses import replace

        from torch import nn

        from retort.methods._layers import SideBySide, SumClassifier

        assistant = build_network(self.assistant, self.classes)
        for part, features in ((network, self.student_features), (assistant, self.assistant_features)):
            part.replace_classifier(nn.Linear(features, self.teacher_features))
        body = SideBySide(network.body, assistant.body, SumClassifier(self.teacher_features, self.classes))
        old = network.layout
        prefixed = {
            field: tuple(f"student.{name}" for name in getattr(old, field))
            for field in ("stages", "activations", "norms")
        }
        network.replace_body(body, replace(old, classifier="classifier", **prefixed))  # type: ignore[arg-type]

    def card(self, card: Card, cards: Mapping[str, Card]) -> Card:
        assistant = cards[self.assistant]
        maps = (self.student_features + 1 + self.assistant_features + 1) * self.teacher_features
        # The classifier reads a sum that is half as wide as what goes into it.
        body = card.body_parameters + assistant.body_parameters + maps - self.teacher_features * self.classes
        scale = (card.image_size / assistant.image_size) ** 2
        return card.model_copy(
            update={
                "embedding": 2 * self.teacher_features,
                "head": "other",
                "body_parameters": body,
                "classifier_bias": True,
                "multiply_adds": card.multiply_adds + round(assistant.multiply_adds * scale),
                "smallest_image": max(card.smallest_image, assistant.smallest_image),
            }
        )


class ResidualKD(Method):
    """Residual KD: the student imitates the teacher's embedding and an assistant learns the rest; their sum is shipped.

    A reconstruction: no code was found and only the paper's abstract could be read. f_T is the teacher's embedding,
    f_S and f_A those of student and assistant after a trained linear map to its width. The paper works on feature
    maps and splits one given network into student and assistant, so that the cost stays; here both are architectures
    of the catalogue, and the shipped network's cost is that of the two together.
    """

    source: ClassVar[str] = (
        "Gao, Shen, Li, Loy: Residual Knowledge Distillation, 2020, https://arxiv.org/abs/2002.09168"
    )
    formula: ClassVar[str] = (
        "student_weight * mean |f_S - f_T|^2 + assistant_weight * mean |f_A - sg(f_T - f_S)|^2, "
        "with logits W (f_S + f_A) + b"
    )
    reconstruction: ClassVar[bool] = True
    wrapper_type: ClassVar[type[Wrapper] | None] = StudentAndAssistant
    refuses: ClassVar[str] = (
        "networks without a linear classifier on an embedding; an assistant that cannot read the data's images"
    )

    name: Literal["residual_kd"] = "residual_kd"
    assistant: str | None = None
    """Architecture of the assistant; null is the student's own."""
    student_weight: float = Field(default=1.0, ge=0, le=1000)
    """Weight of the student's term, a pure number."""
    assistant_weight: float = Field(default=1.0, ge=0, le=1000)
    """Weight of the assistant's term, a pure number."""

    def check(self, setup: Setup) -> None:
        assistant = setup.cards.get(self._assistant(setup))
        if assistant is None:
            raise MethodError(f"there is no architecture {self._assistant(setup)!r} for the assistant")
        for role, card in (("student", setup.student), ("assistant", assistant), ("teacher", setup.teacher)):
            if card is not None and card.head == "other":
                raise MethodError(
                    f"the {role} {card.architecture} has no linear classifier on an embedding, which is what is learned"
                )
        if setup.image_size < assistant.smallest_image:
            raise MethodError(
                f"the assistant {assistant.architecture} reads images of {assistant.smallest_image} pixels a side at "
                f"least; the data set's have {setup.image_size}"
            )

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT, "embedding"), Tap(TEACHER, "embedding")})

    def wrapper(self, setup: Setup) -> Wrapper | None:
        assert setup.teacher is not None, "the recipe's validation asks for a teacher where a method needs one"
        assistant = self._assistant(setup)
        return StudentAndAssistant(
            assistant=assistant,
            student_features=setup.student.embedding,
            assistant_features=setup.cards[assistant].embedding,
            teacher_features=setup.teacher.embedding,
            classes=setup.outputs,
        )

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`student` and `assistant`, means over images and features."""
        from torch.nn import functional as F

        both_ND, teacher_ND = batch.student().embedding, batch.teacher().embedding
        assert both_ND is not None
        assert teacher_ND is not None
        student_ND, assistant_ND = at_least_float32(both_ND).chunk(2, dim=1)
        teacher_ND = at_least_float32(teacher_ND)
        missing_ND = (teacher_ND - student_ND).detach()
        return {
            "student": self.student_weight * F.mse_loss(student_ND, teacher_ND),
            "assistant": self.assistant_weight * F.mse_loss(assistant_ND, missing_ND),
        }

    def _assistant(self, setup: Setup) -> str:
        return self.assistant or setup.student.architecture
