"""Every task keeps the contract of retort/task.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from retort.architectures import CARDS
from retort.dataset import ImageClassFacts
from retort.engine.group import ALONE
from retort.method import MethodError, Setup
from retort.methods import METHODS
from retort.outputs import READS, Outputs
from retort.task import TaskError
from retort.tasks import TASKS
from retort.validation import lacking

FACTS: dict[type, Any] = {
    ImageClassFacts: ImageClassFacts(
        classes=10, class_names=tuple("0123456789"), image_size=8, train=90, validation=9, test=9,
        mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25),
    ),
}  # fmt: skip
"""An example of each kind of facts that a task may need."""

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@every_task
def test_its_words_agree(task):
    assert task.reads <= set(READS)
    assert task.title
    assert task.columns[0] == task.headline.name
    metric = task.headline
    low, high = metric.lowest or 0.0, metric.highest or 1.0
    assert metric.better(high, low) == metric.more_is_better
    assert not metric.better(low, low)


@every_task
def test_its_description_tells_the_outputs_again(task):
    facts = FACTS[task.facts_type]
    described = task.describe(facts)
    assert task.described_outputs(task.description_type.model_validate(described)) == task.outputs(facts)


@every_task
def test_its_metrics_do_not_depend_on_the_batches(task):
    facts = FACTS[task.facts_type]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, task.outputs(facts), generator=generator)
    targets = torch.randint(task.outputs(facts), (30,), generator=generator)
    meter = task.meter(torch.device("cpu"))
    scores = []
    for size in (30, 7):
        meter.reset()
        for rows, wanted in zip(logits.split(size), targets.split(size), strict=True):
            meter.add(Outputs(rows), wanted)
        scores.append(meter.result(targets, ALONE))
    whole, parts = scores
    assert task.headline.name in whole.metrics
    assert all(math.isfinite(value) for value in whole.metrics.values())
    assert parts.metrics == pytest.approx(whole.metrics)
    assert torch.equal(parts.predictions, whole.predictions)
    assert task.compare(whole, whole) == task.compare(parts, whole)
    assert whole.values("test").keys() == {f"test.{name}" for name in whole.metrics}


@every_task
def test_its_networks_read_its_sample(task):
    facts = FACTS[task.facts_type]
    from retort.architectures import ARCHITECTURES

    torch.manual_seed(0)
    network = task.build(ARCHITECTURES["resnet8"], "resnet8", facts).eval()
    sample = task.sample(facts, 2, seed=0)
    assert torch.equal(sample, task.sample(facts, 2, seed=0))
    assert network(sample).shape == (2, task.outputs(facts))


@every_task
def test_a_method_serves_it_if_the_task_offers_what_it_reads(task):
    facts = FACTS[task.facts_type]
    setup = Setup(facts, task.outputs(facts), CARDS["resnet8"], CARDS["resnet8x4"], 8, 2, CARDS)
    served = 0
    for name, kind in METHODS.items():
        method = kind(name=name)
        try:
            taps = method.taps(setup).union(*(phase.taps for phase in method.phases(setup)))
        except MethodError:
            continue
        offered = {tap.reads for tap in taps} <= task.reads and (task.class_targets or not kind.reads_labels)
        assert (lacking(method, setup, task) == "") == offered, name
        served += offered
    assert served


def test_a_class_is_not_missing_among_the_names():
    description = TASKS["classification"].description_type(classes=3, class_names=("a", "b"))
    with pytest.raises(TaskError, match="the description has 3 classes and 2 class names"):
        TASKS["classification"].described_outputs(description)
