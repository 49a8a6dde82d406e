"""Tasks: what networks learn to do, and all that depends on it. Imports no torch.

A task is a registry entry: a file, or a folder where it is large, in `retort/tasks/`. The engine knows no task by
name; the recipe's task gives it the facts of its data, the readings of its networks, its label terms and metrics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel

from retort.dataset import DataFacts
from retort.outputs import READS, Outputs, Read
from retort.view import View, ViewBatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from retort.architecture import Architecture, Card
    from retort.augmentation import Augmentation
    from retort.draws import DrawPoint
    from retort.method import Batch
    from retort.network import Network
    from retort.user_model import UserModel


class TaskError(ValueError):
    """The data, a network and the task do not fit together; the sentence gives the reason."""


@dataclass(frozen=True)
class Metric:
    """A measure of how good a network is."""

    name: str
    """Its name in scores and events, without the split."""
    more_is_better: bool = True
    lowest: float | None = None
    """The least value that it can take; None without a bound."""
    highest: float | None = None
    """The greatest value that it can take; None without a bound."""

    def better(self, new: float, old: float) -> bool:
        """Whether a value is better than another; equals are not."""
        return new > old if self.more_is_better else new < old

    @property
    def worst(self) -> float:
        """A value that every score is better than."""
        return float("-inf") if self.more_is_better else float("inf")


@dataclass(frozen=True)
class Chance:
    """The headline metric of a guess that is made without a look at the inputs."""

    value: float
    guess: str
    """That guess in words, as the subject of a sentence."""
    error: float = 0.0
    """Standard error of the metric on a split of that size."""


@dataclass(frozen=True)
class Score:
    """The metrics of one network on one split."""

    metrics: Mapping[str, float]
    """Each metric's value by its name, the headline metric among them. Finite where the network's outputs are: a value
    that is not ends the training."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Larger findings for the report, as JSON, by name."""
    predictions: Tensor | None = field(default=None, repr=False, compare=False)
    """(N, ...) the predictions in the split's order, on the CPU, to compare networks by."""

    def values(self, split: str) -> dict[str, float]:
        """The metrics as an event's values, each named `<split>.<metric>`."""
        return {f"{split}.{name}": value for name, value in self.metrics.items()}


class Gatherer(Protocol):
    """Puts together what several processes found in their shares of a split, or returns it as it is for one."""

    def gather(self, share: Tensor, count: int) -> Tensor:
        """All shares of `count` rows, in order."""
        ...

    def total(self, share: Tensor, count: int) -> Tensor:
        """The sum of all shares' values."""
        ...


class Meter(Protocol):
    """Measures a network batch by batch; nothing is fetched from the device before the result."""

    def reset(self) -> None:
        """Forget all batches."""
        ...

    def add(self, outputs: Outputs, targets: Tensor) -> None:
        """Take the outputs and targets of a batch, both on the device."""
        ...

    def result(self, targets: Tensor, group: Gatherer) -> Score:
        """The score over a split with these (M, ...) targets, of which this process saw its share."""
        ...


@dataclass(frozen=True)
class ModelTrial:
    """A user model on labelled examples, as the check of a model hands it to the task."""

    network: Network
    record: UserModel
    facts: DataFacts
    positions: Tensor
    """(N,) int64 positions of the examples in the validation split."""
    predict: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Gives (N, K) float32 logits and (N, ...) targets of the examples at some positions, on the CPU."""
    place: Callable[[], object]
    """Moves the network to its device again after its input was changed."""
    sentences: list[str]
    """Sentences for people about what seems wrong; the task appends its own."""


class Task(ABC):
    """Base of every task. A subclass stands in retort/tasks/ and bears the name of its file or folder."""

    name: ClassVar[str]
    title: ClassVar[str]
    """A few words for people."""
    facts_type: ClassVar[type[DataFacts]]
    """The facts that it needs of a data set."""
    reads: ClassVar[frozenset[Read]]
    """All that methods may read of its networks. A method serves the task if it reads no more."""
    class_targets: ClassVar[bool]
    """Whether a target is one class index: methods that read labels need that."""
    headline: ClassVar[Metric]
    """The metric by which the best epoch is chosen."""
    columns: ClassVar[tuple[str, ...]]
    """Names of the metrics that tables show, the headline metric first."""
    label_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields of a recipe's `labels`, besides `weight`, that mean something here."""
    output_word: ClassVar[str] = "outputs"
    """Plural word for the outputs of a network's head in sentences."""
    description_type: ClassVar[type[BaseModel]]
    """Further fields of `student.json` that this task fills in and reads."""

    @abstractmethod
    def outputs(self, facts: DataFacts) -> int:
        """K, the number of outputs that a network's head has for such data."""

    # Recipes

    def data_problems(self, facts: DataFacts) -> Iterator[str]:
        """Reasons why networks cannot learn from such data, a sentence each."""
        yield from ()

    def network_problems(self, facts: DataFacts, card: Card) -> Iterator[str]:
        """Reasons why a network of that card cannot read such data, a sentence each."""
        yield from ()

    def model_warnings(self, role: str, model: UserModel, facts: DataFacts) -> Iterator[str]:
        """Sentences about what is odd about a user model for such data; `role` names it in them."""
        yield from ()

    def teacher_warnings(self, size: int, facts: DataFacts) -> Iterator[str]:
        """Sentences about what is odd about such data for a teacher that came trained on inputs of that size."""
        yield from ()

    def random_start_warnings(self, networks: str, facts: DataFacts) -> Iterator[str]:
        """Sentences about what is odd about networks, named in words, that start from random weights on such data."""
        yield from ()

    def augmentation_warnings(self, pointer: str, augmentation: Augmentation, facts: DataFacts) -> Iterator[str]:
        """Sentences about what is odd about the augmentation of such data, the recipe's field at `pointer`."""
        yield from ()

    def input_size(self, facts: DataFacts) -> int:
        """Side of the images that a network gets unless it has a size of its own, in pixels; 0 for other inputs."""
        return 0

    # Networks

    @abstractmethod
    def build(self, family: Architecture, architecture: str, facts: DataFacts) -> Network:
        """A freshly initialised network (torch's global generator) for such data.

        Raises LookupError, in one sentence, when the installed library lacks the architecture.
        """

    def align(self, network: Network, record: UserModel, facts: DataFacts) -> None:  # noqa: B027 - most do nothing
        """Put a user model's outputs into the data's order, in place. Raises TaskError where that cannot be done."""

    @abstractmethod
    def sample(self, facts: DataFacts, count: int, seed: int) -> Tensor:
        """Random inputs such as networks read, (count, ...) float32 on the CPU, to compare networks by."""

    # Description

    @abstractmethod
    def describe(self, facts: DataFacts) -> dict[str, Any]:
        """The values of `description_type`'s fields for networks of such data, as JSON."""

    @abstractmethod
    def described_outputs(self, description: BaseModel) -> int:
        """K of a network that is described so. Raises TaskError, in one sentence, where the description is at odds."""

    # Training

    @abstractmethod
    def make_views(
        self, inputs: Tensor, views: Iterable[View], augmentation: Augmentation, facts: DataFacts, point: DrawPoint
    ) -> dict[View, ViewBatch]:
        """The views of a batch of raw inputs, on their device."""

    @abstractmethod
    def blend(self, inputs: Tensor, others: Tensor, weights: Tensor) -> Tensor:
        """Raw inputs mixed with others, of which (N,) float64 weights in [0, 1] are the shares of the first."""

    @abstractmethod
    def label_terms(self, batch: Batch, labels: Mapping[str, Any]) -> dict[str, Tensor]:
        """Named scalar terms of the targets, unweighted means over the batch; `labels` are the recipe's fields."""

    # Evaluation

    @abstractmethod
    def plain_inputs(self, inputs: Tensor) -> Tensor:
        """Raw inputs as networks read them in evaluation, without augmentation."""

    @abstractmethod
    def meter(self, device: torch.device) -> Meter:
        """A meter of this task's metrics."""

    def chance(self, targets: Tensor) -> Chance | None:
        """Chance on a split with these (M, ...) targets; None for a task that has none."""
        return None

    def compare(self, score: Score, other: Score) -> dict[str, float]:
        """Metrics of how alike two networks are on the same split, by name."""
        return {}

    def diagnose(
        self, network: Network, embeddings: Callable[[], Iterator[tuple[Tensor, Tensor]]], card: Card, facts: DataFacts
    ) -> dict[str, float]:
        """Diagnostics of a trained network, by name; `embeddings` gives the training split's, batch by batch, with
        their targets."""
        return {}

    def diagnoses(self, card: Card) -> bool:
        """Whether `diagnose` looks at the training split for a network of that card."""
        return False

    def check_model(self, trial: ModelTrial) -> tuple[dict[str, float], dict[str, Any]]:
        """Try a user model on labelled examples: its metrics by name, and what the check's report holds besides.

        Raises TaskError where it does not fit the data.
        """
        raise TaskError(f"a check on labelled data is not offered for {self.name}")

    # Methods

    def missing_reads(self, reads: Iterable[Read]) -> list[str]:
        """The readings among these that its networks do not offer, in words, in a fixed order."""
        wanted = set(reads) - self.reads
        return [READS[read] for read in READS if read in wanted]
