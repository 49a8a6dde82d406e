"""Cost of a step with each method, over a step with plain KD, at CIFAR shapes.

    .venv/bin/python benchmarks/method_cost.py [--rounds 5] [--methods crd,dkd] [--batch-size 64]

resnet32x4 teaches resnet8x4; 32 x 32 pixels, 100 classes, 50,000 training images (random ones: a step does not care).
A step is the engine's own: views, teacher, student, loss, backward, optimizer, and the method's update after it. The
methods take turns, a step each a round, beginning with another one each round; the figures are medians over the
rounds of the ratio to `kd` in the same round. Phases before the loop are not in it, nor is set-up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from retort.architectures import CARDS
from retort.dataset import ImageClassFacts, LoadedDataset
from retort.engine.event_log import EventLog
from retort.engine.interrupt import Interrupt
from retort.engine.loading import batches, on_device
from retort.engine.networks import freeze, initialised
from retort.engine.students import StudentFactory, make_student_state
from retort.engine.trainer import Trainer, TrainerContext
from retort.method import Method
from retort.methods import METHODS
from retort.network import Network
from retort.outputs import Outputs
from retort.recipe import SGD, Evaluation, Labels, Student, Training
from retort.tasks import TASKS

CLASSIFICATION = TASKS["classification"]

TEACHER, STUDENT = "resnet32x4", "resnet8x4"
IMAGES, SIDE, CLASSES = 50_000, 32, 100
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "r2kd(none)": ("r2kd", {"augmentation": "none"}),
    "r2kd(none; teacher alone)": ("r2kd", {"augmentation": "none", "teacher_share": 1}),
}
"""Rows besides each method with its defaults."""


class RandomImages:
    """A training split of noise."""

    def __init__(self, images: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(256, (images, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
        self.targets = torch.randint(CLASSES, (images,), generator=generator)

    def __len__(self) -> int:
        return len(self.targets)

    def inputs(self, indices: Tensor) -> Tensor:
        """(N, 3, H, W) uint8."""
        return self.pixels[indices]


class Bench:
    """Trainers of one student each, whose steps are timed."""

    def __init__(self, batch_size: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        split = RandomImages(IMAGES)
        self.facts = ImageClassFacts(
            classes=CLASSES,
            class_names=tuple(map(str, range(CLASSES))),
            image_size=SIDE,
            train=IMAGES,
            validation=1,
            test=1,
            mean=(0.5, 0.5, 0.5),
            std=(0.3, 0.3, 0.3),
        )
        self.data = LoadedDataset(self.facts, split, split, split, digest="")
        self.training = Training(epochs=240, batch_size=batch_size, optimizer=SGD(learning_rate=0.001))
        self.teacher = freeze(initialised(CLASSIFICATION, TEACHER, 0, self.facts).to(self.device))

    def trainer(self, method: Method | None) -> Trainer:
        """A trainer whose student learns by that method, or by the labels alone."""
        factory = StudentFactory(
            task=CLASSIFICATION,
            facts=self.facts,
            training=self.training,
            device=self.device,
            teacher=self.teacher,
            teacher_card=CARDS[TEACHER],
            targets=self.data.train.targets,
            teacher_pass=self.teacher_pass,
            cards=CARDS,
        )
        student = Student(architecture=STUDENT, methods=(method,) if method else (), labels=Labels(weight=1))
        network: Network = initialised(CLASSIFICATION, STUDENT, 0, self.facts).to(self.device)
        student_state = make_student_state(student, network, CARDS[STUDENT], factory)
        event_log = EventLog(os.open(os.devnull, os.O_WRONLY))
        context = TrainerContext(
            CLASSIFICATION,
            self.data,
            self.device,
            event_log,
            Interrupt(),
            Evaluation(),
            lambda: False,
            on_device(self.data.train, self.device),
        )
        return Trainer([student_state.train_state], factory.frozen, self.training, context, lambda state: None)

    def teacher_pass(self, *reads: str, positions: Tensor | None = None) -> Iterator[tuple[Outputs, Tensor, Tensor]]:
        """Noise of the right shape in the place of a pass over all images, which is no part of a step."""
        card = CARDS[TEACHER]
        indices = torch.arange(IMAGES) if positions is None else positions
        for chosen in torch.split(indices, 1000):
            rows = len(chosen)
            maps = tuple(torch.randn(rows, s.channels, 1, 1, device=self.device) for s in card.stages)
            outputs = Outputs(
                logits=torch.randn(rows, CLASSES, device=self.device),
                embedding=torch.randn(rows, card.embedding, device=self.device),
                maps=maps,
                preactivations=maps,
            )
            yield outputs, self.data.train.targets[chosen].to(self.device), chosen.to(self.device)

    def seconds(self, trainer: Trainer) -> float:
        """Of one step."""
        indices = torch.randperm(IMAGES)[: self.training.batch_size]
        loaded = next(batches(trainer.context.train, [indices], self.device))
        started = time.perf_counter()
        trainer._take_step(1, loaded)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", help="names, comma between; kd is always measured")
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    wanted = options.methods.split(",") if options.methods else [*METHODS, *VARIANTS, "labels alone"]
    bench = Bench(options.batch_size)
    trainers = {name: bench.trainer(method_of(name)) for name in dict.fromkeys(["kd", *wanted])}
    names = list(trainers)
    for trainer in trainers.values():
        bench.seconds(trainer)
    rounds: list[dict[str, float]] = []
    for number in range(options.rounds):
        turn = number * len(names) // options.rounds
        rounds.append({name: bench.seconds(trainers[name]) for name in names[turn:] + names[:turn]})
    kd = statistics.median(row["kd"] for row in rounds)
    over_kd = {name: statistics.median(row[name] / row["kd"] for row in rounds) for name in names}
    for name, ratio in sorted(over_kd.items(), key=lambda item: item[1]):
        print(f"{name:28} {ratio:5.2f}")
    print(f"kd itself takes {1000 * kd:.0f} ms a step of {options.batch_size} images on {bench.device}")
    figures = {"kd_seconds": round(kd, 4), "over_kd": {name: round(ratio, 3) for name, ratio in over_kd.items()}}
    print(json.dumps(figures | {"device": str(bench.device), "rounds": options.rounds, "batch": options.batch_size}))


def method_of(name: str) -> Method | None:
    """The method of a row, None for labels alone."""
    if name == "labels alone":
        return None
    method, fields = VARIANTS.get(name, (name, {}))
    return METHODS[method].model_validate({"name": method} | fields)


if __name__ == "__main__":
    main()
