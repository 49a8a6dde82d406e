"""The estimate of a recipe: its real networks, data and steps, some of each kind, timed."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch
from scipy.stats import t

from retort.engine import networks
from retort.engine.artifacts import NetworkResult, Packer
from retort.engine.checkpoint import State
from retort.engine.compress import weights_dtype
from retort.engine.context import RunContext, prepare, redoing, resolve_for
from retort.engine.distil import distil
from retort.engine.epoch_plan import EpochPlan, TrainingExtent
from retort.engine.evaluate import passes
from retort.engine.event_log import EventLog
from retort.engine.export import describe, formats, trained
from retort.engine.group import ALONE, Group
from retort.engine.interrupt import Interrupt
from retort.engine.teach import teach
from retort.engine.train_state import TrainState
from retort.engine.trainer import Trainer
from retort.estimate import REPORT, Estimate
from retort.event import Kind
from retort.method import NetworkSpec
from retort.network import Network
from retort.order import Paths
from retort.recipe import Training

WARM_UP = 3
"""First steps of each kind, which are not timed: libraries choose their ways in them."""
TIMED_BATCHES = 8
"""Batches of the test split that are timed."""
CONFIDENCE = 0.95
BOUNDS = ("low", "mean", "high")


class PhaseLog(EventLog):
    """Records phases and warnings alone: other records of a run would be taken for the job's."""

    @classmethod
    def of(cls, event_log: EventLog) -> PhaseLog:
        """A log that writes where another one does."""
        aside = cls.__new__(cls)
        vars(aside).update(vars(event_log))
        return aside

    def record(self, kind: Kind, **fields: Any) -> None:
        if kind in ("phase", "warning"):
            super().record(kind, **fields)


class SectionTimer:
    """Trains some steps of each section and times them, in the place of the whole section."""

    def __init__(self, context: RunContext, timed_steps: int) -> None:
        self.context = context
        self.timed_steps = timed_steps
        self.teacher_state: State | None = None
        self.saved: State | None = None
        self.sections: list[dict[str, Any]] = []
        """The report's entry of each."""
        self.checkpoint_bytes = 0
        """Of the largest checkpoint that the job would write."""

    def train(
        self,
        section: str,
        train_states: list[TrainState],
        training: Training,
        frozen: dict[NetworkSpec, Network],
        rest: Callable[[], State] = dict,
        *,
        evaluates: bool = True,
        in_loop: bool = False,
    ) -> TrainingExtent:
        """Time some steps, and one evaluation on the validation split."""
        context, device = self.context, self.context.device
        stamps: list[float] = []
        enough = Interrupt()

        def stamp() -> bool:
            """Whether a checkpoint is due, which it never is; called before each step."""
            context.interrupt.check()
            stamps.append(now(device))
            if len(stamps) > WARM_UP + self.timed_steps:
                enough.finish = True
            return False

        around = context.trainer_context(stamp, enough, cache=None)
        trainer = Trainer(train_states, frozen, training, around, lambda state: None, evaluates=False)
        trainer.run()
        stamps.append(now(device))
        held = [trainer.state(), self.teacher_state, rest()]
        self.checkpoint_bytes = max(self.checkpoint_bytes, tensor_bytes(held))
        seconds = [after - before for before, after in pairwise(stamps)]
        # A training of few steps has no others than the first.
        seconds = seconds[WARM_UP : WARM_UP + self.timed_steps] or seconds
        begin = now(device)
        if evaluates:
            trainer.evaluate_unevaluated()
        evaluation = now(device) - begin if evaluates else 0.0
        self._add(train_states, trainer.epoch_plan, seconds, evaluation, evaluates=evaluates)
        return trainer.epoch_plan.extent(trainer.epoch_plan.steps)

    def _add(
        self,
        train_states: list[TrainState],
        plan: EpochPlan,
        seconds: list[float],
        evaluation: float,
        *,
        evaluates: bool,
    ) -> None:
        epochs = len(plan.batches)
        evaluations = -(-epochs // self.context.recipe.evaluation.every_epochs) if evaluates else 0
        step = _interval(seconds)
        self.sections.append(
            {
                "phase": self.context.event_log.phase,
                "networks": [train_state.name for train_state in train_states],
                "steps": plan.steps,
                "epochs": epochs,
                "timed_steps": len(seconds),
                "seconds_per_step": step,
                "seconds_per_epoch": _times(step, plan.steps / epochs),
                "evaluations": evaluations,
                "seconds_per_evaluation": evaluation,
                "seconds": {k: v + evaluations * evaluation for k, v in _times(step, plan.steps).items()},
            }
        )


class Estimation:
    """Carries out an estimate. Raises what a run raises; writes no checkpoint and caches no teacher outputs."""

    def __init__(
        self, spec: Estimate, paths: Paths, event_log: EventLog, interrupt: Interrupt, group: Group = ALONE
    ) -> None:
        self.recipe = resolve_for(spec.recipe, group.device)
        self.paths = paths.model_copy(update={"teacher_cache": None})
        self.event_log = event_log
        self.interrupt = interrupt
        self.group = group
        self.timed_steps = spec.steps

    def __call__(self) -> None:
        begin = time.monotonic()
        with redoing(self.interrupt, self.group, begun=False):
            context, _ = prepare(self.recipe, self.paths, PhaseLog.of(self.event_log), self.interrupt, self.group)
        preparing = time.monotonic() - begin
        timer = SectionTimer(context, self.timed_steps)
        teacher = teach(context, timer)
        students, _ = distil(context, timer, teacher)
        results = [teacher, *students] if teacher else students
        testing, exporting, sizes = _time_testing(context, results), *_time_exports(context, results)
        report = _report(context, timer, preparing, testing, exporting, sizes)
        self.event_log.enter("reporting")
        self.event_log.record("report", data=report)
        with Packer(self.paths.directory) as packer:
            packer.write_json(REPORT, None, report)


def now(device: torch.device) -> float:
    """Seconds of a monotonic clock, once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def _time_testing(context: RunContext, results: list[NetworkResult]) -> dict[str, float]:
    """Seconds of all evaluations on the test split, and of the passes over the training split for diagnostics.

    From a few batches of the test split, the first of which is not timed.
    """
    context.event_log.enter("evaluating")
    size, test, device = context.recipe.evaluation.batch_size, context.data.test, context.device
    some = torch.arange(min(len(test), (1 + TIMED_BATCHES) * size))
    total = dict.fromkeys(BOUNDS, 0.0)
    for result in results:
        stamps = [now(device)]
        for _ in passes(context.task, result.network, test, size, device, interrupt=context.interrupt, positions=some):
            stamps.append(now(device))
        seconds = [after - before for before, after in pairwise(stamps)]
        evaluations = 1 if result.best_epoch is None else len({"best", "last", context.recipe.evaluation.ship})
        batches = evaluations * -(-len(test) // size)
        if context.task.diagnoses(result.card):
            batches += -(-len(context.data.train) // size)
        taken = _times(_interval(seconds[1:] or seconds), batches)
        total = {bound: total[bound] + taken[bound] for bound in BOUNDS}
    return total


def _time_exports(context: RunContext, results: list[NetworkResult]) -> tuple[float, dict[str, int]]:
    """Seconds of all exports, each written once, and bytes of each file by its name; none of them stays."""
    context.event_log.enter("exporting")
    sizes: dict[str, int] = {}
    begin = now(context.device)
    with TemporaryDirectory(dir=context.paths.directory) as folder:
        for result in trained(results):
            result.load("last", weights_dtype(context.recipe, result))
            networks.plain(networks.freeze(result.network))
            description = describe(context, result, None)
            for each in formats(context, result):
                context.interrupt.check()
                file = Path(folder) / f"{result.name}{each.suffix}"
                each.write(result.network, description, file)
                sizes[file.name] = file.stat().st_size
    return now(context.device) - begin, sizes


def _report(
    context: RunContext,
    timer: SectionTimer,
    preparing: float,
    testing: dict[str, float],
    exporting: float,
    sizes: dict[str, int],
) -> dict[str, Any]:
    total = {
        bound: preparing + sum(one["seconds"][bound] for one in timer.sections) + testing[bound] + exporting
        for bound in BOUNDS
    }
    device = context.device
    on_gpu = device.type == "cuda"
    above = "what the device's allocator set aside" if on_gpu else "that with a copy of all that a checkpoint saves"
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else _process_bytes()
    most = torch.cuda.max_memory_reserved(device) if on_gpu else peak + timer.checkpoint_bytes
    return {
        "device": device.type,
        "preparing_seconds": preparing,
        "sections": timer.sections,
        "testing_seconds": testing,
        "exporting_seconds": exporting,
        "total_seconds": total,
        "peak_bytes": {"low": peak, "high": most},
        "peak_of": "the device's memory" if on_gpu else "the process",
        "artifact_bytes": sizes,
        "interval": f"{CONFIDENCE:.0%} of Student's t over the timed steps, and over some batches of the test "
        "split, as if they were independent; preparing, evaluations and exports count as measured once; writing "
        f"checkpoints is left out. Memory: from what was measured here to {above}",
    }


def _interval(seconds: list[float]) -> dict[str, float]:
    """Mean of the steps' seconds, and where it lies with that confidence."""
    middle = mean(seconds)
    width = 0.0
    if len(seconds) > 1:
        width = float(t.ppf((1 + CONFIDENCE) / 2, len(seconds) - 1)) * stdev(seconds) / sqrt(len(seconds))
    return {"low": max(0.0, middle - width), "mean": middle, "high": middle + width}


def tensor_bytes(held: Any) -> int:
    """Bytes of all tensors in nested dictionaries and lists."""
    if isinstance(held, torch.Tensor):
        return held.numel() * held.element_size()
    if isinstance(held, Mapping):
        return sum(map(tensor_bytes, held.values()))
    return sum(map(tensor_bytes, held)) if isinstance(held, list | tuple) else 0


def _times(interval: dict[str, float], factor: float) -> dict[str, float]:
    return {name: value * factor for name, value in interval.items()}


def _process_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
