"""What a recipe would take: its real networks, data and steps, some of each kind."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import sqrt
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import t

from worker.engine.calendar import Reached
from worker.engine.checkpoint import State
from worker.engine.diary import Diary
from worker.engine.group import ALONE, Group
from worker.engine.interrupt import Interrupt
from worker.engine.learner import Learner
from worker.engine.run import Place, Run
from worker.engine.ship import Finished, Packer
from worker.engine.trainer import Surroundings, Trainer
from worker.estimate import REPORT, Estimate
from worker.event import Kind
from worker.method import NetworkSpec
from worker.network import Network
from worker.recipe import Training

WARM_UP = 3
"""First steps of each kind, which are not timed: libraries choose their ways in them."""
CONFIDENCE = 0.95


class _Aside(Diary):
    """Says phases and warnings alone: what else a run says would be taken for the job's."""

    @classmethod
    def of(cls, diary: Diary) -> _Aside:
        aside = cls.__new__(cls)
        vars(aside).update(vars(diary))
        return aside

    def record(self, kind: Kind, **fields: Any) -> None:
        if kind in ("phase", "warning"):
            super().record(kind, **fields)


class Estimation(Run):
    """Carries out an estimate. Raises what a run raises; writes no checkpoint and keeps no teacher outputs."""

    def __init__(self, spec: Estimate, place: Place, diary: Diary, interrupt: Interrupt, group: Group = ALONE) -> None:
        recipe = spec.recipe.model_copy(update={"require_teacher_accuracy": None})
        super().__init__(recipe, replace(place, store=None), _Aside.of(diary), interrupt, group)
        self.told = diary
        self.timed_steps = spec.steps
        self.sections: list[dict[str, Any]] = []

    def __call__(self) -> None:
        begin = time.monotonic()
        with self._redoing(begun=False):
            self._prepare()
        preparing = time.monotonic() - begin
        teacher = self._teach()
        students = self._distil(teacher)
        report = self._report(preparing, [teacher, *students] if teacher else students)
        self.told.enter("reporting")
        self.told.record("report", data=report)
        with Packer(self.place.directory) as packer:
            packer.write_json(REPORT, None, report)

    def _train(
        self,
        section: str,
        learners: list[Learner],
        training: Training,
        frozen: dict[NetworkSpec, Network],
        rest: Callable[[], State] = dict,
        *,
        evaluates: bool = True,
        in_loop: bool = False,
    ) -> Reached:
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

        around = Surroundings(
            data=self.data,
            device=self.device,
            diary=self.diary,
            interrupt=enough,
            evaluation=self.recipe.evaluation,
            checkpoint_is_due=stamp,
            last_checkpoint=lambda: None,
            train=self.train,
            store=None,
            group=self.group,
        )
        trainer = Trainer(learners, frozen, training, around, lambda state: None, evaluates=False)
        trainer.run()
        stamps.append(self._now())
        seconds = [after - before for before, after in pairwise(stamps)]
        # A training of few steps has no others than the first.
        seconds = seconds[WARM_UP : WARM_UP + self.timed_steps] or seconds
        begin = self._now()
        if evaluates:
            trainer.judge()
        look = self._now() - begin
        calendar = trainer.calendar
        looks = -(-len(calendar.batches) // self.recipe.evaluation.every_epochs) if evaluates else 0
        step = _interval(seconds)
        self.sections.append(
            {
                "phase": self.diary.phase,
                "learners": [learner.name for learner in learners],
                "steps": calendar.steps,
                "epochs": len(calendar.batches),
                "timed_steps": len(seconds),
                "seconds_per_step": step,
                "seconds_per_epoch": _times(step, calendar.steps / len(calendar.batches)),
                "evaluations": looks,
                "seconds_per_evaluation": look,
                "seconds": {k: v + looks * look for k, v in _times(step, calendar.steps).items()},
            }
        )
        return calendar.reached(calendar.steps)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()

    def _report(self, preparing: float, finished: list[Finished]) -> dict[str, Any]:
        total = {
            k: preparing + sum(section["seconds"][k] for section in self.sections) for k in ("low", "mean", "high")
        }
        on_gpu = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) if on_gpu else _process_bytes()
        return {
            "device": self.device.type,
            "preparing_seconds": preparing,
            "sections": self.sections,
            "total_seconds": total,
            "peak_bytes": peak,
            "peak_of": "the device's memory" if on_gpu else "the process",
            "weights_bytes": {
                one.name: sum(x.numel() * self._bytes(x, one) for x in one.network.body.state_dict().values())
                for one in finished
            },
            "interval": f"{CONFIDENCE:.0%} of Student's t over the timed steps, as if they were independent; "
            "evaluations and preparing count as measured once; the final test and the exports are left out",
        }

    def _bytes(self, tensor: torch.Tensor, one: Finished) -> int:
        halved = tensor.is_floating_point() and self._weights_dtype(one) == "float16"
        return 2 if halved else tensor.element_size()


def _interval(seconds: list[float]) -> dict[str, float]:
    """Mean of the steps' seconds, and where it lies with that confidence."""
    middle = mean(seconds)
    width = 0.0
    if len(seconds) > 1:
        width = float(t.ppf((1 + CONFIDENCE) / 2, len(seconds) - 1)) * stdev(seconds) / sqrt(len(seconds))
    return {"low": max(0.0, middle - width), "mean": middle, "high": middle + width}


def _times(interval: dict[str, float], factor: float) -> dict[str, float]:
    return {name: value * factor for name, value in interval.items()}


def _process_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
