"""The students of a recipe in training: wrapped, with their methods' modules and taps."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from retort import draws
from retort.architecture import Card
from retort.dataset import DataFacts
from retort.engine.interrupt import Impossible
from retort.engine.networks import build, freeze, placed, plain
from retort.engine.train_state import MethodState, TrainState
from retort.method import STUDENT, TEACHER, LiveSetup, Method, MethodError, NetworkSpec, Phase, TeacherPass, Wrapper
from retort.network import Network
from retort.recipe import Constant, Student, Training
from retort.task import Task
from retort.validation import label_weight


@dataclass
class StudentFactory:
    """Makes the students of a run, and the further networks that their methods ask for."""

    task: Task
    facts: DataFacts
    training: Training
    device: torch.device
    teacher: Network | None
    teacher_card: Card | None
    targets: Tensor
    """(M, ...) targets of all training examples, on the CPU."""
    teacher_pass: TeacherPass
    cards: Mapping[str, Card]
    frozen: dict[NetworkSpec, Network] = field(default_factory=dict)
    """Teacher and further networks by the specs under which methods read them."""
    shared: dict[Hashable, Any] = field(default_factory=dict)
    """Everything that methods make once a job, by key."""

    def __post_init__(self) -> None:
        if self.teacher is not None:
            self.frozen[TEACHER] = self.teacher

    def setup(self, card: Card, network: Network) -> LiveSetup:
        return LiveSetup(
            facts=self.facts,
            outputs=self.task.outputs(self.facts),
            student=card,
            teacher=self.teacher_card,
            batch_size=self.training.batch_size,
            epochs=self.training.epochs,
            cards=self.cards,
            targets=self.targets,
            student_network=network,
            teacher_network=self.teacher,
            teacher_pass=self.teacher_pass,
            rebuild_teacher=self._rebuild_teacher,
            build_network=self._build_network,
            shared=self.shared,
        )

    def _build_network(self, architecture: str, outputs: int) -> Network:
        assert outputs == self.task.outputs(self.facts), "further networks have the outputs of the data"
        return build(self.task, architecture, self.facts)

    def _rebuild_teacher(self) -> Network:
        assert self.teacher is not None, "the recipe's validation asks for a teacher where a method needs one"
        return plain(self.teacher.copy())


@dataclass
class StudentState:
    """A student in training, and the objects that it was made of."""

    student: Student
    train_state: TrainState
    setup: LiveSetup
    wrapper: tuple[str, Wrapper] | None
    """Name of the method that wrapped the network, and the wrapper; `student.json` holds both."""

    def phases(self) -> Iterator[tuple[MethodState, Phase]]:
        """The phases of its methods before the shared loop, in order."""
        for method_state in self.train_state.method_states:
            for phase in method_state.method.phases(self.setup):
                yield method_state, phase


def make_student_state(student: Student, network: Network, card: Card, factory: StudentFactory) -> StudentState:
    """Wrap the network, make the methods' modules and further networks, and an optimizer over all of it.

    The recipe has been validated: every method's `check` has passed on the cards. Raises Impossible for faults that
    only the data or the networks themselves show.
    """
    try:
        wrapper, card = _wrap(student.methods, student.seed, network, card, factory)
        setup = factory.setup(card, network)
        method_states = [
            MethodState(method, _modules(method, student.seed, setup, factory.device)) for method in student.methods
        ]
        for method in student.methods:
            for spec in sorted(_networks(method, setup) - factory.frozen.keys(), key=repr):
                factory.frozen[spec] = _further(spec, setup, factory)
    except MethodError as error:
        raise Impossible(f"student {student.name!r}: {error}") from error
    taps = frozenset(tap for method in student.methods for tap in method.taps(setup))
    chooser = next((method for method in student.methods if method.chooses_images), None)
    train_state = TrainState(
        student.name,
        student.seed,
        placed(network, factory.device),
        factory.training,
        factory.task,
        label_weight=label_weight(student),
        labels=student.labels,
        method_states=method_states,
        taps=taps,
        examples=tuple(chooser.images_in_epoch(epoch, setup) for epoch in range(setup.epochs)) if chooser else None,
    )
    return StudentState(student, train_state, setup, wrapper)


def phase_train_state(
    student_state: StudentState, method_state: MethodState, phase: Phase, factory: StudentFactory
) -> tuple[TrainState, Training]:
    """A network and modules under a method's own phase, with an optimizer of their own."""
    optimizer = factory.training.optimizer
    if phase.learning_rate is not None:
        optimizer = optimizer.model_copy(update={"learning_rate": phase.learning_rate})
    changes = {"epochs": phase.epochs, "warmup_epochs": 0, "schedule": Constant(), "optimizer": optimizer}
    training = factory.training.model_copy(update=changes)
    main = student_state.train_state
    network = main.network if phase.trains in (None, STUDENT) else factory.frozen[phase.trains].requires_grad_(True)
    return TrainState(
        main.name,
        main.seed,
        network,
        training,
        factory.task,
        method_states=[method_state],
        taps=phase.taps,
        phase=phase,
    ), training


def _wrap(
    methods: tuple[Method, ...], seed: int, network: Network, card: Card, factory: StudentFactory
) -> tuple[tuple[str, Wrapper] | None, Card]:
    setup = factory.setup(card, network)
    for method in methods:
        wrapper = method.wrapper(setup)
        if wrapper is not None:
            with draws.seeded(seed, "wrap", method.name):
                method.wrap(network, wrapper, setup)
            return (method.name, wrapper), wrapper.card(card, factory.cards)
    return None, card


def _modules(method: Method, seed: int, setup: LiveSetup, device: torch.device) -> nn.Module | None:
    with draws.seeded(seed, "modules", method.name):
        modules = method.modules(setup)
    if modules is None:
        return None
    return modules.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload, no-any-return]


def _further(spec: NetworkSpec, setup: LiveSetup, factory: StudentFactory) -> Network:
    with draws.seeded(factory.training.data_seed, "further network", repr(spec)):
        network = spec.build(setup)
    return freeze(placed(network, factory.device), batch_statistics=spec.batch_statistics)


def _networks(method: Method, setup: LiveSetup) -> frozenset[NetworkSpec]:
    """The further networks that a method reads, in the shared loop or in a phase."""
    in_phases = (tap.network for phase in method.phases(setup) for tap in phase.taps)
    return method.networks(setup) | frozenset(in_phases) - {STUDENT, TEACHER}
