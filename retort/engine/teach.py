"""The teacher of a run: built, taught where the recipe has `teach`, and compared with `require_teacher`."""

from __future__ import annotations

from retort.engine import networks
from retort.engine.artifacts import NetworkResult
from retort.engine.context import RunContext
from retort.engine.evaluate import score
from retort.engine.interrupt import Impossible
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
    if context.recipe.require_teacher is not None and not context.begun:
        _require(context, network, context.recipe.require_teacher)
    return result


def _require(context: RunContext, teacher: Network, wanted: float) -> None:
    """Raise Impossible where the teacher is worse on the validation split than the recipe requires."""
    context.event_log.enter("validating the teacher")
    size, split = context.recipe.evaluation.batch_size, context.data.validation
    found = score(context.task, teacher, split, size, context.device, context.interrupt, context.group)
    context.event_log.record("evaluation", network=TEACHER_NAME, values=found.values("validation"))
    metric = context.task.headline
    value = found.metrics[metric.name]
    if metric.better(wanted, value):
        raise Impossible(
            f"the teacher's {metric.name} on the validation split is {value:.4f} ({len(split)} examples); "
            f"require_teacher is {wanted:g}"
        )
