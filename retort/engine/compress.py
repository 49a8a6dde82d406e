"""The compression of a run's networks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from retort import draws
from retort.compression import CompressionSetup
from retort.dataset import Split
from retort.engine import networks
from retort.engine.artifacts import NetworkResult, describe_result
from retort.engine.context import RunContext
from retort.engine.evaluate import score
from retort.engine.inference import quick
from retort.engine.onnx_runtime import RuntimeNetwork
from retort.network import Network
from retort.recipe import Recipe
from retort.task import Score

SAMPLE = 2
"""Random inputs on which a network is compared with the copy of it whose batch norm is folded."""


def compress(context: RunContext, results: list[NetworkResult]) -> None:
    """Give each network the weights that are shipped, rounded to the precision in which they are stored, and each
    student the files of the recipe's steps."""
    context.event_log.enter("compressing")
    for result in results:
        result.load(context.recipe.evaluation.ship, weights_dtype(context.recipe, result))
        networks.freeze(result.network)
    for result in results:
        if result.role != "teacher":
            _compress(context, result)


def weights_dtype(recipe: Recipe, result: NetworkResult) -> str:
    """The precision in which a network is stored; the teacher stays as it taught, only students are compressed."""
    steps = recipe.compression if result.role != "teacher" else ()
    return next((step.weights_dtype for step in steps if step.weights_dtype != "float32"), "float32")


def run_file(context: RunContext, file: Path, split: Split) -> Score:
    """The score of an ONNX file on a split, run by onnxruntime on the CPU."""
    threads = context.recipe.training.threads
    assert threads != "auto", "the recipe is resolved for this machine"
    return _score(context, RuntimeNetwork(file, threads), split)


def _compress(context: RunContext, result: NetworkResult) -> None:
    steps = [step for step in context.recipe.compression if step.makes_file]
    if not steps:
        return
    task, headline = context.task, context.task.headline
    plain = networks.plain(result.network.copy())
    folded = quick(plain, task.sample(context.data.facts, SAMPLE, seed=0), in_place=False)
    dtype = weights_dtype(context.recipe, result)
    folder = context.paths.directory / "compression" / result.name
    shutil.rmtree(folder, ignore_errors=True)  # files of a run that was killed here
    setup = CompressionSetup(
        network=networks.plain(folded),
        description=describe_result(result, task, context.data.facts, dtype, test=None),
        training_inputs=lambda count: _training_inputs(context, count),
        value=_score(context, result.network, context.data.validation).metrics[headline.name],
        measure=lambda file: run_file(context, file, context.data.validation).metrics[headline.name],
        better=headline.better,
        folder=folder,
    )
    for step in steps:
        (folder / step.name).mkdir(parents=True)
        made = step.compress(replace(setup, folder=folder / step.name))
        result.compressed[step.name] = made
        if made.missed:
            context.event_log.record("warning", network=result.name, text=f"{result.name}: {made.missed}")


def _score(context: RunContext, network: Network | RuntimeNetwork, split: Split) -> Score:
    device = context.device if isinstance(network, Network) else torch.device("cpu")
    return score(context.task, network, split, context.recipe.evaluation.batch_size, device, context.interrupt)


def _training_inputs(context: RunContext, count: int) -> Iterator[Tensor]:
    train = context.data.train
    order = draws.order(context.recipe.training.data_seed, 0, len(train), torch.device("cpu"))[:count]
    for indices in torch.split(order, context.recipe.evaluation.batch_size):
        context.interrupt.check()
        yield context.task.plain_inputs(train.inputs(indices))
