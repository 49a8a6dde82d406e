"""Classification: one class an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import sqrt
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from retort.architecture import Card
from retort.dataset import DataFacts, ImageClassFacts
from retort.task import Chance, Metric, ModelTrial, Score, TaskError
from retort.tasks._images import ImageTask
from retort.user_model import UserModel, class_order, class_sentence

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from retort.method import Batch
    from retort.network import Network
    from retort.tasks.classification.metrics import ClassificationMeter

FEWEST_CLASSES = 2
"""Below it there is nothing to distinguish."""
LARGEST_COLLAPSE_WIDTH = 4096
"""Features up to which the measures of neural collapse are taken: their pseudo-inverse is cubic in it."""


class ClassDescription(BaseModel):
    """The fields of `student.json` that describe a classifier's outputs."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    classes: int = Field(ge=1)
    class_names: tuple[str, ...]
    """Name of each class, in the order of the logits."""


def class_facts(facts: DataFacts) -> ImageClassFacts:
    """The facts of a data set with classes. Raises TypeError for others; a recipe's validation refuses them before."""
    if not isinstance(facts, ImageClassFacts):
        raise TypeError(f"facts of images with classes are wanted; found {type(facts).__name__}")
    return facts


class Classification(ImageTask):
    """Networks that give the class of an image, one of K."""

    name: ClassVar[str] = "classification"
    title: ClassVar[str] = "one class an image"
    facts_type: ClassVar[type[DataFacts]] = ImageClassFacts
    class_targets: ClassVar[bool] = True
    headline: ClassVar[Metric] = Metric("accuracy", lowest=0, highest=1)
    columns: ClassVar[tuple[str, ...]] = ("accuracy", "correct", "images", "agreement", "calibration_error")
    label_fields: ClassVar[frozenset[str]] = frozenset({"smoothing"})
    output_word: ClassVar[str] = "classes"
    description_type: ClassVar[type[BaseModel]] = ClassDescription

    def outputs(self, facts: DataFacts) -> int:
        return class_facts(facts).classes

    def data_problems(self, facts: DataFacts) -> Iterator[str]:
        classes = class_facts(facts).classes
        if classes < FEWEST_CLASSES:
            yield f"the data set has {classes} class; at least {FEWEST_CLASSES} are needed"

    def model_warnings(self, role: str, model: UserModel, facts: DataFacts) -> Iterator[str]:
        """The order of the classes, where the model has as many as the data."""
        found = class_facts(facts)
        if model.classes == found.classes:
            sentence = class_sentence(f"{role} ({model.id})", model.class_names, found.class_names)
            if sentence is not None:
                yield sentence

    def align(self, network: Network, record: UserModel, facts: DataFacts) -> None:
        """Put the classes into the data's order, where both have the same names."""
        from retort.tasks.classification.reordering import reorder

        order = class_order(record.class_names, class_facts(facts).class_names)
        if order is not None and order != tuple(range(len(order))):
            reorder(network, order)

    def describe(self, facts: DataFacts) -> dict[str, Any]:
        found = class_facts(facts)
        return ClassDescription(classes=found.classes, class_names=found.class_names).model_dump(mode="json")

    def described_outputs(self, description: BaseModel) -> int:
        assert isinstance(description, ClassDescription)
        if len(description.class_names) != description.classes:
            raise TaskError(
                f"the description has {description.classes} classes and {len(description.class_names)} class names"
            )
        return description.classes

    def label_terms(self, batch: Batch, labels: Mapping[str, Any]) -> dict[str, Tensor]:
        """`labels`: cross-entropy with the classes of the clean images."""
        from retort.method import at_least_float32
        from retort.tasks.classification.losses import cross_entropy

        logits = at_least_float32(batch.student().logits)
        return {"labels": cross_entropy(logits, batch, labels["smoothing"])}

    def meter(self, device: torch.device) -> ClassificationMeter:
        from retort.tasks.classification.metrics import ClassificationMeter

        return ClassificationMeter(device)

    def chance(self, targets: Tensor) -> Chance:
        """The accuracy of always guessing the most frequent class."""
        share = int(targets.bincount().max()) / len(targets)
        return Chance(share, "guessing the most frequent class", sqrt(share * (1 - share) / len(targets)))

    def compare(self, score: Score, other: Score) -> dict[str, float]:
        """`agreement`: share of images for which both networks guess the same class, in [0, 1]."""
        assert score.predictions is not None
        assert other.predictions is not None
        return {"agreement": float((score.predictions == other.predictions).double().mean())}

    def diagnoses(self, card: Card) -> bool:
        return 0 < card.embedding <= LARGEST_COLLAPSE_WIDTH

    def diagnose(
        self, network: Network, embeddings: Callable[[], Iterator[tuple[Tensor, Tensor]]], card: Card, facts: DataFacts
    ) -> dict[str, float]:
        """The measures of neural collapse; none for embeddings too wide for them."""
        from retort.tasks.classification.neural_collapse import neural_collapse

        return neural_collapse(network, embeddings(), class_facts(facts).classes) if self.diagnoses(card) else {}

    def check_model(self, trial: ModelTrial) -> tuple[dict[str, float], dict[str, Any]]:
        from retort.tasks.classification.model_check import check_classes

        return check_classes(trial, class_facts(trial.facts))
