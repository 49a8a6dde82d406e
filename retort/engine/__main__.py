"""The engine as a program: an order in, one record a line out.

    python -m retort.engine SPEC.json OUT_DIR [--kind KIND] [--data-root DIR]... [--weights DIR]
    torchrun --nproc-per-node N -m retort.engine SPEC.json OUT_DIR [...]
    python -m retort.engine --warm

With --warm it imports all that a job needs, touches no GPU, and waits for one line of standard input: its
`retort.order.Order` as JSON. A line `finish` may follow; the end of standard input means that its parent is gone.

SIGTERM asks it to leave a checkpoint and go. SIGUSR1 asks it to finish, as does the parent's line and `"finish": true`
in its order: training ends with the step that is being computed, students that had not begun are left out, and the
best of the others so far are tested and exported. A second signal changes nothing.

Exit codes, all but the first with a last record that gives the reason: 0 finished; 2 the order or the spec is
impossible, or a file keeps a library busy without end; 69 a download failed through the network; 70 a fault of the
engine's own, whose trace is on standard error; 71 the first batch does not fit into the device's memory; 72 memory ran
out later; 73 asked to finish before any student was trained; 74 the disk is full; 75 stopped by SIGTERM or by the
parent's end, resumable, without such a record; 76 the machine failed; 77 a student has learned nothing, but all files
are there. It is ended by SIGALRM, without a record, where a library stays busy and lets no thread run; anything else is
a crash.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from queue import SimpleQueue
from typing import Any, NoReturn

import torch
from pydantic import TypeAdapter, ValidationError

from retort import confine
from retort.engine.causes import cause_of
from retort.engine.checkpoint import are_there
from retort.engine.event_log import EventLog, own_standard_output
from retort.engine.fetch import fetch
from retort.engine.group import ALONE, Group, join
from retort.engine.interrupt import (
    FAULT,
    FINISHED,
    IMPOSSIBLE,
    NOTHING_TO_KEEP,
    STOPPED,
    Impossible,
    Interrupt,
    NothingToKeep,
    Stopped,
)
from retort.engine.watchdog import last_words
from retort.kinds import DISTILL, KINDS
from retort.limits import processors
from retort.order import CacheDirectory, Order, Paths
from retort.spec import wrong_at

ORPHAN_SECONDS = 20.0
"""Seconds for which a run may go on towards its checkpoint once its parent is gone."""
LEAVING_SECONDS = 5.0
"""Seconds for which a library's single call may hold up a stop where there is nothing to keep."""


def main() -> int:
    """Carry out one order; returns the exit code."""
    arguments = _parse_arguments()
    event_log, interrupt, group = EventLog(own_standard_output()), Interrupt(), ALONE
    _handle_signals(interrupt)
    _bound_threads()
    try:
        if arguments.warm:
            _warm_up()
            order = read_order(_wait_for_order(interrupt))
        else:
            order = _order_of(arguments)
            group = join()
            if group.rank:
                event_log = EventLog(os.open(os.devnull, os.O_WRONLY))
        return carry_out(order, event_log, interrupt, group)
    except Impossible as error:
        return _refuse(event_log, str(error), IMPOSSIBLE)
    except (Stopped, BrokenPipeError):
        return STOPPED
    except Exception as error:
        return _fail(event_log, error)
    finally:
        # One that comes later must not be the exit code.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _bound_threads() -> None:
    """Use no more threads than processors: torch counts those of the machine, whatever its container may use."""
    if torch.get_num_threads() > processors():
        torch.set_num_threads(processors())


def _warm_up() -> None:
    """Import beforehand what a job's first steps would import: torch's compiler, for any optimizer."""
    torch.optim.SGD([torch.zeros(1)])


def carry_out(order: Order, event_log: EventLog, interrupt: Interrupt, group: Group = ALONE) -> int:
    """Do the job of an order; returns the exit code, once the reason is in the event log if it is not 0."""
    paths, kind = order.paths, KINDS[order.kind]
    if order.finish:
        interrupt.set_finish()
    work = resolve_name(kind.work)
    try:
        spec = kind.spec.model_validate_json(json.dumps(order.spec))
        if order.confine is not None:
            with interrupt.at_once(nothing_to_keep=not are_there(paths.checkpoints)):
                event_log.enter("preparing")
                fetch(spec)
            confine.enter(**order.confine.model_dump())
        with last_words(lambda sentence: _refuse(event_log, sentence, IMPOSSIBLE)):
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
            return _fail(event_log, error)
        code, sentence = cause
        return _refuse(event_log, sentence, code)
    return FINISHED


def _fail(event_log: EventLog, error: Exception) -> int:
    """End for an error that nobody foresaw: its trace is for the log of who started this, not for the event log."""
    traceback.print_exception(error)
    sentence = f"the engine failed through a fault of its own ({type(error).__name__})"
    return _refuse(event_log, sentence, FAULT)


def _refuse(event_log: EventLog, sentence: str, code: int) -> int:
    shown = sentence.replace("\0", "\\0").encode(errors="backslashreplace").decode()  # names of files may hold anything
    print(shown, file=sys.stderr)
    event_log.record("failed", text=shown)
    return code


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m retort.engine", description=__doc__.partition("\n")[0])
    parser.add_argument("spec", nargs="?", type=Path, help="recipe, or the spec of another kind, JSON")
    parser.add_argument("out", nargs="?", type=Path, help="directory for artifacts and checkpoints")
    parser.add_argument("--kind", choices=KINDS, default=DISTILL, help="kind of job that the spec is of")
    parser.add_argument("--data-root", action="append", type=Path, default=[], help="directory that specs may name")
    parser.add_argument("--weights", type=Path, default=Path(), help="directory of networks of earlier jobs")
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0, help="seconds between two checkpoints")
    parser.add_argument("--teacher-cache", type=Path, help="directory of cached teacher outputs, for later runs too")
    parser.add_argument("--teacher-cache-gib", type=float, default=20.0, help="size up to which it may grow")
    parser.add_argument("--warm", action="store_true", help="wait for an order on standard input")
    arguments = parser.parse_args()
    if not arguments.warm and (arguments.spec is None or arguments.out is None):
        parser.error("SPEC.json and OUT_DIR are needed, or --warm")
    return arguments


def _order_of(arguments: argparse.Namespace) -> Order:
    """The order that the command line gives. Raises Impossible when the file is not a JSON object."""
    cache = None
    if arguments.teacher_cache is not None:
        cache = CacheDirectory(path=arguments.teacher_cache, max_bytes=int(arguments.teacher_cache_gib * 2**30))
    try:
        return Order(
            kind=arguments.kind,
            spec=TypeAdapter(dict[str, Any]).validate_json(arguments.spec.read_bytes()),
            paths=Paths(
                directory=arguments.out,
                checkpoints=arguments.out / "checkpoints",
                weights=arguments.weights,
                data_roots=tuple(arguments.data_root),
                checkpoint_seconds=arguments.checkpoint_seconds,
                teacher_cache=cache,
            ),
        )
    except ValidationError as error:
        raise Impossible(wrong_at("recipe", error)) from None


def read_order(line: bytes) -> Order:
    """The order that a line holds. Raises Impossible when it is wrong."""
    try:
        return Order.model_validate_json(line)
    except ValidationError as error:
        raise Impossible(wrong_at("order", error)) from None


def _handle_signals(interrupt: Interrupt) -> None:
    """Obey SIGTERM and SIGUSR1, and end in time where a library's single call holds up the main thread."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # for retort.engine.watchdog, also where a parent ignores it
    signal.signal(signal.SIGTERM, interrupt.set)
    signal.signal(signal.SIGUSR1, interrupt.set_finish)

    def watch() -> None:
        while number := os.read(reading, 1):
            if number[0] == signal.SIGTERM:
                _in_time(LEAVING_SECONDS, lambda: interrupt.keeps_nothing)

    threading.Thread(target=watch, name="signals", daemon=True).start()


def _wait_for_order(interrupt: Interrupt) -> bytes:
    """The parent's first line; a later one becomes a signal. Raises Stopped when there is none."""
    orders: SimpleQueue[bytes] = SimpleQueue()
    main = threading.main_thread().ident
    assert main is not None

    def read() -> None:
        lines = _lines(0)
        orders.put(next(lines, b""))
        for line in lines:
            if line == b"finish":
                signal.pthread_kill(main, signal.SIGUSR1)
        # Nothing reads this run's events any more: what takes long between two steps must not outlive the parent long.
        _in_time(ORPHAN_SECONDS, lambda: True)
        signal.pthread_kill(main, signal.SIGTERM)

    threading.Thread(target=read, name="parent", daemon=True).start()
    with interrupt.at_once():
        order = orders.get()
    if not order:
        raise Stopped
    return order


def _lines(descriptor: int) -> Iterator[bytes]:
    """Whole lines as they come, without their ends."""
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
    """End the process as it is: taking apart what torch has built takes longer than many a stop may."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
