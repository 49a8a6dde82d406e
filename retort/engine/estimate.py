"""What a recipe would take: its real networks, data and steps, some of each kind."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch
from scipy.stats import t

from retort.engine import networks
from retort.engine.artifacts import NetworkResult, Packer, describe_result
from retort.engine.checkpoint import State
from retort.engine.epoch_plan import TrainingExtent
from retort.engine.evaluate import Score, passes
from retort.engine.event_log import EventLog
from retort.engine.group import ALONE, Group
from retort.engine.interrupt import Interrupt
from retort.engine.run import LARGEST_COLLAPSE_WIDTH, Run, RunPaths
from retort.engine.train_state import TrainState
from retort.engine.trainer import Trainer, TrainerContext
from retort.estimate import REPORT, Estimate
from retort.event import Kind
from retort.exports.safetensors import Safetensors
from retort.method import NetworkSpec
from retort.network import Network
from retort.recipe import Training

WARM_UP = 3
"""First steps of each kind, which are not timed: libraries choose their ways in them."""
TIMED_BATCHES = 8
"""Batches of the test part that are timed."""
CONFIDENCE = 0.95
BOUNDS = ("low", "mean", "high")


class _Aside(EventLog):
    """Says phases and warnings alone: what else a run says would be taken for the job's."""

    @classmethod
    def of(cls, event_log: EventLog) -> _Aside:
        aside = cls.__new__(cls)
        vars(aside).update(vars(event_log))
        return aside

    def record(self, kind: Kind, **fields: Any) -> None:
        if kind in ("phase", "warning"):
            super().record(kind, **fields)


class Estimation(Run):
    """Carries out an estimate. Raises what a run raises; writes no checkpoint and keeps no teacher outputs."""

    def __init__(
        self, spec: Estimate, place: RunPaths, event_log: EventLog, interrupt: Interrupt, group: Group = ALONE
    ) -> None:
        recipe = spec.recipe.model_copy(update={"require_teacher_accuracy": None})
        super().__init__(recipe, replace(place, store=None), _Aside.of(event_log), interrupt, group)
        self.told = event_log
        self.timed_steps = spec.steps
        self.sections: list[dict[str, Any]] = []
        self.checkpoint_bytes = 0
        """Of the largest checkpoint that the job would write."""

    def __call__(self) -> None:
        begin = time.monotonic()
        with self._redoing(begun=False):
            self._prepare()
        preparing = time.monotonic() - begin
        teacher = self._teach()
        students = self._distil(teacher)
        finished = [teacher, *students] if teacher else students
        testing, exporting, sizes = self._time_testing(finished), *self._time_exports(finished)
        report = self._report(preparing, testing, exporting, sizes)
        self.told.enter("reporting")
        self.told.record("report", data=report)
        with Packer(self.place.directory) as packer:
            packer.write_json(REPORT, None, report)

    def _train(
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
        """Time some steps, and one look at the validation part; says that all were done, so that the run goes on."""
        stamps: list[float] = []
        enough = Interrupt()

        def stamp() -> bool:
            """Asked before each step whether a checkpoint is due; it never is."""
            self.interrupt.check()
            stamps.append(self._now())
            if len(stamps) > WARM_UP + self.timed_steps:
                enough.finish = True
            return False

        context = TrainerContext(
            data=self.data,
            device=self.device,
            event_log=self.event_log,
            interrupt=enough,
            evaluation=self.recipe.evaluation,
            checkpoint_is_due=stamp,
            last_checkpoint=lambda: None,
            train=self.train,
            store=None,
            group=self.group,
        )
        trainer = Trainer(train_states, frozen, training, context, lambda state: None, evaluates=False)
        trainer.run()
        stamps.append(self._now())
        self.checkpoint_bytes = max(self.checkpoint_bytes, tensor_bytes([trainer.state(), self.taught, rest()]))
        seconds = [after - before for before, after in pairwise(stamps)]
        # A training of few steps has no others than the first.
        seconds = seconds[WARM_UP : WARM_UP + self.timed_steps] or seconds
        begin = self._now()
        if evaluates:
            trainer.judge()
        look = self._now() - begin
        epoch_plan = trainer.epoch_plan
        looks = -(-len(epoch_plan.batches) // self.recipe.evaluation.every_epochs) if evaluates else 0
        step = _interval(seconds)
        self.sections.append(
            {
                "phase": self.event_log.phase,
                "learners": [train_state.name for train_state in train_states],
                "steps": epoch_plan.steps,
                "epochs": len(epoch_plan.batches),
                "timed_steps": len(seconds),
                "seconds_per_step": step,
                "seconds_per_epoch": _times(step, epoch_plan.steps / len(epoch_plan.batches)),
                "evaluations": looks,
                "seconds_per_evaluation": look,
                "seconds": {k: v + looks * look for k, v in _times(step, epoch_plan.steps).items()},
            }
        )
        return epoch_plan.reached(epoch_plan.steps)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()

    def _time_testing(self, finished: list[NetworkResult]) -> dict[str, float]:
        """Seconds of all looks at the test part, and of that at the training part which tells neural collapse.

        From a few batches of the test part, the first of which is not timed.
        """
        self.event_log.enter("evaluating")
        size = self.recipe.evaluation.batch_size
        some = torch.arange(min(len(self.data.test), (1 + TIMED_BATCHES) * size))
        total = dict.fromkeys(BOUNDS, 0.0)
        for one in finished:
            stamps = [self._now()]
            for _ in passes(one.network, self.data.test, size, self.device, interrupt=self.interrupt, positions=some):
                stamps.append(self._now())
            seconds = [after - before for before, after in pairwise(stamps)]
            looks = 1 if one.best_epoch is None else len({"best", "last", self.recipe.evaluation.ship})
            batches = looks * -(-len(self.data.test) // size)
            if 0 < one.card.embedding <= LARGEST_COLLAPSE_WIDTH:
                batches += -(-len(self.data.train) // size)
            taken = _times(_interval(seconds[1:] or seconds), batches)
            total = {bound: total[bound] + taken[bound] for bound in BOUNDS}
        return total

    def _time_exports(self, finished: list[NetworkResult]) -> tuple[float, dict[str, int]]:
        """Seconds of all exports, each written once, and bytes of each file by its name; none of them is kept."""
        self.event_log.enter("exporting")
        untested = Score(0, 0, 1, 0.0, 0.0, (), torch.zeros(0))
        sizes: dict[str, int] = {}
        begin = self._now()
        with TemporaryDirectory(dir=self.place.directory) as folder:
            for one in finished:
                if one.role == "teacher" and one.best_epoch is None:
                    continue
                one.load("last", self._weights_dtype(one))
                networks.plain(networks.freeze(one.network))
                description = describe_result(one, self.data.facts, self._weights_dtype(one), untested)
                for export in self.recipe.exports if one.role != "teacher" else (Safetensors(),):
                    self.interrupt.check()
                    file = Path(folder) / f"{one.name}{export.suffix}"
                    export.write(one.network, description, file)
                    sizes[file.name] = file.stat().st_size
        return self._now() - begin, sizes

    def _report(
        self, preparing: float, testing: dict[str, float], exporting: float, sizes: dict[str, int]
    ) -> dict[str, Any]:
        total = {
            bound: preparing + sum(one["seconds"][bound] for one in self.sections) + testing[bound] + exporting
            for bound in BOUNDS
        }
        on_gpu = self.device.type == "cuda"
        above = "what the device's allocator set aside" if on_gpu else "that with a copy of all that a checkpoint saves"
        peak = torch.cuda.max_memory_allocated(self.device) if on_gpu else _process_bytes()
        most = torch.cuda.max_memory_reserved(self.device) if on_gpu else peak + self.checkpoint_bytes
        return {
            "device": self.device.type,
            "preparing_seconds": preparing,
            "sections": self.sections,
            "testing_seconds": testing,
            "exporting_seconds": exporting,
            "total_seconds": total,
            "peak_bytes": {"low": peak, "high": most},
            "peak_of": "the device's memory" if on_gpu else "the process",
            "artifact_bytes": sizes,
            "interval": f"{CONFIDENCE:.0%} of Student's t over the timed steps, and over some batches of the test "
            "part, as if they were independent; preparing, evaluations and exports count as measured once; writing "
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
