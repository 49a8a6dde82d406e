"""Methods: frozen hyper-parameters, the taps that are read, and a formula over a batch.

Imports no torch, so that the API can read every method's fields. The legend of shapes stands in `retort.outputs`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast

from pydantic import ConfigDict

from retort.outputs import READS, Outputs, Read
from retort.spec import Spec
from retort.view import CLEAN, Mixing, View

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.architecture import Card
    from retort.dataset import DataFacts
    from retort.network import Network

Made = TypeVar("Made")


class MethodError(ValueError):
    """The recipe is well formed, but this teacher, student, data set and method do not fit together."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half-precision tensors as float32, wider ones as they are: the precision of a loss."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


LARGEST_FLOAT16 = 65504.0


def top_logits(logits: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest of each row of (N, K) logits, and the mean of the others.

    Returns (N, top) float16 values, (N, top) int64 classes, and (N, 1) float16, the mean of the others.
    """
    logits = logits.float()
    values, classes = logits.topk(top, dim=1)
    rest = logits.scatter(1, classes, 0.0).sum(1, keepdim=True) / (logits.shape[1] - top)
    values, rest = (each.clamp(-LARGEST_FLOAT16, LARGEST_FLOAT16).half() for each in (values, rest))
    return values, classes, rest


def from_top(values: Tensor, classes: Tensor, rest: Tensor, count: int) -> Tensor:
    """(N, K) float32 logits of K classes from the results of `top_logits`, which gives the same for them again."""
    return rest.float().expand(-1, count).scatter(1, classes, values.float())


@dataclass(frozen=True)
class NetworkSpec:
    """A network that a method reads: the student, the teacher, or a further one of the method."""

    def build(self, setup: LiveSetup) -> Network:
        """Make a further network, on the CPU. Equal specs of several methods are built once.

        It is frozen, but for a phase that trains it.
        """
        raise TypeError(f"{type(self).__name__} is not built by a method")

    @property
    def batch_statistics(self) -> bool:
        """Whether batch norm uses the batch's statistics instead of the running ones, which stay as they are."""
        return False


@dataclass(frozen=True)
class TeacherNetwork(NetworkSpec):
    """The recipe's teacher, frozen, in eval mode."""


@dataclass(frozen=True)
class StudentNetwork(NetworkSpec):
    """The student that is trained, with its wrap where a method gives one."""


TEACHER = TeacherNetwork()
STUDENT = StudentNetwork()


def _words(name: str) -> str:
    """`PrunedTeacher` to `pruned teacher`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


@dataclass(frozen=True)
class Tap:
    """One thing that a method reads: a tensor of a network on a view. Equal taps are computed once."""

    network: NetworkSpec
    reads: Read = "logits"
    view: View = CLEAN
    top: int | None = None
    """Number of each image's largest logits that matter, the others by their mean alone; None is all of them. The
    method itself applies `top_logits`; the teacher cache then stores no more than that."""

    def described(self) -> str:
        """In words: `teacher: stage maps`."""
        network = _words(type(self.network).__name__.removesuffix("Network"))
        view = f" on a {_words(type(self.view).__name__)} view" if self.view != CLEAN else ""
        return f"{network}: {READS[self.reads]}{view}"


@dataclass(frozen=True)
class Batch:
    """All that a method may look at in one step."""

    outputs: Mapping[tuple[NetworkSpec, View], Outputs]
    targets: Tensor
    """(N, ...) targets as the task gives them; (N,) int64 class indices in [0, K) where they are classes."""
    indices: Tensor
    """(N,) int64 positions in the training split."""
    step: Tensor
    """0-d int64, optimizer steps done so far in this phase."""
    epoch: Tensor
    """0-d int64, epochs done so far in this phase: 0 in the first one."""
    progress: Tensor
    """0-d float32, share of this phase that is done, in [0, 1)."""
    key: Tensor
    """0-d int64, from which `retort.draws` makes this step's draws of this student."""
    mixed: Mapping[View, Mixing] = field(default_factory=dict)
    """For views that mix two images, how."""

    def student(self, view: View = CLEAN) -> Outputs:
        return self.outputs[STUDENT, view]

    def teacher(self, view: View = CLEAN) -> Outputs:
        return self.outputs[TEACHER, view]


@dataclass(frozen=True)
class Setup:
    """Facts of a job that are known before anything is built."""

    facts: DataFacts
    outputs: int
    """K, the outputs of every network's head: the classes of a classifier."""
    student: Card
    """The student's card; once a wrap stands, the wrapped one's."""
    teacher: Card | None
    """None for a recipe without a teacher."""
    batch_size: int
    epochs: int
    cards: Mapping[str, Card]
    """Every card that is known, by architecture."""

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the classes, where the targets are classes; empty elsewhere."""
        return getattr(self.facts, "class_names", ())

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels; 0 where the examples are not images."""
        return getattr(self.facts, "image_size", 0)


class TeacherPass(Protocol):
    """Runs the teacher over training images, unaugmented and in eval mode."""

    def __call__(self, *reads: Read, positions: Tensor | None = None) -> Iterator[tuple[Outputs, Tensor, Tensor]]:
        """(outputs with what is read, (N,) labels, (N,) positions) a batch, on the device; all images by default."""
        ...


@dataclass(frozen=True)
class LiveSetup(Setup):
    """The same in the engine, before the first step, with the networks and the data at hand."""

    student_network: Network
    teacher_network: Network | None
    targets: Tensor
    """(M, ...) targets of all training examples, by position, on the CPU."""
    teacher_pass: TeacherPass
    rebuild_teacher: Callable[[], Network]
    """Another copy of the teacher with the same weights, on the CPU, for a network derived from it."""
    build_network: BuildNetwork
    """A freshly initialised network for the data's classes and images, on the CPU."""
    shared: dict[Hashable, Any]
    """Everything that `once` has made so far, shared by all students of the job."""

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Make something that several students' methods need, once a job."""
        if key not in self.shared:
            self.shared[key] = make()
        return cast(Made, self.shared[key])


BuildNetwork = Callable[[str, int], "Network"]
"""Makes a freshly initialised network of an architecture for a number of classes, on the CPU."""


class Wrapper(Spec):
    """A method's change to the network that is trained, evaluated and shipped, in fields from which it is built again.

    `student.json` holds the method's name and these fields; no teacher is needed to build it.
    """

    @abstractmethod
    def build(self, network: Network, build_network: BuildNetwork) -> None:
        """Change the network in place; all but the weights must come from the fields alone."""

    @abstractmethod
    def card(self, card: Card, cards: Mapping[str, Card]) -> Card:
        """The card of the wrapped network: its embedding's width, its head, its numbers to store."""


@dataclass(frozen=True)
class Phase:
    """Something a method trains before the shared loop, with an optimizer of its own and a constant learning rate.

    All terms of `terms(batch, modules)` are minimised over the parameters of one network and of the modules.
    """

    name: str
    """Shown as the job's phase, `<method> <name>`."""
    epochs: int
    taps: frozenset[Tap]
    """The taps that its terms read."""
    terms: Callable[[Batch, nn.Module | None], dict[str, Tensor]]
    trains: NetworkSpec | None = STUDENT
    """The network that is trained besides the modules. A further network is trained once for all students that ask
    for an equal one; its taps then bear its own spec."""
    learning_rate: float | None = None
    """None takes the recipe's."""


@dataclass(frozen=True)
class Choice:
    """The training images of one epoch."""

    positions: Tensor
    """(M,) int64 positions in the training split, each at most once."""
    partner: Tensor | None = None
    """(M,) int64 position of the training image that each is blended with, or None where none is."""
    weight: Tensor | None = None
    """(M,) float64 share of the image itself in the blend, in [0, 1]; 1 leaves it as it is."""


def _name_is_required(schema: dict[str, Any]) -> None:
    """Require `name` in the JSON schema, as validation does: it discriminates the union."""
    schema["required"] = sorted({"name", *schema.get("required", [])})


class Method(Spec):
    """Base of every distillation objective. A subclass is one file in retort/methods/ and names itself by `name`.

    A method holds no cross-entropy on the clean images: the recipe's `labels.weight` does. Arithmetic is float32
    at least. Shapes are fixed, so that a step can be compiled: masks over K classes, no `unique()`.
    """

    model_config = ConfigDict(json_schema_extra=_name_is_required)

    name: str
    source: ClassVar[str]
    """Source of the formula: authors, title, year, equation, link."""
    formula: ClassVar[str]
    """One line, as the paper writes it."""
    reconstruction: ClassVar[bool] = False
    """True when the formula could not be read in the paper or its code and is our own best reading."""
    label_weight: ClassVar[float | None] = None
    """The published weight of cross-entropy beside this method; None where none was published."""
    needs_teacher: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = False
    """True when a term is not a mean over examples, so that a smaller batch changes its value."""
    reads_labels: ClassVar[bool] = False
    """True when it reads labels or positions of images, of which a mixed image has two: it sees the larger share's."""
    updates_first: ClassVar[bool] = False
    """Whether `update` runs before `terms` in a step; otherwise it runs after the optimizer."""
    wrapper_type: ClassVar[type[Wrapper] | None] = None
    """The class of `wrapper`'s result, to build a shipped student again."""
    refuses: ClassVar[str] = ""
    """The refusals of `check`, in a few words; empty where it refuses nothing."""
    with_two_classes: ClassVar[str] = ""
    """A clause on the terms that two classes leave without a gradient; empty where there is none."""
    chooses_images: ClassVar[bool] = False
    """Whether the method chooses the training images of an epoch; such a student has a pass over the data of its
    own. One a student at most."""

    def check(self, setup: Setup) -> None:
        """Raise MethodError, in one sentence, if this method cannot serve that pair and data; reads cards alone."""

    @property
    def smallest_map(self) -> int:
        """Side, in positions, of the smallest last map from which a method that reads maps has something to teach."""
        return 2

    @abstractmethod
    def taps(self, setup: Setup) -> frozenset[Tap]:
        """Everything that this method reads; the engine computes no more than that."""

    def needs(self, setup: Setup) -> tuple[str, ...]:
        """Everything that it reads, trains and changes for such a pair, in words, as catalogues show it."""
        phases = self.phases(setup)
        found = {tap.described() for tap in self.taps(setup).union(*(phase.taps for phase in phases))}
        found |= {f"{phase.epochs} epochs before the loop ({phase.name})" for phase in phases}
        if self.chooses_images:
            found.add("a pass over the data of its own, since it chooses the images of each epoch")
        if self.wrapper_type is not None and self.wrapper(setup) is not None:
            found.add("a changed student, which is what is shipped")
        return tuple(sorted(found))

    def views(self, setup: Setup) -> frozenset[View]:
        """The copies of an image that this method reads."""
        return frozenset(tap.view for tap in self.taps(setup))

    def networks(self, setup: Setup) -> frozenset[NetworkSpec]:
        """The networks besides teacher and student that this method reads."""
        return frozenset(tap.network for tap in self.taps(setup)) - {TEACHER, STUDENT}

    def wrapper(self, setup: Setup) -> Wrapper | None:
        """The method's change to the student's network, or None; reads cards alone. One a student at most."""
        return None

    def wrap(self, network: Network, wrapper: Wrapper, setup: LiveSetup) -> None:
        """Apply the wrapper, then fill in its tensors of the teacher. Before optimizer and averaging are made."""
        wrapper.build(network, setup.build_network)

    def modules(self, setup: LiveSetup) -> nn.Module | None:
        """Modules of the terms: parameters are trained with the student and thrown away, buffers checkpointed."""
        return None

    def parameter_groups(self, modules: nn.Module) -> list[dict[str, Any]]:
        """Parameters of the modules with their `learning_rate_factor` and `weight_decay_factor`."""
        return [{"params": [p for p in modules.parameters() if p.requires_grad]}]

    def phases(self, setup: Setup) -> tuple[Phase, ...]:
        """The phases before the shared loop, in order."""
        return ()

    def images_in_epoch(self, epoch: int, setup: Setup) -> int:
        """Number of training images that an epoch of the shared loop sees, the first epoch being 0."""
        return setup.facts.train

    def begin_epoch(self, epoch: int, modules: nn.Module | None) -> None:
        """Change buffers of the modules in place before the first step of an epoch of the shared loop."""

    def choose(self, epoch: int, modules: nn.Module | None) -> Choice | None:
        """The training images of an epoch, as `begin_epoch` left them in the buffers; None is all of them."""
        return None

    @abstractmethod
    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """Named scalar terms, already weighted; the engine minimises their sum and logs each. No side effects."""

    def update(self, batch: Batch, modules: nn.Module | None) -> None:
        """Change buffers of the modules in place, once an optimizer step, without gradient."""
