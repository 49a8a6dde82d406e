"""The engine as a program: a recipe in, one record a line out.

    python -m worker.engine RECIPE.json OUT_DIR [--data-root DIR]... [--weights DIR]
    torchrun --nproc-per-node N -m worker.engine RECIPE.json OUT_DIR [...]
    python -m worker.engine --warm

With --warm it imports all that a job needs, touches no GPU, and waits for one line of JSON on standard input that
names its job; the end of standard input means that its parent is gone.

Exit codes: 0 finished; 2 the recipe is impossible (the last record says why); 71 the device's memory ran out;
75 stopped by SIGTERM or by the parent's end, resumable; anything else is a crash.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from worker.dataset import DatasetError
from worker.engine.diary import Diary, own_standard_output
from worker.engine.group import ALONE, Group, join
from worker.engine.interrupt import (
    FINISHED,
    IMPOSSIBLE,
    OUT_OF_MEMORY,
    STOPPED,
    Impossible,
    Interrupt,
    MemoryExhausted,
    Stopped,
)
from worker.engine.memory import is_out_of_memory
from worker.engine.run import Place, Run
from worker.recipe import Recipe

ORPHAN_SECONDS = 20.0
"""How long a run may go on towards its checkpoint once its parent is gone."""


def main() -> int:
    """Run one recipe; returns the exit code."""
    arguments = _arguments()
    diary, interrupt, group = Diary(own_standard_output()), Interrupt(), ALONE
    if arguments.warm:
        _warm_up()
        line = sys.stdin.readline()
        if not line:
            return STOPPED
        _watch_parent(interrupt)
        content, place = _from_parent(json.loads(line))
    else:
        content, place = _from_arguments(arguments)
        try:
            group = join()
        except Impossible as error:
            return _refuse(diary, str(error), IMPOSSIBLE)
        if group.rank:
            diary = Diary(os.open(os.devnull, os.O_WRONLY))
    signal.signal(signal.SIGTERM, interrupt.set)
    try:
        return carry_out(content, place, diary, interrupt, group)
    except BrokenPipeError:
        return STOPPED


def _warm_up() -> None:
    """Have imported, while nobody waits, what a job's first steps would import: torch's compiler and scikit-learn."""
    torch.use_deterministic_algorithms(False)
    torch.optim.SGD([torch.zeros(1)])
    import_module("sklearn.datasets")


def carry_out(content: bytes, place: Place, diary: Diary, interrupt: Interrupt, group: Group = ALONE) -> int:
    """Run a recipe given as JSON; returns the exit code, having said why if it is not 0."""
    try:
        Run(Recipe.model_validate_json(content), place, diary, interrupt, group)()
    except Stopped:
        return STOPPED
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        where = "/" + "/".join(map(str, found["loc"]))
        return _refuse(diary, f"the recipe is wrong at {where}: {found['msg']}", IMPOSSIBLE)
    except (Impossible, DatasetError) as error:
        return _refuse(diary, str(error), IMPOSSIBLE)
    except MemoryExhausted as error:
        return _refuse(diary, str(error), OUT_OF_MEMORY)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sentence = f"the device's memory ran out: {str(error).partition('.')[0]}; a smaller batch_size may fit"
        return _refuse(diary, sentence, OUT_OF_MEMORY)
    return FINISHED


def _refuse(diary: Diary, sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    diary.record("failed", text=sentence)
    return code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.engine", description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", nargs="?", type=Path, help="recipe, JSON")
    parser.add_argument("out", nargs="?", type=Path, help="directory for artifacts and checkpoints")
    parser.add_argument("--data-root", action="append", type=Path, default=[], help="folder that recipes may name")
    parser.add_argument("--weights", type=Path, default=Path(), help="weights of earlier jobs")
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0, help="how often a checkpoint is written")
    parser.add_argument("--store", type=Path, help="folder where outputs of teachers are kept for later runs")
    parser.add_argument("--store-gib", type=float, default=20.0, help="how large that folder may grow")
    parser.add_argument("--warm", action="store_true", help="wait for a job on standard input")
    arguments = parser.parse_args()
    if not arguments.warm and (arguments.recipe is None or arguments.out is None):
        parser.error("RECIPE.json and OUT_DIR are needed, or --warm")
    return arguments


def _from_arguments(arguments: argparse.Namespace) -> tuple[bytes, Place]:
    place = Place(
        directory=arguments.out,
        checkpoints=arguments.out / "checkpoints",
        weights=arguments.weights,
        data_roots=tuple(arguments.data_root),
        run="1",
        checkpoint_seconds=arguments.checkpoint_seconds,
        store=arguments.store,
        store_bytes=int(arguments.store_gib * 2**30),
    )
    return arguments.recipe.read_bytes(), place


def _from_parent(job: dict[str, Any]) -> tuple[bytes, Place]:
    place = Place(
        directory=Path(job["directory"]),
        checkpoints=Path(job["checkpoints"]),
        weights=Path(job["weights"]),
        data_roots=tuple(map(Path, job["data_roots"])),
        run=job["run"],
        checkpoint_seconds=job["checkpoint_seconds"],
        store=Path(job["store"]),
        store_bytes=job["store_bytes"],
    )
    return json.dumps(job["recipe"]).encode(), place


def _watch_parent(interrupt: Interrupt) -> None:
    """Stop when standard input ends: nobody is left to hear this run."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        interrupt.set()
        # What takes longer than this between two steps must not outlive the parent for long.
        timer = threading.Timer(ORPHAN_SECONDS, os._exit, [STOPPED])
        timer.daemon = True
        timer.start()

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
