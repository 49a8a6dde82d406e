"""The training loop: one pass over the data and one of each frozen network, for all learners together."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from worker import draws
from worker.dataset import LoadedDataset
from worker.engine.calendar import Calendar
from worker.engine.checkpoint import State
from worker.engine.diary import Diary
from worker.engine.evaluate import score
from worker.engine.interrupt import Impossible, Interrupt, Stopped
from worker.engine.learner import Learner
from worker.engine.optimize import course, take_step
from worker.engine.views import Made, Moment, augment, make
from worker.method import STUDENT, TEACHER, Batch, Choice, Mixed, NetworkSpec, Outputs
from worker.network import Network
from worker.recipe import Evaluation, Training
from worker.view import CLEAN, View


@dataclass(frozen=True)
class Surroundings:
    """What every trainer of a run shares."""

    data: LoadedDataset
    device: torch.device
    diary: Diary
    interrupt: Interrupt
    evaluation: Evaluation
    checkpoint_is_due: Callable[[], bool]


@dataclass(frozen=True)
class Loaded:
    """A batch before augmentation: positions in the training part, (N, 3, H, W) uint8 pixels, labels."""

    indices: Tensor
    pixels: Tensor
    labels: Tensor


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
        chosen = [learner.images for learner in learners if learner.images is not None]
        assert not chosen or len(learners) == 1, "who chooses its images has a pass over the data of its own"
        self.calendar = Calendar(chosen[0] if chosen else [facts.train] * training.epochs, training.batch_size)
        self.steps = self.calendar.steps
        self._started = time.monotonic(), 0
        self._accuracy: float | None = None

    def run(self) -> None:
        """Train from where the state stands to the end of the last epoch."""
        self._started = time.monotonic(), self.step
        while self.step < self.steps:
            self._run_epoch(self.calendar.epoch(self.step))

    def state(self) -> State:
        return {"step": self.step, "learners": [learner.state() for learner in self.learners]}

    def load(self, state: State) -> None:
        self.step = state["step"]
        for learner, saved in zip(self.learners, state["learners"], strict=True):
            learner.load(saved)

    def _run_epoch(self, epoch: int) -> None:
        for learner in self.learners:
            learner.network.train()
        choice: Choice | None = None
        size, first = self.training.batch_size, self.calendar.within(self.step)
        order = draws.order(self.training.data_seed, epoch, self.calendar.images[epoch], torch.device("cpu"))
        for number in range(first, self.calendar.batches[epoch]):
            self._save_if_wanted()
            if number == 0:
                # After the checkpoint, so that a resumed run does not do it twice.
                for learner in self.learners:
                    learner.begin_epoch(epoch)
            if number == first:
                choice = self.learners[0].choose(epoch)
            self._take_step(epoch, self._load(order[number * size : (number + 1) * size], choice))
        self._finish_epoch(epoch + 1)

    def _load(self, rows: Tensor, choice: Choice | None) -> Loaded:
        """The images at some rows of an epoch's choice, or of the whole training part."""
        train = self.around.data.train
        if choice is None:
            return Loaded(rows, train.images(rows), train.labels[rows])
        indices = choice.positions.cpu()[rows]
        pixels = train.images(indices)
        if choice.partner is not None and choice.weight is not None:
            weight = choice.weight.cpu()[rows].view(-1, 1, 1, 1)
            other = train.images(choice.partner.cpu()[rows])
            pixels = (weight * pixels + (1 - weight) * other).to(torch.uint8)
        return Loaded(indices, pixels, train.labels[indices])

    def _save_if_wanted(self) -> None:
        if self.around.interrupt.wanted:
            self.save(self.state())
            raise Stopped
        if self.around.checkpoint_is_due():
            self.save(self.state())

    def _take_step(self, epoch: int, loaded: Loaded) -> None:
        device = self.around.device
        labels = loaded.labels.to(device)
        moment = Moment(
            self.training.data_seed, epoch, self.step, loaded.indices.to(device), self._fill, self._teacher_logits
        )
        views = self._make_views(loaded.pixels.to(device), moment)
        outputs = self._read_frozen(views)
        mixed = {view: made.mixed for view, made in views.items() if made.mixed is not None}
        clock = (
            torch.tensor(self.step, device=device),
            torch.tensor(epoch, device=device),
            torch.tensor(self.step / self.steps, device=device),
        )
        factor = course(self.training, self.calendar.done(self.step), 1 / self.calendar.batches[epoch])
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
                if tap.network not in (STUDENT, learner.spec):
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
        reads = learner.reads()
        key = torch.tensor(draws.key_of(learner.seed, "step", self.around.diary.phase, moment.epoch, moment.step))
        # Dropout draws from torch's generator: seeded a step, so that it depends on nothing that came before.
        with draws.seeded(learner.seed, "dropout", self.around.diary.phase, moment.epoch, moment.step):
            with self._autocast():
                own: dict[tuple[NetworkSpec, View], Outputs] = {
                    (learner.spec, view): learner.network.read(views[view].images, reads[view]) for view in reads
                }
            step, epoch, progress = clock
            key = key.to(labels.device)
            batch = Batch({**frozen, **own}, labels, moment.indices, step, epoch, progress, key, mixed)
            learner.update(batch, first=True)
            terms = learner.terms(batch)
            learner.optimizer.zero_grad(set_to_none=True)
            torch.stack([term.float() for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        take_step(learner.optimizer, factor)
        learner.update(batch, first=False)
        return learner.add(terms)

    def _teacher_logits(self, images: Tensor) -> Tensor:
        """(N, K) what the teacher says of images, for views that depend on it."""
        with torch.no_grad(), self._autocast():
            return self.frozen[TEACHER].read(images).logits

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
        _refuse_nonsense(learner.name, {"validation.loss": found.loss}, epoch, self.step)
        learner.keep_if_best(epoch, found.correct)
        self._accuracy = found.accuracy
        around.diary.record(
            "evaluation", student=learner.name, epoch=epoch, step=self.step, values=found.values("validation")
        )

    def _say_progress(self, totals: list[Tensor]) -> None:
        since, step_then = self._started
        seconds, steps = time.monotonic() - since, self.step - step_then
        images = sum(self.calendar.images) / self.steps
        self.around.diary.progress(
            student=", ".join(learner.name for learner in self.learners),
            epoch=self.calendar.epoch(self.step),
            epochs=self.training.epochs,
            step=self.step,
            steps=self.steps,
            images_per_second=round(steps * images / seconds, 1),
            seconds_left=round((self.steps - self.step) * seconds / steps, 1),
            loss=_finite(float(totals[0])),
            accuracy=self._accuracy,
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _refuse_nonsense(name: str, means: Mapping[str, float], epoch: int, step: int) -> None:
    wrong = [term for term, value in means.items() if term != "loss" and not math.isfinite(value)]
    if wrong or not math.isfinite(means.get("loss", 0.0)):
        raise Impossible(
            f"{name}: {', '.join(wrong) or 'loss'} was no finite number in epoch {epoch}, by step {step}; "
            "a smaller learning rate or weight may help"
        )
