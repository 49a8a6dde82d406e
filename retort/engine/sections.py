"""Sections: stretches of the training that a checkpoint names, trained one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from retort.engine import networks
from retort.engine.checkpoint import State
from retort.engine.context import STUDENTS, RunContext
from retort.engine.epoch_plan import TrainingExtent
from retort.engine.interrupt import NOT_TRAINED, Diverged, NothingToKeep
from retort.engine.students import StudentFactory, StudentState, phase_train_state
from retort.engine.train_state import MethodState, TrainState
from retort.engine.trainer import Trainer, epoch_plan_of
from retort.method import STUDENT, NetworkSpec, Phase
from retort.network import Network
from retort.recipe import Recipe, Training
from retort.validation import sharing_groups

TEACHING = "teaching"
"""The section, and the phase, in which the teacher is taught."""
DISTILLING = "distilling"
"""The phase of the sections in which students are trained on all their terms."""


class SectionRunner(Protocol):
    """Trains the sections of a run."""

    teacher_state: State | None
    """The teacher's last and best weights, once it was taught."""
    saved: State | None
    """The checkpoint that the run goes on from, until the section that it names has been begun."""

    def train(
        self,
        section: str,
        train_states: list[TrainState],
        training: Training,
        frozen: dict[NetworkSpec, Network],
        rest: Callable[[], State] = dict,
        *,
        evaluates: bool = True,
        in_loop: bool = False,
    ) -> TrainingExtent:
        """Train to the end, and return the extent. `rest` gives the further content of a checkpoint."""
        ...


class SectionTrainer:
    """Trains sections from where the checkpoint stands, and leaves a checkpoint at the end of each."""

    def __init__(self, context: RunContext, saved: State | None) -> None:
        self.context = context
        self.saved = saved
        self.teacher_state: State | None = saved["teacher"] if saved else None

    def train(
        self,
        section: str,
        train_states: list[TrainState],
        training: Training,
        frozen: dict[NetworkSpec, Network],
        rest: Callable[[], State] = dict,
        *,
        evaluates: bool = True,
        in_loop: bool = False,
    ) -> TrainingExtent:
        """Train to the end, from the checkpoint if it is of this section; leaves a checkpoint of the end.

        When asked to finish, students `in_loop` end where they stand; for all else NothingToKeep is raised.
        """
        context = self.context

        def save(state: State) -> None:
            if context.group.rank:
                return
            events = context.event_log.recorded
            whole = {"section": section, "trainer": state, "teacher": self.teacher_state, "events": events} | rest()
            saved = context.checkpoints.write(whole)
            context.event_log.checkpoint(saved, state["step"])

        trainer = Trainer(
            train_states,
            frozen,
            training,
            context.trainer_context(
                lambda: context.group.rank == 0 and context.checkpoints.is_due(), context.interrupt, context.cache
            ),
            save,
            evaluates=evaluates,
        )
        if self.saved and self.saved["section"] == section:
            trainer.load(self.saved["trainer"])
        self.saved = None  # its tensors are not needed any more
        ends = trainer.run()
        if not ends and not in_loop:
            raise NothingToKeep(NOT_TRAINED)
        if trainer.step:
            save(trainer.state())
            # After the checkpoint, which is the same with and without a request.
            if not ends:
                trainer.evaluate_unevaluated()
        return trainer.epoch_plan.extent(trainer.step)


@dataclass(frozen=True)
class Section:
    """A stretch of the students' training that a checkpoint names."""

    name: str
    phase: str
    """The job's phase meanwhile."""
    start: Callable[[], tuple[list[TrainState], Training]]
    """Gives the networks in training and their settings, when it is the section's turn."""
    trains: NetworkSpec | None = None
    """The further network that is trained, if it is one."""


def sections_of(recipe: Recipe, students: list[StudentState], factory: StudentFactory) -> Iterator[Section]:
    """First the phases of each method before the shared loop, then the loop of each sharing group."""
    trained: set[NetworkSpec] = set()
    for i, student in enumerate(students):
        for j, (method_state, phase) in enumerate(student.phases()):
            further = phase.trains if phase.trains != STUDENT else None
            if further not in trained:
                start = partial(_start_phase, student, method_state, phase, factory)
                yield Section(f"phase {j} of student {i}", f"{method_state.method.name} {phase.name}", start, further)
            if further is not None:
                trained.add(further)
    for group in sharing_groups(recipe):
        train_states = [students[i].train_state for i in group]
        yield Section(f"{STUDENTS} {group}", DISTILLING, partial(_start_group, train_states, factory))


def _start_phase(
    student: StudentState, method_state: MethodState, phase: Phase, factory: StudentFactory
) -> tuple[list[TrainState], Training]:
    train_state, training = phase_train_state(student, method_state, phase, factory)
    return [train_state], training


def _start_group(train_states: list[TrainState], factory: StudentFactory) -> tuple[list[TrainState], Training]:
    return train_states, factory.training


def _resume(
    saved: State | None, sections: list[Section], train_states: dict[str, TrainState], factory: StudentFactory
) -> tuple[int, list[NetworkSpec]]:
    """Load the content of a checkpoint besides its own section. Returns the position of that section, and the further
    networks that were trained before it."""
    if saved is None or saved["section"] == TEACHING:
        return 0, []
    first = [section.name for section in sections].index(saved["section"])
    trained = [section.trains for section in sections[:first] if section.trains is not None]
    for name, state in saved["students"].items():
        train_states[name].load(state)
    for spec in trained:
        factory.frozen[spec].load_state_dict(saved["networks"][repr(spec)])
    return first, trained


def train_sections(
    context: RunContext, trainer: SectionRunner, students: list[StudentState], factory: StudentFactory
) -> dict[str, TrainingExtent]:
    """Train section by section, from where the checkpoint stands. Returns the extent of each begun training, by name,
    but for students that were left out because a number of theirs was not finite.

    Raises NothingToKeep when asked to finish before that, and Diverged where all were left out.
    """
    sections = list(sections_of(context.recipe, students, factory))
    train_states = {student.train_state.name: student.train_state for student in students}
    first, trained = _resume(trainer.saved, sections, train_states, factory)
    extents: dict[str, TrainingExtent] = {}
    diverged: Diverged | None = None
    for section in sections[:first]:
        if section.phase == DISTILLING:
            here, training = section.start()
            plan = epoch_plan_of(here, training, context.data.facts)
            extents |= {train_state.name: plan.extent(plan.steps) for train_state in here if train_state.lost is None}
    for section in sections[first:]:
        context.event_log.enter(section.phase)
        here, training = section.start()

        def rest(here: list[TrainState] = here) -> State:
            """Content of a checkpoint besides the section's own networks."""
            others = {name: one.state() for name, one in train_states.items() if one not in here}
            return {
                "students": others,
                "networks": {repr(spec): factory.frozen[spec].state_dict() for spec in trained},
            }

        in_loop = section.phase == DISTILLING
        try:
            extent = trainer.train(
                section.name, here, training, factory.frozen, rest, evaluates=in_loop, in_loop=in_loop
            )
        except Diverged as error:
            if not in_loop:
                raise  # no student has been trained yet, so that nothing is lost
            diverged = error
            continue
        if in_loop and extent.steps:
            extents |= {train_state.name: extent for train_state in here if train_state.lost is None}
        if not extent.end:
            break
        if section.trains is not None:
            networks.freeze(factory.frozen[section.trains])
            trained.append(section.trains)
    if not extents:
        raise diverged or NothingToKeep(NOT_TRAINED)
    return extents
