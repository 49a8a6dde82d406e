"""An end to single calls of libraries that may never return: no exception and no signal handler interrupts them, so
the process is ended."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer

from retort.engine.interrupt import IMPOSSIBLE

KERNEL_SECONDS = 5.0
"""Seconds after which the kernel ends the process by SIGALRM, where the call lets no thread run to end it with its
sentence."""


def _print(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


_refuse: Callable[[str], object] = _print


@contextmanager
def last_words(refuse: Callable[[str], object]) -> Iterator[None]:
    """Give the sentence to that function, should the process be ended."""
    global _refuse
    before, _refuse = _refuse, refuse
    try:
        yield
    finally:
        _refuse = before


@contextmanager
def ends_within(seconds: float, sentence: str) -> Iterator[None]:
    """End this process with the exit code IMPOSSIBLE, and that sentence, unless the stretch ends in that time.

    For one thread of a process at a time: the kernel has one such clock for each process.
    """
    timer = Timer(seconds, _end, (sentence,))
    timer.daemon = True
    timer.start()
    signal.setitimer(signal.ITIMER_REAL, seconds + KERNEL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        timer.cancel()


def _end(sentence: str) -> None:
    try:
        _refuse(sentence)
    finally:
        os._exit(IMPOSSIBLE)
