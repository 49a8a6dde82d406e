"""The worker as a Celery program: `python -m worker.app`.

Celery brings the wake-ups and the way to stop; everything else is the shell's. One process, one thread for messages, no
fork and no torch: CUDA lives and dies with the engine, which is a child.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from celery import Celery, signals

from retort.confine import hide
from service.broker import celery_options
from service.logs import set_up, wants_json
from service.settings import get_settings, get_settings_or_exit
from service.wake_up import LOOK
from worker import metrics as meters
from worker.engine_process import ENGINE
from worker.loop import Shell

SETTLE_SECONDS = 20.0
"""How long, after the engine's grace, putting the job back may take before the process ends all the same."""

app = Celery("worker")
app.add_defaults(lambda: {**celery_options(get_settings()), "worker_pool": "threads", "worker_concurrency": 1})
shell = Shell()


def look() -> None:
    """Look for jobs: a wake-up has come."""
    shell.look()


def log(**_: Any) -> None:
    """Instead of Celery's own formats: who listens to this signal keeps it from setting up any."""
    set_up(get_settings(), worker=shell.worker_id)


def start(**_: Any) -> None:
    """Look for jobs from now on, whether the broker is there or not."""
    shell.start()


def stop(**_: Any) -> None:
    """SIGTERM or SIGINT has come: the engine gets it too."""
    shell.stop()


def leave(**_: Any) -> None:
    """Celery is done: wait for the job to be put back."""
    shell.stop()
    shell.join(get_settings().grace_seconds + SETTLE_SECONDS)


app.task(name=LOOK)(look)
signals.setup_logging.connect(log)
signals.worker_init.connect(start)
signals.worker_shutting_down.connect(stop)
signals.worker_shutdown.connect(leave)


def main(engine: Sequence[str] = ENGINE) -> None:
    """Run the worker as its own Celery program; further arguments on the command line are Celery's."""
    get_settings_or_exit()
    shell.engine = engine
    hide()
    log()
    meters.serve(get_settings())
    if wants_json(get_settings(), sys.stderr):
        sys.__stdout__ = None  # type: ignore[misc]  # there Celery says what its signals do, for who reads along
    alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    # The first word keeps Celery from printing its banner, which is no line of a log.
    app.worker_main(["--quiet", "worker", "--pool=threads", "--concurrency=1", *alone, *sys.argv[1:]])


if __name__ == "__main__":
    main()
