"""The final evaluation of a run's networks on the test split, and the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from torch import Tensor

from retort.engine.artifacts import NetworkResult
from retort.engine.compress import weights_dtype
from retort.engine.context import RunContext
from retort.engine.evaluate import passes, score
from retort.network import Network
from retort.recipe import TEACHER_NAME
from retort.task import Score


def evaluate(context: RunContext, results: list[NetworkResult]) -> tuple[dict[str, Score], dict[str, Any]]:
    """Evaluate on the test split, for the first time. Returns the shipped networks' scores, by name, and the report.

    The teacher comes first, so that its predictions are known when the students are evaluated.
    """
    context.event_log.enter("evaluating")
    ship = context.recipe.evaluation.ship
    shipped: dict[str, Score] = {}
    rows = []
    for result in results:
        scores: dict[str, Score] = {}
        for which in dict.fromkeys(("best", "last", ship)) if result.best_epoch is not None else (ship,):
            result.load(which, weights_dtype(context.recipe, result))
            scores[which] = _score(context, result.network)
        result.load(ship, weights_dtype(context.recipe, result))
        shipped[result.name] = scores[ship]
        row = _row(context, result, scores, shipped.get(TEACHER_NAME) if result.role != "teacher" else None)
        values = row["test"][ship] | row["diagnostics"]
        context.event_log.record("evaluation", network=result.name, values=values)
        rows.append(row)
    report = _report(context, results, rows)
    context.event_log.record("report", data=report)
    return shipped, report


def _score(context: RunContext, network: Network) -> Score:
    size = context.recipe.evaluation.batch_size
    return score(context.task, network, context.data.test, size, context.device, context.interrupt)


def _row(context: RunContext, result: NetworkResult, scores: dict[str, Score], teacher: Score | None) -> dict[str, Any]:
    """The report's row of one network; `teacher` is the score that it is compared with."""

    def test(found: Score) -> dict[str, float]:
        compared = context.task.compare(found, teacher) if teacher else {}
        return found.values("test") | {f"test.{name}": value for name, value in compared.items()}

    details = {name: {which: found.details[name] for which, found in scores.items()} for name in _details(scores)}
    return {
        "name": result.name,
        "role": result.role,
        "architecture": result.architecture,
        "parameters": result.network.parameter_count(),
        "multiply_adds": result.card.multiply_adds,
        "multiply_adds_image_size": result.card.image_size,
        "best_epoch": result.best_epoch,
        "trained": asdict(result.extent) if result.extent else None,
        "test": {which: test(found) for which, found in scores.items()},
        **details,
        "diagnostics": _diagnostics(context, result),
    }


def _details(scores: dict[str, Score]) -> list[str]:
    return list(dict.fromkeys(name for found in scores.values() for name in found.details))


def _diagnostics(context: RunContext, result: NetworkResult) -> dict[str, float]:
    def embeddings() -> Iterator[tuple[Tensor, Tensor]]:
        size = context.recipe.evaluation.batch_size
        run = passes(
            context.task,
            result.network,
            context.data.train,
            size,
            context.device,
            "embedding",
            interrupt=context.interrupt,
        )
        for outputs, targets, _ in run:
            assert outputs.embedding is not None
            yield outputs.embedding, targets

    return context.task.diagnose(result.network, embeddings, result.card, context.data.facts)


def _report(context: RunContext, results: list[NetworkResult], rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = {result.name for result in results}
    left_out = [student.name for student in context.recipe.students if student.name not in names]
    stopped = any(result.extent is not None and not result.extent.end for result in results)
    task = context.task
    return {
        "task": task.name,
        "headline": task.headline.name,
        "columns": list(task.columns),
        "stopped_early": bool(left_out) or stopped,
        "left_out": left_out,
        "ship": context.recipe.evaluation.ship,
        **task.describe(context.data.facts),
        "networks": rows,
    }
