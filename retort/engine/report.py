"""The final evaluation of a run's networks on the test split, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from retort.dataset import Split
from retort.engine.artifacts import NetworkResult
from retort.engine.compress import run_file, weights_dtype
from retort.engine.context import RunContext
from retort.engine.evaluate import passes, score
from retort.engine.learning import (
    AT_CHANCE,
    CHANCE_ERRORS,
    DOUBTED_ERRORS,
    FEWEST_STEPS,
    NO_CHANGE,
    NO_GRADIENT,
    at_chance,
    compared,
)
from retort.engine.onnx_runtime import processor
from retort.network import Network
from retort.recipe import TEACHER_NAME
from retort.task import Score


@dataclass(frozen=True)
class FinalEvaluation:
    """The final evaluation of a run's networks."""

    shipped: dict[str, Score]
    """Scores of the shipped networks on the test split, by name."""
    report: dict[str, Any]
    failures: tuple[str, ...]
    """Sentences on students that have learned nothing."""
    advice: str
    """Fields of the recipe to change then, as a clause."""

    @property
    def sentence(self) -> str:
        """The reason why the job fails."""
        return f"{'; '.join(self.failures)}; {self.advice}; the files are kept"


def evaluate(context: RunContext, results: list[NetworkResult], lost: Mapping[str, str]) -> FinalEvaluation:
    """Evaluate on the test split, for the first time; `lost` has a sentence for each student that was left out.

    The teacher comes first, so that its predictions are known when the students are evaluated.
    """
    context.event_log.enter("evaluating")
    ship = context.recipe.evaluation.ship
    shipped: dict[str, Score] = {}
    rows, warnings, failures = [], [*lost.values()], [*lost.values()]
    failed: list[NetworkResult] = []
    for result in results:
        scores: dict[str, Score] = {}
        for which in dict.fromkeys(("best", "last", ship)) if result.best_epoch is not None else (ship,):
            result.load(which, weights_dtype(context.recipe, result))
            scores[which] = _score(context, result.network)
        result.load(ship, weights_dtype(context.recipe, result))
        shipped[result.name] = scores[ship]
        row = _row(context, result, scores, shipped.get(TEACHER_NAME) if result.role != "teacher" else None)
        row["compression"] = _compressed(context, result, scores[ship])
        warnings += (f"{result.name}: {made.missed}" for made in result.compressed.values() if made.missed)
        values = row["test"][ship] | row["diagnostics"]
        context.event_log.record("evaluation", network=result.name, values=values)
        rows.append(row)
        if sentence := _is_at_chance(context, result, scores[ship]):
            warnings.append(sentence)
            if _is_long_enough(result):
                context.event_log.record("warning", network=result.name, text=sentence)
            if _fails(context, result):
                failures.append(sentence)
                failed.append(result)
        warnings += (sentence for sign, sentence in result.signs.items() if sign != AT_CHANCE)
    report = _report(context, results, rows, lost, warnings)
    context.event_log.record("report", data=report)
    return FinalEvaluation(shipped, report, tuple(failures), _advice(context, failed))


def _is_at_chance(context: RunContext, result: NetworkResult, test: Score) -> str:
    """A sentence where the shipped network is at chance on both splits; empty where it is better."""
    task, size = context.task, context.recipe.evaluation.batch_size
    errors = DOUBTED_ERRORS if result.signs.keys() - {AT_CHANCE} else CHANCE_ERRORS

    def found(score: Score, split: Split) -> str:
        value, chance = score.metrics[task.headline.name], task.chance(split.targets)
        if chance is None or not at_chance(task, value, chance, errors):
            return ""
        return f"{result.name} is {compared(task, 'test', value, chance)}"

    sentence = found(test, context.data.test)
    # On a small test split that may be bad luck.
    validation = context.data.validation
    if sentence and found(score(task, result.network, validation, size, context.device, context.interrupt), validation):
        return sentence
    return ""


def _fails(context: RunContext, result: NetworkResult) -> bool:
    """Whether the job fails where this network is at chance: not after a training that was ended early or was short."""
    ended = result.extent is not None and result.extent.end
    student = result.role != "teacher"
    return context.recipe.fail_if_worse_than_chance and student and ended and _is_long_enough(result)


def _is_long_enough(result: NetworkResult) -> bool:
    """Whether chance says something about a network: it took enough steps, or something else is odd besides."""
    few = result.extent is not None and result.extent.steps < FEWEST_STEPS
    return not few or bool(result.signs.keys() - {AT_CHANCE})


def _advice(context: RunContext, failed: list[NetworkResult]) -> str:
    """The fields of the recipe to change, where these students are at chance; without one, where some were left out."""
    rate = f"training.optimizer.learning_rate, which is {context.recipe.training.optimizer.learning_rate:g}"
    change = f"lower {rate}, or the weights of the methods"
    if failed and all(NO_CHANGE in result.signs for result in failed):
        change = f"raise {rate}"
    elif failed and all(NO_GRADIENT in result.signs for result in failed):
        change = "give labels.weight, or the weights of the methods, numbers above 0"
    return f"{change}, or set fail_if_worse_than_chance to false to let such a job succeed" if failed else change


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


def _compressed(context: RunContext, result: NetworkResult, own: Score) -> dict[str, Any]:
    """Whatever the steps of compression made of a network, by name; `own` is its score without them."""
    found: dict[str, Any] = {}
    for name, made in result.compressed.items():
        found[name] = dict(made.facts)
        if made.file is None:
            continue
        test = run_file(context, made.file, context.data.test)
        alike = {f"student_{metric}": value for metric, value in context.task.compare(test, own).items()}
        found[name] |= {
            "artifact": f"{result.name}{made.suffix}",
            "bytes": made.file.stat().st_size,
            "test": test.values("test") | {f"test.{metric}": value for metric, value in alike.items()},
            "processor": processor(),
        }
    return found


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


def _report(
    context: RunContext,
    results: list[NetworkResult],
    rows: list[dict[str, Any]],
    lost: Mapping[str, str],
    warnings: list[str],
) -> dict[str, Any]:
    names = {result.name for result in results} | lost.keys()
    left_out = [student.name for student in context.recipe.students if student.name not in names]
    stopped = any(result.extent is not None and not result.extent.end for result in results)
    task = context.task
    chance = task.chance(context.data.test.targets)
    return {
        "warnings": warnings,
        "task": task.name,
        "headline": task.headline.name,
        "chance": None if chance is None else chance.value,
        "columns": list(task.columns),
        "stopped_early": bool(left_out) or stopped,
        "left_out": left_out,
        "not_finite": [*lost],
        "ship": context.recipe.evaluation.ship,
        **task.describe(context.data.facts),
        "networks": rows,
    }
