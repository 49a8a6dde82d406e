"""The training loop: one pass over the data and one of each frozen network, for all learners together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker import draws
from worker.dataset import DataFacts, LoadedDataset, Part
from worker.engine.calendar import SMALLEST_BATCH, Calendar
from worker.engine.causes import is_out_of_memory
from worker.engine.checkpoint import State
from worker.engine.diary import Diary
from worker.engine.evaluate import score
from worker.engine.frozen import FrozenNetworks, autocast, frozen_taps
from worker.engine.group import ALONE, Group
from worker.engine.interrupt import Impossible, Interrupt, MemoryExhausted, Stopped
from worker.engine.learner import Learner
from worker.engine.loading import Loaded, batches, chosen_batches
from worker.engine.optimize import course
from worker.engine.store import FORMAT, Store, device_name
from worker.engine.views import Made, Moment, augment, make, mix
from worker.method import Batch, NetworkSpec, Outputs
from worker.network import Network
from worker.recipe import Evaluation, Training
from worker.view import CLEAN, View

GO_ON, FINISH, STOP = range(3)
"""What may be wanted between two steps; the larger counts."""


@dataclass(frozen=True)
class Surroundings:
    """What every trainer of a run shares."""

    data: LoadedDataset
    device: torch.device
    diary: Diary
    interrupt: Interrupt
    evaluation: Evaluation
    checkpoint_is_due: Callable[[], bool]
    train: Part
    """The training part where it is read from: on the device if it fits there."""
    last_checkpoint: Callable[[], str | None] = lambda: None
    """File of the newest checkpoint, if there is one."""
    store: Store | None = None
    """Where outputs of frozen networks are kept; None keeps none."""
    group: Group = ALONE
    """The processes that train together."""


@dataclass(frozen=True)
class Clock:
    """Where a step stands, on the device."""

    step: Tensor
    """0-d int64."""
    epoch: Tensor
    """0-d int64."""
    progress: Tensor
    """0-d float32, in [0, 1)."""

    @classmethod
    def at(cls, step: int, epoch: int, progress: float, device: torch.device) -> Clock:
        # Filled on the device: a copy from the host would make it wait.
        return cls(*(torch.full((), value, device=device) for value in (step, epoch, progress)))


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
        self.training = training
        self.around = surroundings
        self.save = save
        self.evaluates = evaluates
        self._frozen_networks = list(frozen.values())
        self.step = 0
        """Optimizer steps done."""
        self._ends_early = False
        facts = surroundings.data.facts
        mean = facts.mean or (0.5, 0.5, 0.5)
        self._fill = torch.tensor(mean, device=surroundings.device).view(1, 3, 1, 1)
        self.calendar = calendar_of(learners, training, facts)
        self.steps = self.calendar.steps
        self.parts = training.accumulate
        """Parts in which a batch is computed."""
        self.frozen = FrozenNetworks(
            frozen,
            {tap for learner in learners for tap in frozen_taps(learner.taps, learner.spec)},
            training,
            facts.image_size,
            surroundings.device,
            surroundings.group,
        )
        self._views = sorted({CLEAN} | {tap.view for learner in learners for tap in learner.taps}, key=repr)
        # The batches of who chooses its images are its own.
        self._keeps = training.keep_teacher_outputs and learners[0].images is None
        self._fits = surroundings.group.size > 1
        """Whether a batch has been seen to fit into memory; several processes do not look for one that does."""
        self._started = time.monotonic(), 0
        self._accuracy: float | None = None

    def run(self) -> bool:
        """Train from where the state stands to the end of the last epoch; False if asked to finish before it."""
        self._started = time.monotonic(), self.step
        self.around.group.begin_as_one(self._modules())
        self._use_store()
        try:
            while self.step < self.steps and not self._ends_early:
                self._run_epoch(self.calendar.epoch(self.step))
        finally:
            self.frozen.discard()
        return not self._ends_early

    def judge(self) -> None:
        """Look at the validation part with learners that no epoch's end did: as they are now they are their best."""
        for learner in self.learners:
            if not learner.best.weights:
                self._evaluate(learner, self.calendar.epoch(self.step))

    def state(self) -> State:
        return {"step": self.step, "parts": self.parts, "learners": [learner.state() for learner in self.learners]}

    def load(self, state: State) -> None:
        self.step, self.parts = state["step"], state["parts"]
        # What fitted once fits; when it does not now, something else has taken the memory, and later it may.
        self._fits |= self.step > 0 and self.training.on_out_of_memory == "fail"
        for learner, saved in zip(self.learners, state["learners"], strict=True):
            learner.load(saved)

    def _modules(self) -> Iterator[nn.Module]:
        """All that is run or trained here."""
        yield from self._frozen_networks
        for learner in self.learners:
            yield learner.network
            yield from (part.modules for part in learner.parts if part.modules is not None)
            if learner.average is not None:
                yield learner.average

    def _use_store(self) -> None:
        around, training = self.around, self.training
        if around.store is None or not self._keeps:
            return
        decides = {
            "format": FORMAT,
            "torch": torch.__version__,
            "device": device_name(around.device),
            "data": around.data.digest,
            "mean": around.data.facts.mean,
            "augmentation": training.augmentation.model_dump(mode="json"),
            "data_seed": training.data_seed,
            "batch_size": training.batch_size,
            "parts": self.parts,
            "precision": training.precision,
            "threads": training.threads,
        }
        if around.group.size > 1:
            decides["processes"] = around.group.size
        self.frozen.use(around.store, around.data.facts.train, around.data.facts.classes, decides)

    def _run_epoch(self, epoch: int) -> None:
        for learner in self.learners:
            learner.network.train()
        self.frozen.begin_epoch(epoch)
        first, last = self.calendar.within(self.step), self.calendar.batches[epoch]
        loading: Iterator[Loaded] | None = None
        for number in range(first, last):
            self._obey()
            if self._ends_early:
                return
            if number == 0:
                # After the checkpoint, so that a resumed run does not do it twice.
                for learner in self.learners:
                    learner.begin_epoch(epoch)
            if loading is None:
                loading = self._load(epoch, first)
            self._take_step(epoch, next(loading))
        self.frozen.end_epoch()
        self._finish_epoch(epoch + 1)

    def _load(self, epoch: int, first: int) -> Iterator[Loaded]:
        """The batches of an epoch from one of them on."""
        size, images = self.training.batch_size, self.calendar.images[epoch]
        order = draws.order(self.training.data_seed, epoch, images, torch.device("cpu"))
        rows = [order[number * size : (number + 1) * size] for number in range(first, self.calendar.batches[epoch])]
        choice = self.learners[0].choose(epoch)
        if choice is None:
            return batches(self.around.train, rows, self.around.device)
        return chosen_batches(self.around.train, choice, rows, self.around.device)

    def _obey(self) -> None:
        """Do between steps what is wanted of the run; several processes agree on it."""
        interrupt = self.around.interrupt
        wish = self.around.group.strongest(STOP if interrupt.wanted else FINISH if interrupt.finish else GO_ON)
        if wish == STOP:
            self._save()
            self.around.group.wait()
            raise Stopped
        if wish == FINISH:
            for learner in self.learners:
                self._refuse_nonsense(learner)
            self._ends_early = True
        elif self.around.checkpoint_is_due():
            self._save()

    def _save(self) -> None:
        for learner in self.learners:
            self._refuse_nonsense(learner)
        self.save(self.state())

    def _take_step(self, epoch: int, loaded: Loaded) -> None:
        if self._fits:
            self._compute_step(epoch, loaded)
        else:
            self._compute_first_step(epoch, loaded)
            self._fits = True
        self.step += 1
        if self.around.diary.progress_is_due():
            self._say_progress()

    def _compute_first_step(self, epoch: int, loaded: Loaded) -> None:
        """The first step of this trainer, which shows whether a batch fits into memory."""
        before = deepcopy(self.state())
        while True:
            self.around.interrupt.check()
            if self._computes(epoch, loaded):
                return
            self._forget(before)
            if self.training.on_out_of_memory == "fail" or self.parts > len(loaded.labels) // 2:
                raise MemoryExhausted(self._what_fits(epoch, loaded, before))
            self.parts *= 2
            self.around.diary.record(
                "warning",
                step=self.step,
                text=f"a batch of {self.training.batch_size} images does not fit into memory at once; each is computed "
                f"in {self.parts} parts",
            )
            self._use_store()
            self.frozen.begin_epoch(epoch)

    def _computes(self, epoch: int, loaded: Loaded) -> bool:
        """Compute a step; False, halfway through it, when memory runs out."""
        try:
            self._compute_step(epoch, loaded)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _forget(self, before: State) -> None:
        """Take back a step that ended halfway."""
        for learner in self.learners:
            learner.optimizer.zero_grad(set_to_none=True)
        self.load(before | {"parts": self.parts})
        if self.around.device.type == "cuda":
            torch.cuda.empty_cache()

    def _what_fits(self, epoch: int, loaded: Loaded, before: State) -> str:
        """A sentence with the largest batch that fits, found by trying, to an eighth."""
        parts, self.parts = self.parts, 1
        too_many, fitting = -(-len(loaded.labels) // parts), 0
        tried = too_many // 2
        while tried >= SMALLEST_BATCH and too_many - fitting > too_many / 8:
            self.around.interrupt.check()
            if self._computes(epoch, loaded.first(tried)):
                fitting = tried
            else:
                too_many = tried
            self._forget(before)
            tried = (too_many + fitting) // 2
        found = f"{fitting} do" if fitting else f"not even {SMALLEST_BATCH} do"
        images = -(-len(loaded.labels) // parts)
        return f"the device's memory ran out: {images} images of a batch do not fit at once, {found}"

    def _compute_step(self, epoch: int, loaded: Loaded) -> None:
        clock = Clock.at(self.step, epoch, self.step / self.steps, loaded.labels.device)
        factor = course(self.training, self.calendar.done(self.step), 1 / self.calendar.batches[epoch])
        pieces = loaded.parts(self.parts)
        for number, piece in enumerate(pieces):
            # With draws of their own for each part: what a batch shares, a part shares.
            moment = Moment(
                self.training.data_seed,
                epoch,
                self.step * self.parts + number,
                piece.indices,
                self._fill,
                self.frozen.teacher_logits,
            )
            views = self._make_views(piece.pixels, moment)
            outputs = self.frozen.say(views, piece)
            for learner in self.learners:
                if number == 0:
                    learner.optimizer.zero_grad(set_to_none=True)
                share = len(piece.labels) / len(loaded.labels)
                batch = self._learn(learner, views, outputs, piece.labels, moment, clock, share)
                if number == len(pieces) - 1:
                    self.around.group.average_gradients(learner.optimizer)
                    learner.step(factor)
                learner.update(batch, first=False)

    def _make_views(self, pixels: Tensor, moment: Moment) -> dict[View, Made]:
        wanted = self.training.augmentation
        augmented = augment(pixels, wanted, moment).contiguous(memory_format=torch.channels_last)
        clean = mix(augmented, wanted.mix, moment)
        return {view: clean if view == CLEAN else make(view, clean.images, moment) for view in self._views}

    def _learn(
        self,
        learner: Learner,
        views: Mapping[View, Made],
        frozen: Mapping[tuple[NetworkSpec, View], Outputs],
        labels: Tensor,
        moment: Moment,
        clock: Clock,
        share: float,
    ) -> Batch:
        """Add the gradients of a share of a step's batch."""
        reads = learner.reads()
        phase = self.around.diary.phase
        key = torch.full((), draws.key_of(learner.seed, "step", phase, moment.epoch, moment.step), device=labels.device)
        mixed = {view: made.mixed for view, made in views.items() if made.mixed is not None}
        # Dropout draws from torch's generator: seeded a step, so that it depends on nothing that came before.
        with draws.seeded(learner.seed, "dropout", phase, moment.epoch, moment.step):
            with autocast(self.training, labels.device):
                own: dict[tuple[NetworkSpec, View], Outputs] = {
                    (learner.spec, view): self.around.group.read(learner.network, views[view].images, reads[view])
                    for view in reads
                }
            batch = Batch(
                {**frozen, **own}, labels, moment.indices, clock.step, clock.epoch, clock.progress, key, mixed
            )
            learner.update(batch, first=True)
            terms = learner.terms(batch)
            loss = torch.stack([term.float() for term in terms.values()]).sum()
            (share * loss).backward()  # type: ignore[no-untyped-call]
        learner.tally.add(terms, share, self.step)
        return batch

    def _finish_epoch(self, epoch: int) -> None:
        """Say what the epoch brought; `epoch` counts the finished ones."""
        due = self.evaluates and (epoch % self.around.evaluation.every_epochs == 0 or self.step == self.steps)
        for learner in self.learners:
            self._refuse_nonsense(learner)
            means = learner.tally.means()
            means["learning_rate"] = learner.optimizer.param_groups[0]["lr"]
            self.around.diary.record("metrics", student=learner.name, epoch=epoch, step=self.step, values=means)
            if due:
                self._evaluate(learner, epoch)

    def _evaluate(self, learner: Learner, epoch: int) -> None:
        around = self.around
        # Not to be interrupted: between here and the next step the state has no name to be saved under.
        found = score(
            learner.judged,
            around.data.validation,
            around.evaluation.batch_size,
            around.device,
            Interrupt(),
            around.group,
        )
        if not math.isfinite(found.loss):
            raise Impossible(self._nonsense(learner.name, "validation.loss", self.step, epoch))
        learner.keep_if_best(epoch, found.correct)
        self._accuracy = found.accuracy
        around.diary.record(
            "evaluation", student=learner.name, epoch=epoch, step=self.step, values=found.values("validation")
        )

    def _refuse_nonsense(self, learner: Learner) -> None:
        wrong = learner.tally.first_wrong()
        if wrong is not None:
            step, terms = wrong
            raise Impossible(self._nonsense(learner.name, ", ".join(terms), step + 1, self.calendar.epoch(step) + 1))

    def _nonsense(self, name: str, what: str, step: int, epoch: int) -> str:
        """What is said of a number that is none; step and epoch are counted from 1."""
        last = self.around.last_checkpoint()
        return (
            f"{name}: {what} was no finite number in step {step}, epoch {epoch}; a smaller learning rate or weight may "
            f"help; the last good checkpoint is {last or 'none'}"
        )

    def _say_progress(self) -> None:
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
            loss=_finite(float(self.learners[0].tally.latest)),
            accuracy=self._accuracy,
        )


def calendar_of(learners: list[Learner], training: Training, facts: DataFacts) -> Calendar:
    """The steps of a training of learners side by side."""
    chosen = [learner.images for learner in learners if learner.images is not None]
    assert not chosen or len(learners) == 1, "who chooses its images has a pass over the data of its own"
    return Calendar(chosen[0] if chosen else [facts.train] * training.epochs, training.batch_size)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
