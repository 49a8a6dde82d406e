"""The training loop: one pass over the data and one of each frozen network, for all learners together."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.dataset import LoadedDataset
from worker.engine import draws
from worker.engine.checkpoint import State
from worker.engine.diary import Diary
from worker.engine.evaluate import score
from worker.engine.interrupt import Impossible, Interrupt, Stopped
from worker.engine.learner import Learner
from worker.engine.optimize import course, take_step
from worker.engine.views import Made, Moment, augment, make
from worker.method import STUDENT, Batch, Mixed, NetworkSpec, Outputs
from worker.network import Network
from worker.recipe import Evaluation, Training
from worker.view import CLEAN, View

SMALLEST_BATCH = 2
"""Batch norm cannot take the statistics of one image: a remainder of one is left out of its epoch."""


@dataclass(frozen=True)
class Surroundings:
    """What every trainer of a run shares."""

    data: LoadedDataset
    device: torch.device
    diary: Diary
    interrupt: Interrupt
    evaluation: Evaluation
    checkpoint_is_due: Callable[[], bool]


class Trainer:
    """Trains learners side by side; none's result depends on the others.

    `save` takes the trainer's state and writes a checkpoint of the whole run; it is called between steps, when one is
    due or a stop is wanted.
    """

    def __init__(
        self,
        learners: list[Learner],
        frozen: Mapping[NetworkSpec, Network],
        training: Training,
        surroundings: Surroundings,
        save: Callable[[State], None],
        *,
        evaluates: bool = True,
    ) -> None:
        self.learners = learners
        self.frozen = frozen
        self.training = training
        self.around = surroundings
        self.save = save
        self.evaluates = evaluates
        self.step = 0
        """Optimizer steps done."""
        facts = surroundings.data.facts
        mean = facts.mean or (0.5, 0.5, 0.5)
        self._fill = torch.tensor(mean, device=surroundings.device).view(1, 3, 1, 1)
        self.steps_per_epoch = max(1, _batches(facts.train, training.batch_size))
        self.steps = training.epochs * self.steps_per_epoch
        self._started = time.monotonic(), 0
        self._accuracy: float | None = None

    def run(self) -> None:
        """Train from where the state stands to the end of the last epoch."""
        self._started = time.monotonic(), self.step
        while self.step < self.steps:
            self._run_epoch(self.step // self.steps_per_epoch)

    def state(self) -> State:
        return {"step": self.step, "learners": [learner.state() for learner in self.learners]}

    def load(self, state: State) -> None:
        self.step = state["step"]
        for learner, saved in zip(self.learners, state["learners"], strict=True):
            learner.load(saved)

    def _run_epoch(self, epoch: int) -> None:
        first = self.step % self.steps_per_epoch
        for learner in self.learners:
            learner.network.train()
        for indices in self._batches(epoch, first):
            self._save_if_wanted()
            self._take_step(epoch, indices)
        self._finish_epoch(epoch + 1)

    def _batches(self, epoch: int, first: int) -> Iterator[Tensor]:
        train, size = self.around.data.train, self.training.batch_size
        order = draws.order(self.training.data_seed, epoch, len(train), torch.device("cpu"))
        for number in range(first, self.steps_per_epoch):
            yield order[number * size : (number + 1) * size]

    def _save_if_wanted(self) -> None:
        if self.around.interrupt.wanted:
            self.save(self.state())
            raise Stopped
        if self.around.checkpoint_is_due():
            self.save(self.state())

    def _take_step(self, epoch: int, indices: Tensor) -> None:
        device, train = self.around.device, self.around.data.train
        labels = train.labels[indices].to(device)
        moment = Moment(self.training.data_seed, epoch, self.step, indices.to(device), self._fill)
        views = self._make_views(train.images(indices).to(device), moment)
        outputs = self._read_frozen(views)
        mixed = {view: made.mixed for view, made in views.items() if made.mixed is not None}
        clock = (
            torch.tensor(self.step, device=device),
            torch.tensor(epoch, device=device),
            torch.tensor(self.step / self.steps, device=device),
        )
        factor = course(self.training, self.step, self.steps_per_epoch)
        totals = [
            self._train(learner, views, outputs, mixed, labels, moment, clock, factor) for learner in self.learners
        ]
        self.step += 1
        if self.around.diary.progress_is_due():
            self._say_progress(totals)

    def _make_views(self, pixels: Tensor, moment: Moment) -> dict[View, Made]:
        wanted = {CLEAN} | {tap.view for learner in self.learners for tap in learner.taps}
        clean = augment(pixels, self.training.augmentation, moment)
        return {view: make(view, clean, moment) for view in sorted(wanted, key=repr)}

    def _read_frozen(self, views: Mapping[View, Made]) -> dict[tuple[NetworkSpec, View], Outputs]:
        """What each frozen network says about each view that a learner wants of it, once for all of them."""
        reads: dict[tuple[NetworkSpec, View], set[str]] = defaultdict(set)
        for learner in self.learners:
            for tap in learner.taps:
                if tap.network != STUDENT:
                    reads[tap.network, tap.view].add(tap.reads)
        with torch.no_grad(), self._autocast():
            return {
                (spec, view): self.frozen[spec].read(views[view].images, wanted)
                for (spec, view), wanted in reads.items()
            }

    def _train(
        self,
        learner: Learner,
        views: Mapping[View, Made],
        frozen: Mapping[tuple[NetworkSpec, View], Outputs],
        mixed: Mapping[View, Mixed],
        labels: Tensor,
        moment: Moment,
        clock: tuple[Tensor, Tensor, Tensor],
        factor: float,
    ) -> Tensor:
        reads: dict[View, set[str]] = {CLEAN: {"logits"}}
        for tap in learner.taps:
            if tap.network == STUDENT:
                reads.setdefault(tap.view, set()).add(tap.reads)
        # Dropout draws from torch's generator: seeded a step, so that it depends on nothing that came before.
        with draws.seeded(learner.seed, "dropout", self.around.diary.phase, moment.epoch, moment.step):
            with self._autocast():
                own: dict[tuple[NetworkSpec, View], Outputs] = {
                    (STUDENT, view): learner.network.read(views[view].images, reads[view]) for view in reads
                }
            step, epoch, progress = clock
            batch = Batch({**frozen, **own}, labels, moment.indices, step, epoch, progress, mixed)
            learner.update(batch, first=True)
            terms = learner.terms(batch)
            learner.optimizer.zero_grad(set_to_none=True)
            torch.stack([term.float() for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        take_step(learner.optimizer, factor)
        learner.update(batch, first=False)
        return learner.add(terms)

    def _autocast(self) -> AbstractContextManager[None]:
        enabled = self.training.precision == "bfloat16"
        return torch.autocast(self.around.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _finish_epoch(self, epoch: int) -> None:
        """Say what the epoch brought; `epoch` counts the finished ones."""
        due = self.evaluates and (epoch % self.around.evaluation.every_epochs == 0 or self.step == self.steps)
        for learner in self.learners:
            means = learner.means()
            _refuse_nonsense(learner.name, means, epoch, self.step)
            means["learning_rate"] = learner.optimizer.param_groups[0]["lr"]
            self.around.diary.record("metrics", student=learner.name, epoch=epoch, step=self.step, values=means)
            if due:
                self._evaluate(learner, epoch)

    def _evaluate(self, learner: Learner, epoch: int) -> None:
        around = self.around
        # Not to be interrupted: between here and the next step the state has no name to be saved under.
        found = score(learner.network, around.data.validation, around.evaluation.batch_size, around.device, Interrupt())
        learner.keep_if_best(epoch, found.correct)
        self._accuracy = found.accuracy
        around.diary.record(
            "evaluation", student=learner.name, epoch=epoch, step=self.step, values=found.values("validation")
        )

    def _say_progress(self, totals: list[Tensor]) -> None:
        since, step_then = self._started
        seconds, steps = time.monotonic() - since, self.step - step_then
        images = self.around.data.facts.train / self.steps_per_epoch
        self.around.diary.progress(
            student=", ".join(learner.name for learner in self.learners),
            epoch=self.step // self.steps_per_epoch,
            epochs=self.training.epochs,
            step=self.step,
            steps=self.steps,
            images_per_second=round(steps * images / seconds, 1),
            seconds_left=round((self.steps - self.step) * seconds / steps, 1),
            loss=_finite(float(totals[0])),
            accuracy=self._accuracy,
        )


def _batches(images: int, batch_size: int) -> int:
    whole, rest = divmod(images, batch_size)
    return whole + (rest >= SMALLEST_BATCH)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _refuse_nonsense(name: str, means: Mapping[str, float], epoch: int, step: int) -> None:
    wrong = [term for term, value in means.items() if term != "loss" and not math.isfinite(value)]
    if wrong or not math.isfinite(means.get("loss", 0.0)):
        raise Impossible(
            f"{name}: {', '.join(wrong) or 'loss'} was no finite number in epoch {epoch}, by step {step}; "
            "a smaller learning rate or weight may help"
        )
