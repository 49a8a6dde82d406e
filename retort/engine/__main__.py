"""The engine as a program: a recipe in, or the spec of another kind of job; one record a line out.

    python -m retort.engine RECIPE.json OUT_DIR [--kind KIND] [--data-root DIR]... [--weights DIR]
    torchrun --nproc-per-node N -m retort.engine RECIPE.json OUT_DIR [...]
    python -m retort.engine --warm

With --warm it imports all that a job needs, touches no GPU, and waits for one line of JSON on standard input that
names its job. A line `finish` may follow; the end of standard input means that its parent is gone.

SIGTERM asks it to leave a checkpoint and go. SIGUSR1 asks it to finish, as does the parent's line and `"finish": true`
in its order: training ends with the step that is being computed, students that had not begun are left out, and the
best of the others so far are tested and exported. A second signal changes nothing.

Exit codes, all but the first with a last record that says why: 0 finished; 2 the recipe is impossible; 69 a download
failed through the network; 71 the first batch does not fit into the device's memory; 72 memory ran out later;
73 asked to finish before any student was trained; 74 the disk is full; 75 stopped by SIGTERM or by the parent's end,
resumable, without such a record; anything else is a crash.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from queue import SimpleQueue
from typing import Any, NoReturn

import torch

from retort import confine
from retort.engine.causes import cause_of
from retort.engine.checkpoint import are_there
from retort.engine.context import RunPaths
from retort.engine.event_log import EventLog, own_standard_output
from retort.engine.fetch import fetch
from retort.engine.group import ALONE, Group, join
from retort.engine.interrupt import (
    FINISHED,
    IMPOSSIBLE,
    NOTHING_TO_KEEP,
    STOPPED,
    Impossible,
    Interrupt,
    NothingToKeep,
    Stopped,
)
from retort.kinds import DISTILL, KINDS

ORPHAN_SECONDS = 20.0
"""How long a run may go on towards its checkpoint once its parent is gone."""
LEAVING_SECONDS = 5.0
"""How long a library's single call may hold up a stop where there is nothing to keep."""


def main() -> int:
    """Run one recipe; returns the exit code."""
    arguments = _arguments()
    event_log, interrupt, group = EventLog(own_standard_output()), Interrupt(), ALONE
    cell: dict[str, Any] | None = None
    _hear_signals(interrupt)
    try:
        if arguments.warm:
            _warm_up()
            kind, content, paths, cell = _from_parent(_await_order(interrupt), interrupt)
        else:
            kind, content, paths = arguments.kind, *_from_arguments(arguments)
            group = join()
            if group.rank:
                event_log = EventLog(os.open(os.devnull, os.O_WRONLY))
        return carry_out(content, paths, event_log, interrupt, group, kind, cell)
    except Impossible as error:
        return _refuse(event_log, str(error), IMPOSSIBLE)
    except (Stopped, BrokenPipeError):
        return STOPPED
    finally:
        # One that comes later must not be the exit code.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _warm_up() -> None:
    """Have imported, while nobody waits, what a job's first steps would import: torch's compiler, for any optimizer."""
    torch.optim.SGD([torch.zeros(1)])


def carry_out(
    content: bytes,
    paths: RunPaths,
    event_log: EventLog,
    interrupt: Interrupt,
    group: Group = ALONE,
    kind: str = DISTILL,
    cell: Mapping[str, Any] | None = None,
) -> int:
    """Do a job of that kind, its spec given as JSON; returns the exit code, having said why if it is not 0.

    `cell` is what the engine keeps for it, as `retort.confine` reads it; without one it keeps all.
    """
    work = resolve_name(KINDS[kind].work)
    try:
        spec = KINDS[kind].spec.model_validate_json(content)
        if cell is not None:
            with interrupt.at_once(nothing_to_keep=not are_there(paths.checkpoints)):
                event_log.enter("preparing")
                fetch(spec)
            confine.enter(cell)
        work(spec, paths, event_log, interrupt, group)()
    except Stopped:
        return STOPPED
    except NothingToKeep as error:
        return _refuse(event_log, str(error), NOTHING_TO_KEEP)
    except BrokenPipeError:
        raise
    except Exception as error:
        cause = cause_of(error, (paths.directory, paths.checkpoints, Path(torch.hub.get_dir())))
        if cause is None:
            raise
        code, sentence = cause
        return _refuse(event_log, sentence, code)
    return FINISHED


def _refuse(event_log: EventLog, sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    event_log.record("failed", text=sentence)
    return code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m retort.engine", description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", nargs="?", type=Path, help="recipe, or the spec of another kind, JSON")
    parser.add_argument("out", nargs="?", type=Path, help="directory for artifacts and checkpoints")
    parser.add_argument("--kind", choices=KINDS, default=DISTILL, help="kind of job that the spec is of")
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


def _from_arguments(arguments: argparse.Namespace) -> tuple[bytes, RunPaths]:
    paths = RunPaths(
        directory=arguments.out,
        checkpoints=arguments.out / "checkpoints",
        weights=arguments.weights,
        data_roots=tuple(arguments.data_root),
        run="1",
        checkpoint_seconds=arguments.checkpoint_seconds,
        cache=arguments.store,
        cache_bytes=int(arguments.store_gib * 2**30),
    )
    return arguments.recipe.read_bytes(), paths


def _from_parent(order: bytes, interrupt: Interrupt) -> tuple[str, bytes, RunPaths, dict[str, Any] | None]:
    job: dict[str, Any] = json.loads(order)
    if job.get("finish", False):
        interrupt.set_finish()
    paths = RunPaths(
        directory=Path(job["directory"]),
        checkpoints=Path(job["checkpoints"]),
        weights=Path(job["weights"]),
        data_roots=tuple(map(Path, job["data_roots"])),
        run=job["run"],
        checkpoint_seconds=job["checkpoint_seconds"],
        cache=Path(job["store"]),
        cache_bytes=job["store_bytes"],
    )
    return job.get("kind", DISTILL), json.dumps(job["spec"]).encode(), paths, job.get("confine")


def _hear_signals(interrupt: Interrupt) -> None:
    """Obey SIGTERM and SIGUSR1, and end in time where the main thread is in a library's single call when it is told."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGTERM, interrupt.set)
    signal.signal(signal.SIGUSR1, interrupt.set_finish)

    def watch() -> None:
        while heard := os.read(reading, 1):
            if heard[0] == signal.SIGTERM:
                _in_time(LEAVING_SECONDS, lambda: interrupt.keeps_nothing)

    threading.Thread(target=watch, name="signals", daemon=True).start()


def _await_order(interrupt: Interrupt) -> bytes:
    """The first line that the parent says; what it says later becomes a signal. Raises Stopped when it says nothing."""
    orders: SimpleQueue[bytes] = SimpleQueue()
    main = threading.main_thread().ident
    assert main is not None

    def listen() -> None:
        lines = _lines(0)
        orders.put(next(lines, b""))
        for line in lines:
            if line == b"finish":
                signal.pthread_kill(main, signal.SIGUSR1)
        # Nobody is left to hear this run: what takes long between two steps must not outlive its parent for long.
        _in_time(ORPHAN_SECONDS, lambda: True)
        signal.pthread_kill(main, signal.SIGTERM)

    threading.Thread(target=listen, name="parent", daemon=True).start()
    with interrupt.at_once():
        order = orders.get()
    if not order:
        raise Stopped
    return order


def _lines(descriptor: int) -> Iterator[bytes]:
    """The whole lines that come, without their ends."""
    rest = b""
    while block := os.read(descriptor, 65536):
        *whole, rest = (rest + block).split(b"\n")
        yield from whole


def _in_time(seconds: float, ends: Callable[[], bool]) -> None:
    """End this process after a time if that is so then; what the main thread does cannot hold it up."""

    def end() -> None:
        if ends():
            os._exit(STOPPED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def leave(code: int) -> NoReturn:
    """End the process as it is: to take apart what torch has built takes longer than many a stop may."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
