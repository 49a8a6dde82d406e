"""Programs that take as many steps as they are asked for, so that several are timed in turns within one run.

Each is a process of its own. While one takes its steps the others wait for their turn.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from retort.dataset import ImageClassFacts, LoadedDataset
from retort.datasets._memory import MemorySplit, loaded
from retort.datasets.digits import Digits
from retort.engine.event_log import EventLog
from retort.engine.interrupt import Interrupt
from retort.engine.networks import initialised
from retort.engine.run import Run
from retort.exports.safetensors import Safetensors
from retort.order import CacheDirectory, Paths
from retort.recipe import Recipe
from retort.student import describe
from retort.tasks import TASKS

TEACHER, STUDENT = "resnet32x4", "resnet8x4"
IMAGES, SIDE, CLASSES = 50_000, 32, 100
"""The shapes of CIFAR-100."""
BATCH = 64
TEMPERATURE, LABEL_WEIGHT = 4.0, 0.1
"""Of plain KD."""
WARM_UP_STEPS = 3
JOB = "job_teacher"
"""Name of the job that made the teacher, in recipes."""


def device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


CLASSIFICATION = TASKS["classification"]


class Noise(Digits):
    """Random images in memory, as many as wanted, in the place of a data set of that shape."""

    images: int

    def load(self, roots: Sequence[Path]) -> LoadedDataset:
        splits = (noise(count, seed) for seed, count in enumerate((self.images, CLASSES, CLASSES)))
        return loaded(facts(self.images), *splits)


def facts(images: int) -> ImageClassFacts:
    """Of so many random training images; mean and deviation are those of even noise."""
    return ImageClassFacts(
        classes=CLASSES,
        class_names=tuple(map(str, range(CLASSES))),
        image_size=SIDE,
        train=images,
        validation=CLASSES,
        test=CLASSES,
        mean=(0.5, 0.5, 0.5),
        std=(0.29, 0.29, 0.29),
    )


def noise(images: int, seed: int) -> MemorySplit:
    """So many random images, with labels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (images, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    return MemorySplit(pixels, torch.randint(CLASSES, (images,), generator=generator))


def recipe(images: int, students: Iterable[str], **training: Any) -> Recipe:
    """Students of those names (their seeds count up with them), each taught by plain KD."""
    made = Recipe.model_validate(
        {
            "dataset": {"name": "digits"},
            "teacher": {"architecture": TEACHER, "weights": {"job": JOB, "network": "teacher"}},
            "students": [
                {
                    "name": name,
                    "seed": sum(name.encode()),
                    "architecture": STUDENT,
                    "labels": {"weight": LABEL_WEIGHT},
                    "methods": [{"name": "kd", "temperature": TEMPERATURE}],
                }
                for name in students
            ],
            "training": {
                "epochs": 240,
                "batch_size": BATCH,
                "optimizer": {"name": "sgd", "learning_rate": 0.001},
                "augmentation": {"crop_padding": 4, "flip": True},
                **training,
            },
            "exports": [{"name": "safetensors"}],
        }
    )
    return made.model_copy(update={"dataset": Noise(images=images)})


def write_teacher(folder: Path) -> None:
    """Leave a teacher that learnt nothing where a recipe finds it."""
    network = initialised(CLASSIFICATION, TEACHER, 0, facts(IMAGES))
    description = describe(
        network,
        name="teacher",
        task=CLASSIFICATION,
        facts=facts(IMAGES),
        architecture=TEACHER,
        wrapper=None,
        weights_dtype="float32",
    )
    made = folder / "weights" / JOB
    made.mkdir(parents=True)
    Safetensors().write(network, description, made / "teacher.safetensors")
    (made / "teacher.json").write_text(json.dumps(description))


def run(wanted: Recipe, folder: Path, name: str, event_log: EventLog, cache: Path | None = None) -> Run:
    """The engine's own run of a recipe, in a folder that holds a teacher; teachers' outputs are cached in `cache`."""
    directory = folder / name
    directory.mkdir()
    paths = Paths(
        directory=directory, checkpoints=directory / "checkpoints", weights=folder / "weights", checkpoint_seconds=1e9,
        teacher_cache=CacheDirectory(path=cache, max_bytes=2**33) if cache else None,
    )  # fmt: skip
    return Run(wanted, paths, event_log, Interrupt())


def nowhere() -> int:
    """A descriptor of output that nothing reads."""
    return os.open(os.devnull, os.O_WRONLY)


class Turns:
    """Called after each step: prints at the end of a turn its seconds, and waits for the next one."""

    def __init__(self) -> None:
        self._left = WARM_UP_STEPS
        self._since = time.perf_counter()

    def __call__(self) -> None:
        self._left -= 1
        if self._left:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(time.perf_counter() - self._since, flush=True)
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        self._left, self._since = int(line), time.perf_counter()


class PacedEventLog(EventLog):
    """An event log that nothing reads, and whose progress a run checks after every step."""

    def __init__(self) -> None:
        super().__init__(nowhere())
        self._turns = Turns()

    def progress_is_due(self) -> bool:
        self._turns()
        return super().progress_is_due()


class Program:
    """A process that takes steps when it is asked to."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment and {**environment}
        )
        self._read()

    def seconds(self, steps: int) -> float:
        """Of one step, over so many."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._read() / steps

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _read(self) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args} ended with {self._process.wait()}")
        return float(line)


def time_in_turns(
    commands: Mapping[str, Sequence[str]], rounds: int, steps: int, environments: Mapping[str, Mapping[str, str]]
) -> list[dict[str, float]]:
    """Seconds of one step of each program, a row a round; each round begins with another program."""
    names = list(commands)
    with ExitStack() as stack:
        programs = {name: Program(command, environments.get(name)) for name, command in commands.items()}
        for program in programs.values():
            stack.callback(program.close)
        rows = []
        for number in range(rounds):
            turn = number % len(names)
            rows.append({name: programs[name].seconds(steps) for name in names[turn:] + names[:turn]})
    return rows


def median_ratio(rows: Iterable[Mapping[str, float]], of: str, over: str) -> float:
    """The median over the rounds of the ratio within a round."""
    return statistics.median(row[of] / row[over] for row in rows)


def machine() -> dict[str, Any]:
    """The machine that the figures were measured on, and its load before."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }
