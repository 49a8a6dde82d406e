"""The files that a run hands back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retort.engine import networks
from retort.engine.artifacts import NetworkResult, Packer, describe_result
from retort.engine.compress import weights_dtype
from retort.engine.context import RunContext
from retort.export import Export
from retort.exports.safetensors import Safetensors
from retort.task import Score


def export(context: RunContext, results: list[NetworkResult], scores: dict[str, Score], report: dict[str, Any]) -> None:
    """Write every network that was trained in the formats of the recipe, its description, and the report."""
    context.event_log.enter("exporting")
    with Packer(context.paths.directory) as packer:
        for result in trained(results):
            description = describe(context, result, scores[result.name])
            networks.plain(result.network)
            packer.write_json(f"{result.name}.json", result.name, description)
            for each in formats(context, result):
                context.interrupt.check()
                packer.export(result, description, each)
            for made in result.compressed.values():
                if made.file is not None:
                    packer.take(result, made)
        packer.write_json("report.json", None, report)


def trained(results: list[NetworkResult]) -> list[NetworkResult]:
    """The networks that are handed back: a teacher that came trained goes out unchanged, so it is left out."""
    return [result for result in results if result.role != "teacher" or result.best_epoch is not None]


def formats(context: RunContext, result: NetworkResult) -> Sequence[Export]:
    """A teacher leaves in the one format from which a later job can start, a student in the recipe's."""
    return context.recipe.exports if result.role != "teacher" else (Safetensors(),)


def describe(context: RunContext, result: NetworkResult, score: Score | None) -> dict[str, Any]:
    """The description of a network that is handed back."""
    return describe_result(result, context.task, context.data.facts, weights_dtype(context.recipe, result), score)
