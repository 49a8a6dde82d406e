"""A network that is being trained, with all that belongs to it alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn

from retort.engine.checkpoint import State
from retort.engine.learning import LearningWatch
from retort.engine.optimize import averaged, load_optimizer, make_optimizer, take_step
from retort.engine.term_sums import TermSums
from retort.method import STUDENT, Batch, Choice, Method, NetworkSpec, Phase, Tap
from retort.network import Network
from retort.outputs import Read
from retort.recipe import Labels, Training
from retort.task import Task
from retort.view import CLEAN, View

Terms = Callable[[Batch], dict[str, Tensor]]


@dataclass
class MethodState:
    """A method of a student, and its modules."""

    method: Method
    modules: nn.Module | None


@dataclass
class BestEpoch:
    """The epoch with the best headline metric on the validation split so far, the first of equals."""

    epoch: int = 0
    value: float | None = None
    """Null before the first evaluation."""
    weights: dict[str, Tensor] = field(default_factory=dict)


def snapshot(network: Network) -> dict[str, Tensor]:
    """The network's weights as they are now; `state_dict()` alone would change with them."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


NO_SMOOTHING = Labels()


class TrainState:
    """A network in training: its objectives, its optimizer, its best epoch so far, and the sums of its terms."""

    def __init__(
        self,
        name: str,
        seed: int,
        network: Network,
        training: Training,
        task: Task,
        *,
        label_weight: float = 1.0,
        labels: Labels = NO_SMOOTHING,
        method_states: Iterable[MethodState] = (),
        taps: frozenset[Tap] = frozenset(),
        phase: Phase | None = None,
        examples: tuple[int, ...] | None = None,
    ) -> None:
        self.name = name
        self.seed = seed
        self.network = network
        self.method_states = list(method_states)
        self.taps = taps
        self.label_weight = label_weight
        self.task = task
        self.labels = labels.model_dump()
        self.phase = phase
        """A method's own phase that is trained now, instead of the labels and all methods' terms."""
        self.examples = examples
        """Number of training examples that each epoch sees; None where each sees all of them."""
        self.spec: NetworkSpec = (phase.trains if phase is not None else None) or STUDENT
        """The spec under which a batch holds the network's outputs."""
        trained = network.parameters() if phase is None or phase.trains is not None else ()
        methods = [(method_state.method, method_state.modules) for method_state in self.method_states]
        self.optimizer = make_optimizer(training, trained, methods)
        self.clip_norm = training.clip_gradient_norm
        averages = training.weight_average is not None and phase is None
        self.average = averaged(network, training) if averages else None
        self.best = BestEpoch()
        self.term_sums = TermSums()
        self.watch = LearningWatch(name, self.optimizer)
        self.lost: str | None = None
        """The sentence on a number that was not finite: it is not trained any further, nor shipped."""

    @property
    def evaluated(self) -> Network:
        """The network that is evaluated and shipped: the average of its weights, if one is taken."""
        if self.average is None:
            return self.network
        network = self.average.module
        assert isinstance(network, Network)
        return network

    def step(self, factor: float) -> None:
        """Move the weights along their gradients, at that share of the learning rate."""
        self.watch.before_step(self.term_sums.latest)
        take_step(self.optimizer, factor, self.clip_norm)
        self.term_sums.steps += 1
        if self.average is not None:
            self.average.update_parameters(self.network)

    def reads(self) -> dict[View, set[Read]]:
        """Readings of its own outputs that it needs in a step, by view."""
        reads: dict[View, set[Read]] = defaultdict(set)
        if self.label_weight and self.phase is None:
            reads[CLEAN].add("logits")
        # In one order in every run and process: batch norm follows the views one after the other.
        for tap in sorted(self.taps, key=repr):
            if tap.network == self.spec:
                reads[tap.view].add(tap.reads)
        return reads

    def begin_epoch(self, epoch: int) -> None:
        """Let the methods change their buffers before the first step of an epoch."""
        for method_state in self.method_states if self.phase is None else ():
            method_state.method.begin_epoch(epoch, method_state.modules)

    def choose(self, epoch: int) -> Choice | None:
        """The training examples of an epoch; None is all of them."""
        method_state = self._chooser()
        return method_state.method.choose(epoch, method_state.modules) if method_state else None

    def _chooser(self) -> MethodState | None:
        return next(
            (
                method_state
                for method_state in self.method_states
                if method_state.method.chooses_images and self.phase is None
            ),
            None,
        )

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """All terms of the loss by name: the labels' and each method's, or those of the phase."""
        if self.phase is not None:
            (method_state,) = self.method_states
            return {
                f"{method_state.method.name}.{name}": term
                for name, term in self.phase.terms(batch, method_state.modules).items()
            }
        terms = {}
        if self.label_weight:
            for name, term in self.task.label_terms(batch, self.labels).items():
                terms[name] = self.label_weight * term
        for method_state in self.method_states:
            for name, term in method_state.method.terms(batch, method_state.modules).items():
                terms[f"{method_state.method.name}.{name}"] = term
        return terms

    def update(self, batch: Batch, *, first: bool) -> None:
        """Let the methods change their buffers, those that do so before their terms or the others."""
        for method_state in self.method_states:
            if self.phase is None and method_state.method.updates_first == first:
                method_state.method.update(batch, method_state.modules)

    def keep_if_best(self, epoch: int, value: float) -> None:
        """Keep the weights when this epoch's headline metric is better than all before."""
        if self.best.value is None or self.task.headline.better(value, self.best.value):
            self.best = BestEpoch(epoch, value, snapshot(self.evaluated))

    def state(self) -> State:
        """All that resuming needs."""
        return {
            "network": self.network.state_dict(),
            "modules": [
                method_state.modules.state_dict() if method_state.modules else {} for method_state in self.method_states
            ],
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "best": {"epoch": self.best.epoch, "value": self.best.value, "weights": self.best.weights},
            "term_sums": self.term_sums.state(),
            "watch": self.watch.state(),
            "lost": self.lost,
        }

    def load(self, state: State) -> None:
        self.network.load_state_dict(state["network"])
        for method_state, saved in zip(self.method_states, state["modules"], strict=True):
            if method_state.modules is not None:
                method_state.modules.load_state_dict(saved)
        load_optimizer(self.optimizer, state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best = BestEpoch(**state["best"])
        self.term_sums.load(state["term_sums"])
        if "watch" in state:  # not in checkpoints of versions 0.1 and 0.2
            self.watch.load(state["watch"])
            self.lost = state["lost"]
