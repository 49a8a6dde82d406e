"""The training loop: one pass over the data and one of each frozen network, for all networks together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from retort import draws
from retort.dataset import DataFacts, LoadedDataset, Split
from retort.draws import DrawPoint
from retort.engine.checkpoint import State
from retort.engine.epoch_plan import EpochPlan
from retort.engine.evaluate import score
from retort.engine.event_log import EventLog
from retort.engine.frozen import FrozenNetworks, autocast, frozen_taps
from retort.engine.group import ALONE, Group
from retort.engine.interrupt import Diverged, Interrupt, Stopped
from retort.engine.learning import FEWEST_STEPS, SHARE_LOOKED_AT
from retort.engine.loading import LoadedBatch, batches, chosen_batches
from retort.engine.memory import first_step
from retort.engine.optimize import course
from retort.engine.teacher_cache import FORMAT, TeacherCache, device_name
from retort.engine.train_state import TrainState
from retort.method import Batch, NetworkSpec
from retort.network import Network
from retort.outputs import Outputs
from retort.recipe import Evaluation, Training
from retort.task import Task
from retort.view import CLEAN, View, ViewBatch

COMPARED_INPUTS = 2
"""Random inputs on which a network is compared with the copy of it that is made quick."""
GO_ON, FINISH, STOP = range(3)
"""Requests between two steps; the larger counts."""


@dataclass(frozen=True)
class TrainerContext:
    """Everything that the trainers of a run share."""

    task: Task
    data: LoadedDataset
    device: torch.device
    event_log: EventLog
    interrupt: Interrupt
    evaluation: Evaluation
    checkpoint_is_due: Callable[[], bool]
    train: Split
    """The training split where it is read from: on the device if it fits there."""
    last_checkpoint: Callable[[], str | None] = lambda: None
    """File of the newest checkpoint, if there is one."""
    cache: TeacherCache | None = None
    """The cache of frozen networks' outputs; None caches none."""
    group: Group = ALONE
    """The processes that train together."""


@dataclass(frozen=True)
class Clock:
    """The place of a step in the training, on the device."""

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
    """Trains networks side by side; the result of one does not depend on the others.

    `save` takes the trainer's state and writes a checkpoint of the whole run; it is called between steps, when one is
    due or a stop is wanted.
    """

    def __init__(
        self,
        train_states: list[TrainState],
        frozen: Mapping[NetworkSpec, Network],
        training: Training,
        context: TrainerContext,
        save: Callable[[State], None],
        *,
        evaluates: bool = True,
    ) -> None:
        self.train_states = train_states
        self.training = training
        self.context = context
        self.save = save
        self.evaluates = evaluates
        self._frozen_networks = list(frozen.values())
        self.step = 0
        """Optimizer steps done."""
        self._ends_early = False
        facts = context.data.facts
        self.epoch_plan = epoch_plan_of(train_states, training, facts)
        self.steps = self.epoch_plan.steps
        self.micro_batches = training.gradient_accumulation
        """Micro-batches in which a batch is computed."""
        self.frozen = FrozenNetworks(
            frozen,
            {tap for train_state in train_states for tap in frozen_taps(train_state.taps, train_state.spec)},
            training,
            context.task.sample(facts, COMPARED_INPUTS, seed=0),
            context.device,
            context.group,
        )
        self._views = sorted({CLEAN} | {tap.view for train_state in train_states for tap in train_state.taps}, key=repr)
        # A network that chooses its examples has batches of its own.
        self._caches = training.cache_teacher_outputs and train_states[0].examples is None
        self._fits = context.group.size > 1
        """Whether a batch has been seen to fit into memory; several processes do not search for one that does."""
        self._started = time.monotonic(), 0
        self._value: float | None = None
        """Headline metric of the last evaluation."""

    def run(self) -> bool:
        """Train from where the state stands to the end of the last epoch; False if asked to finish before it."""
        self._started = time.monotonic(), self.step
        self.context.group.begin_as_one(self._modules())
        self.use_cache()
        try:
            while self.step < self.steps and not self._ends_early:
                self._run_epoch(self.epoch_plan.epoch(self.step))
            self._write_progress()
        finally:
            self.frozen.discard()
        return not self._ends_early

    def evaluate_unevaluated(self) -> None:
        """Evaluate those that no epoch's end did: as they are now they are their best."""
        for train_state in self.live:
            if not train_state.best.weights:
                self._evaluate(train_state, self.epoch_plan.epoch(self.step))

    def state(self) -> State:
        return {
            "step": self.step,
            "micro_batches": self.micro_batches,
            "train_states": [train_state.state() for train_state in self.train_states],
        }

    def load(self, state: State) -> None:
        self.step, self.micro_batches = state["step"], state["micro_batches"]
        # A batch that fitted once fits; where it does not now, something else has taken the memory, and later it may.
        self._fits |= self.step > 0 and self.training.on_out_of_memory == "fail"
        for train_state, saved in zip(self.train_states, state["train_states"], strict=True):
            train_state.load(saved)

    def _modules(self) -> Iterator[nn.Module]:
        """All that is run or trained here."""
        yield from self._frozen_networks
        for train_state in self.train_states:
            yield train_state.network
            yield from (each.modules for each in train_state.method_states if each.modules is not None)
            if train_state.average is not None:
                yield train_state.average

    @property
    def live(self) -> list[TrainState]:
        """The networks whose numbers have all been finite."""
        return [train_state for train_state in self.train_states if train_state.lost is None]

    @property
    def device(self) -> torch.device:
        return self.context.device

    def check_interrupt(self) -> None:
        """Raise Stopped if a stop is wanted."""
        self.context.interrupt.check()

    def warn(self, text: str) -> None:
        """Put a warning about the current step into the event log."""
        self.context.event_log.record("warning", step=self.step, text=text)

    def use_cache(self) -> None:
        """Take outputs of frozen networks from the cache, where there is one."""
        context, training = self.context, self.training
        if context.cache is None or not self._caches:
            return
        decides = {
            "format": FORMAT,
            "torch": torch.__version__,
            "device": device_name(context.device),
            "data": context.data.digest,
            "task": context.task.name,
            "facts": context.data.facts.model_dump(mode="json"),
            "augmentation": training.augmentation.model_dump(mode="json"),
            "data_seed": training.data_seed,
            "batch_size": training.batch_size,
            "micro_batches": self.micro_batches,
            "precision": training.precision,
            "threads": training.threads,
        }
        if context.group.size > 1:
            decides["processes"] = context.group.size
        facts = context.data.facts
        self.frozen.use(context.cache, facts.train, context.task.outputs(facts), decides)

    def _run_epoch(self, epoch: int) -> None:
        for train_state in self.live:
            train_state.network.train()
        self.frozen.begin_epoch(epoch)
        first, last = self.epoch_plan.within(self.step), self.epoch_plan.batches[epoch]
        loading: Iterator[LoadedBatch] | None = None
        for number in range(first, last):
            self._follow_requests()
            if self._ends_early:
                return
            if number == 0:
                # After the checkpoint, so that a resumed run does not do it twice.
                for train_state in self.live:
                    train_state.begin_epoch(epoch)
            if loading is None:
                loading = self._load(epoch, first)
            self._take_step(epoch, next(loading))
        self.frozen.end_epoch()
        self._finish_epoch(epoch + 1)

    def _load(self, epoch: int, first: int) -> Iterator[LoadedBatch]:
        """The batches of an epoch from one of them on."""
        size, examples = self.training.batch_size, self.epoch_plan.examples[epoch]
        order = draws.order(self.training.data_seed, epoch, examples, torch.device("cpu"))
        rows = [order[number * size : (number + 1) * size] for number in range(first, self.epoch_plan.batches[epoch])]
        choice = self.train_states[0].choose(epoch)
        if choice is None:
            return batches(self.context.train, rows, self.context.device)
        return chosen_batches(self.context.train, choice, rows, self.context.device, self.context.task.blend)

    def _follow_requests(self) -> None:
        """Act on requests between steps; several processes agree on them."""
        interrupt = self.context.interrupt
        request = self.context.group.strongest(STOP if interrupt.wanted else FINISH if interrupt.finish else GO_ON)
        if request == STOP:
            self._save()
            self.context.group.wait()
            raise Stopped
        if request == FINISH:
            self._leave_out_nonsense()
            self._ends_early = True
        elif self.context.checkpoint_is_due():
            self._save()

    def _save(self) -> None:
        # One process alone saves, and networks are left out where all processes do so. A network that will be left out
        # at the end of the epoch does no harm until then.
        if all(train_state.term_sums.first_wrong() for train_state in self.live):
            self._leave_out_nonsense()
        self.save(self.state())

    def _take_step(self, epoch: int, loaded: LoadedBatch) -> None:
        if self._fits:
            self.compute_step(epoch, loaded)
        else:
            first_step(self, epoch, loaded)
            self._fits = True
        self.step += 1
        if self.context.event_log.progress_is_due():
            self._write_progress()

    def compute_step(self, epoch: int, loaded: LoadedBatch) -> None:
        clock = Clock.at(self.step, epoch, self.step / self.steps, loaded.inputs.device)
        factor = course(self.training, self.epoch_plan.done(self.step), 1 / self.epoch_plan.batches[epoch])
        micro_batches = loaded.micro_batches(self.micro_batches)
        for number, micro_batch in enumerate(micro_batches):
            # With draws of their own for each micro-batch: what a batch shares, a micro-batch shares.
            point = DrawPoint(
                self.training.data_seed,
                epoch,
                self.step * self.micro_batches + number,
                micro_batch.indices,
                self.frozen.teacher_logits,
            )
            views = self.context.task.make_views(
                micro_batch.inputs, self._views, self.training.augmentation, self.context.data.facts, point
            )
            outputs = self.frozen.read(views, micro_batch)
            for train_state in self.live:
                if number == 0:
                    train_state.optimizer.zero_grad(set_to_none=True)
                share = len(micro_batch.targets) / len(loaded.targets)
                batch = self._add_gradients(train_state, views, outputs, micro_batch.targets, point, clock, share)
                if number == len(micro_batches) - 1:
                    self.context.group.average_gradients(train_state.optimizer)
                    train_state.step(factor)
                train_state.update(batch, first=False)

    def _add_gradients(
        self,
        train_state: TrainState,
        views: Mapping[View, ViewBatch],
        frozen: Mapping[tuple[NetworkSpec, View], Outputs],
        targets: Tensor,
        point: DrawPoint,
        clock: Clock,
        share: float,
    ) -> Batch:
        """Add the gradients of a share of a step's batch."""
        reads = train_state.reads()
        phase = self.context.event_log.phase
        key = torch.full(
            (),
            draws.key_of(train_state.seed, "step", phase, point.epoch, point.step),
            device=targets.device,
        )
        mixed = {view: made.mixed for view, made in views.items() if made.mixed is not None}
        # Dropout draws from torch's generator: seeded a step, so that it depends on nothing that came before.
        with draws.seeded(train_state.seed, "dropout", phase, point.epoch, point.step):
            with autocast(self.training, targets.device):
                own: dict[tuple[NetworkSpec, View], Outputs] = {
                    (train_state.spec, view): self.context.group.read(
                        train_state.network, views[view].inputs, reads[view]
                    )
                    for view in reads
                }
            batch = Batch(
                {**frozen, **own}, targets, point.indices, clock.step, clock.epoch, clock.progress, key, mixed
            )
            train_state.update(batch, first=True)
            terms = train_state.terms(batch)
            loss = torch.stack([term.float() for term in terms.values()]).sum()
            (share * loss).backward()  # type: ignore[no-untyped-call]
        train_state.term_sums.add(terms, share, self.step)
        return batch

    def _finish_epoch(self, epoch: int) -> None:
        """Record the means of an epoch's terms, and evaluate where that is due; `epoch` counts the finished ones."""
        due = self.evaluates and (epoch % self.context.evaluation.every_epochs == 0 or self.step == self.steps)
        self._leave_out_nonsense()
        for train_state in self.live:
            means = train_state.term_sums.means()
            means["learning_rate"] = train_state.optimizer.param_groups[0]["lr"]
            self.context.event_log.record(
                "metrics", network=train_state.name, epoch=epoch, step=self.step, values=means
            )
            self._tell(train_state, train_state.watch.end_epoch(means["loss"], epoch))
            if due:
                self._evaluate(train_state, epoch)

    def _evaluate(self, train_state: TrainState, epoch: int) -> None:
        context, task = self.context, self.context.task
        # Not to be interrupted: between here and the next step the state has no name to be saved under.
        found = score(
            task,
            train_state.evaluated,
            context.data.validation,
            context.evaluation.batch_size,
            context.device,
            Interrupt(),
            context.group,
        )
        wrong = [f"validation.{name}" for name, value in found.metrics.items() if not math.isfinite(value)]
        if wrong:
            self._leave_out(train_state, ", ".join(wrong), self.step, epoch)
            return
        self._value = found.metrics[task.headline.name]
        train_state.keep_if_best(epoch, self._value)
        context.event_log.record(
            "evaluation", network=train_state.name, epoch=epoch, step=self.step, values=found.values("validation")
        )
        chance = task.chance(context.data.validation.targets)
        long = self.step >= FEWEST_STEPS or train_state.watch.signs
        if chance is not None and long and self.step >= SHARE_LOOKED_AT * self.steps:
            self._tell(train_state, train_state.watch.evaluated(task, self._value, chance, epoch))

    def _tell(self, train_state: TrainState, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            self.context.event_log.record("warning", network=train_state.name, step=self.step, text=sentence)

    def _leave_out_nonsense(self) -> None:
        """Train those no further of whose terms one was not a finite number. Raises Diverged where none is left."""
        for train_state in self.live:
            if (wrong := train_state.term_sums.first_wrong()) is not None:
                step, terms = wrong
                self._leave_out(train_state, ", ".join(terms), step + 1, self.epoch_plan.epoch(step) + 1)

    def _leave_out(self, train_state: TrainState, what: str, step: int, epoch: int) -> None:
        """Train a network no further; step and epoch are those of a number that is not finite, counted from 1."""
        train_state.lost = (
            f"{train_state.name}: {what} was not a finite number in step {step}, epoch {epoch}; a smaller learning "
            "rate or weight may help"
        )
        self.context.event_log.record("warning", network=train_state.name, step=step, text=train_state.lost)
        if not self.live:
            raise Diverged(
                f"{train_state.lost}; the last good checkpoint is {self.context.last_checkpoint() or 'none'}"
            )

    def _write_progress(self) -> None:
        """Write where the training stands; speed and time left once steps were taken, and are left."""
        since, step_then = self._started
        seconds, steps, left = time.monotonic() - since, self.step - step_then, self.steps - self.step
        goes_on = bool(steps and left and not self._ends_early)
        examples = sum(self.epoch_plan.examples) / self.steps
        self.context.event_log.progress(
            network=", ".join(train_state.name for train_state in self.live),
            epoch=self.epoch_plan.epoch(self.step),
            epochs=self.training.epochs,
            step=self.step,
            steps=self.steps,
            examples_per_second=round(steps * examples / seconds, 1) if goes_on else None,
            seconds_left=round(left * seconds / steps, 1) if goes_on else None,
            loss=_finite(float(self.live[0].term_sums.latest)),
            metric=self.context.task.headline.name,
            value=self._value,
        )


def epoch_plan_of(train_states: list[TrainState], training: Training, facts: DataFacts) -> EpochPlan:
    """The steps of a training of networks side by side."""
    chosen = [one.examples for one in train_states if one.examples is not None]
    assert not chosen or len(train_states) == 1, "a network that chooses its examples has a pass of its own"
    return EpochPlan(chosen[0] if chosen else [facts.train] * training.epochs, training.batch_size)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
