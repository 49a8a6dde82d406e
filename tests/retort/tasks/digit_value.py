"""The value of a digit: a number an image. Not installed: a test drops this file into a copy of retort/tasks/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from retort.dataset import ImageClassFacts
from retort.outputs import Outputs, Read
from retort.task import Gatherer, Meter, Metric, Score
from retort.tasks._images import ImageTask

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from retort.method import Batch


class ValueDescription(BaseModel):
    """The field of `student.json` that tells what the number means."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    unit: str


class ErrorMeter:
    """Measures `squared_error`, the mean over images, and `images`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        self._values: list[Tensor] = []

    def add(self, outputs: Outputs, targets: Tensor) -> None:
        self._values.append(outputs.logits[:, 0].float())

    def result(self, targets: Tensor, group: Gatherer) -> Score:
        import torch

        values_N = group.gather(torch.cat(self._values), len(targets)).cpu()
        error = (values_N.double() - targets.cpu().double()).square().mean()
        return Score({"squared_error": float(error), "images": len(targets)}, {}, values_N)


class DigitValue(ImageTask):
    """Networks that read the value of a digit as a number."""

    name: ClassVar[str] = "digit_value"
    title: ClassVar[str] = "one number an image"
    facts_type: ClassVar[type[ImageClassFacts]] = ImageClassFacts
    reads: ClassVar[frozenset[Read]] = frozenset({"embedding", "maps", "preactivations"})
    class_targets: ClassVar[bool] = False
    headline: ClassVar[Metric] = Metric("squared_error", more_is_better=False, lowest=0)
    columns: ClassVar[tuple[str, ...]] = ("squared_error", "images")
    description_type: ClassVar[type[BaseModel]] = ValueDescription

    def outputs(self, facts: ImageClassFacts) -> int:
        return 1

    def describe(self, facts: ImageClassFacts) -> dict[str, Any]:
        return {"unit": "digit"}

    def described_outputs(self, description: BaseModel) -> int:
        return 1

    def label_terms(self, batch: Batch, labels: Mapping[str, Any]) -> dict[str, Tensor]:
        from torch.nn import functional as F

        return {"squared_error": F.mse_loss(batch.student().logits[:, 0].float(), batch.targets.float())}

    def meter(self, device: torch.device) -> Meter:
        return ErrorMeter(device)
