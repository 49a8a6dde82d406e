"""Runs of the engine in this process, on recipes so small that they take a second."""

import json
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from retort.engine.event_log import EventLog
from retort.engine.interrupt import Interrupt
from retort.engine.run import Run
from retort.order import CacheDirectory, Paths
from retort.recipe import Recipe

PRECISIONS = ("float32", "bfloat16")
"""What `auto` may become: recipes here name one, since machines choose differently."""
TRAINING = {
    "epochs": 2,
    "batch_size": 32,
    "precision": "float32",
    "threads": 1,
    "augmentation": {"crop_padding": 1},
    "optimizer": {"name": "sgd", "learning_rate": 0.05},
}


def recipe_of(*methods: dict, **training: object) -> dict:
    """A recipe of one small student on a tenth of the digits; the teacher is what one epoch makes of it."""
    return {
        "dataset": {"name": "digits", "label_share": 0.1},
        "teacher": {"architecture": "resnet14", "teach": TRAINING | {"epochs": 1}},
        "students": [{"name": "student", "architecture": "resnet8", "methods": list(methods)}],
        "training": TRAINING | training,
        "evaluation": {"every_epochs": 100},
        "exports": [{"name": "safetensors"}],
    }


@dataclass
class Ended:
    """What a run left."""

    directory: Path
    lines: list[dict]

    def digest(self, network: str = "student") -> str:
        return sha256((self.directory / f"artifacts/{network}.safetensors").read_bytes()).hexdigest()

    def warnings(self) -> list[str]:
        return [line["text"] for line in self.lines if line.get("kind") == "warning"]

    def metrics(self) -> list[dict]:
        return [line["values"] for line in self.lines if line.get("kind") == "metrics" and line["network"] == "student"]


def paths_in(directory: Path) -> Paths:
    """Of a run that does all in one directory and writes a checkpoint only at its ends."""
    checkpoints = directory / "checkpoints"
    return Paths(directory=directory, checkpoints=checkpoints, weights=directory, checkpoint_seconds=1e9)


def run(recipe: dict, directory: Path, store: Path | None = None, store_bytes: int = 10**9) -> Ended:
    directory.mkdir()
    cache = CacheDirectory(path=store, max_bytes=store_bytes) if store else None
    paths = paths_in(directory).model_copy(update={"teacher_cache": cache})
    log = directory / "log.jsonl"
    with log.open("wb") as out:
        Run(Recipe.model_validate(recipe), paths, EventLog(out.fileno()), Interrupt())()
    return Ended(directory, [json.loads(line) for line in log.read_text().splitlines()])


def usage(folder: Path) -> int:
    """Bytes in a folder."""
    return sum(os.path.getsize(file) for file in folder.rglob("*") if file.is_file())
