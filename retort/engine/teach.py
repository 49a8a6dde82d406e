"""The teacher of a run: built, taught where the recipe has `teach`, and validated."""

from __future__ import annotations

from retort.engine import networks
from retort.engine.artifacts import NetworkResult
from retort.engine.context import RunContext
from retort.engine.evaluate import score
from retort.engine.interrupt import Impossible
from retort.engine.learning import AT_CHANCE, DOUBTED_ERRORS, at_chance, compared
from retort.engine.sections import TEACHING, SectionRunner
from retort.engine.train_state import TrainState, snapshot
from retort.engine.trainer import epoch_plan_of
from retort.network import Network
from retort.recipe import TEACHER_NAME
from retort.validation import teacher_warnings


def teach(context: RunContext, trainer: SectionRunner) -> NetworkResult | None:
    """The teacher, trained and frozen; None for a recipe without one. Raises Impossible."""
    teacher = context.recipe.teacher
    if teacher is None:
        return None
    with context.redoing(begun=context.begun):
        network = networks.teacher_network(context.task, teacher, context.data.facts, context.paths.weights)
        network = networks.placed(network, context.device)
    if teacher.weights is not None:
        for warning in teacher_warnings(context.recipe, network.image.size, context.data.facts):
            context.warn(warning)
    result = NetworkResult(
        TEACHER_NAME,
        "teacher",
        teacher.architecture,
        context.cards[teacher.architecture],
        network,
        snapshot(network),
        snapshot(network),
    )
    if teacher.teach is not None:
        train_state = TrainState(TEACHER_NAME, teacher.seed, network, teacher.teach, context.task)
        if trainer.teacher_state is None:
            context.event_log.enter(TEACHING)
            trainer.train(TEACHING, [train_state], teacher.teach, {})
            if (sentence := train_state.watch.signs.get(AT_CHANCE)) is not None and _is_read(context):
                _warn(context, sentence)
            best = train_state.best
            trainer.teacher_state = {
                "last": snapshot(train_state.evaluated),
                "best": best.weights,
                "epoch": best.epoch,
            }
        state = trainer.teacher_state
        result.last, result.best, result.best_epoch = state["last"], state["best"], state["epoch"]
        plan = epoch_plan_of([train_state], teacher.teach, context.data.facts)
        result.extent = plan.extent(plan.steps)
        result.load(context.recipe.evaluation.ship, "float32")
    networks.freeze(network)
    return result


def validate_teacher(context: RunContext, teacher: Network) -> None:
    """Evaluate a teacher that came trained, or of which the recipe requires something, before the first student's step.

    Warns where it is at chance. Raises Impossible where it is worse than the recipe requires.
    """
    wanted, settings = context.recipe.require_teacher, context.recipe.teacher
    came_trained = settings is not None and settings.teach is None
    if context.begun or not (wanted is not None or (came_trained and _is_read(context))):
        return
    context.event_log.enter("validating the teacher")
    size, split, task = context.recipe.evaluation.batch_size, context.data.validation, context.task
    found = score(task, teacher, split, size, context.device, context.interrupt, context.group)
    context.event_log.record("evaluation", network=TEACHER_NAME, values=found.values("validation"))
    metric, chance = task.headline, task.chance(split.targets)
    value = found.metrics[metric.name]
    if wanted is not None and metric.better(wanted, value):
        raise Impossible(
            f"the teacher's {metric.name} on the validation split is {value:.4f} ({len(split)} examples); "
            f"require_teacher is {wanted:g}"
        )
    if came_trained and chance is not None and at_chance(task, value, chance, DOUBTED_ERRORS):
        _warn(context, f"the teacher is {compared(task, 'validation', value, chance)}")


def _is_read(context: RunContext) -> bool:
    return any(method.needs_teacher for student in context.recipe.students for method in student.methods)


def _warn(context: RunContext, sentence: str) -> None:
    text = f"{sentence}; distilling from it teaches nothing"
    context.event_log.record("warning", network=TEACHER_NAME, text=text)
