"""The compression of a run's networks."""

from __future__ import annotations

from retort.engine import networks
from retort.engine.artifacts import NetworkResult
from retort.engine.context import RunContext
from retort.recipe import Recipe


def compress(context: RunContext, results: list[NetworkResult]) -> None:
    """Give each network the weights that are shipped, rounded to the precision in which they are stored."""
    context.event_log.enter("compressing")
    for result in results:
        result.load(context.recipe.evaluation.ship, weights_dtype(context.recipe, result))
        networks.freeze(result.network)


def weights_dtype(recipe: Recipe, result: NetworkResult) -> str:
    """The precision in which a network is stored; the teacher stays as it taught, only students are compressed."""
    return "float32" if result.role == "teacher" else recipe.compression.weights
