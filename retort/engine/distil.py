"""The students of a run, made and trained."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from retort.engine import networks
from retort.engine.artifacts import NetworkResult
from retort.engine.context import RunContext
from retort.engine.epoch_plan import TrainingExtent
from retort.engine.evaluate import passes
from retort.engine.sections import SectionRunner, train_sections
from retort.engine.students import StudentFactory, StudentState, make_student_state
from retort.engine.train_state import snapshot
from retort.network import Network
from retort.outputs import Outputs, Read


def distil(
    context: RunContext, trainer: SectionRunner, teacher: NetworkResult | None
) -> tuple[list[NetworkResult], dict[str, str]]:
    """The students whose training was begun, in the recipe's order, but for those that were left out because a number
    of theirs was not finite; of these the sentence that says so, by name. Raises Impossible and NothingToKeep.
    """
    recipe = context.recipe
    factory = StudentFactory(
        task=context.task,
        facts=context.data.facts,
        training=recipe.training,
        device=context.device,
        teacher=teacher.network if teacher else None,
        teacher_card=teacher.card if teacher else None,
        targets=context.data.train.targets,
        teacher_pass=partial(_teacher_pass, context, teacher.network if teacher else None),
        cards=context.cards,
    )
    if any(student.methods for student in recipe.students):
        context.event_log.enter("preparing the methods")
    students = []
    with context.redoing(begun=context.begun):
        for student in recipe.students:
            network = networks.student_network(context.task, student, context.data.facts, context.paths.weights)
            network = networks.placed(network, context.device)
            students.append(make_student_state(student, network, context.cards[student.architecture], factory))
    extents = train_sections(context, trainer, students, factory)
    trained = [_result(state, extents[state.student.name]) for state in students if state.student.name in extents]
    return trained, {state.student.name: state.train_state.lost for state in students if state.train_state.lost}


def _teacher_pass(
    context: RunContext, teacher: Network | None, *reads: Read, positions: Tensor | None = None
) -> Iterator[tuple[Outputs, Tensor, Tensor]]:
    assert teacher is not None, "the recipe's validation asks for a teacher where a method needs one"
    size, train = context.recipe.evaluation.batch_size, context.data.train
    return passes(
        context.task,
        teacher,
        train,
        size,
        context.device,
        *reads,
        interrupt=context.interrupt,
        positions=positions,
    )


def _result(state: StudentState, extent: TrainingExtent) -> NetworkResult:
    student, train_state = state.student, state.train_state
    return NetworkResult(
        student.name,
        "student" if student.methods else "baseline",
        student.architecture,
        state.setup.student,
        train_state.network,
        snapshot(train_state.evaluated),
        train_state.best.weights,
        train_state.best.epoch,
        extent,
        state.wrapper,
        train_state.watch.signs,
    )
