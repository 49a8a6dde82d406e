"""The worker as a Celery program: `python -m worker.app`.

Celery receives wake-ups and signals; everything else is the agent's. One process, one thread for messages, no fork and
no torch: CUDA lives and dies with the engine, which is a child process.
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
from worker import metrics
from worker.agent import Agent
from worker.engine_process import ENGINE

SETTLE_SECONDS = 20.0
"""Seconds after the engine's grace in which the job is put back, before the process ends all the same."""

app = Celery("worker")
app.add_defaults(lambda: {**celery_options(get_settings()), "worker_pool": "threads", "worker_concurrency": 1})
agent = Agent()


def wake_up() -> None:
    """Look for jobs: there may be a new one."""
    agent.wake_up()


def set_up_logs(**_: Any) -> None:
    """Set up the service's logs instead of Celery's own, which it leaves alone once this signal has a receiver."""
    set_up(get_settings(), worker=agent.worker_id)


def start(**_: Any) -> None:
    """Look for jobs from now on, whether the broker is there or not."""
    agent.start()


def stop(**_: Any) -> None:
    """Take no more jobs after SIGTERM or SIGINT, and stop the engine."""
    agent.stop()


def wait_for_agent(**_: Any) -> None:
    """Wait, once Celery is done, for the job to be put back."""
    agent.stop()
    agent.join(get_settings().grace_seconds + SETTLE_SECONDS)


app.task(name=LOOK)(wake_up)
signals.setup_logging.connect(set_up_logs)
signals.worker_init.connect(start)
signals.worker_shutting_down.connect(stop)
signals.worker_shutdown.connect(wait_for_agent)


def main(engine: Sequence[str] = ENGINE) -> None:
    """Run the worker as its own Celery program; further arguments on the command line are Celery's."""
    get_settings_or_exit()
    agent.engine = engine
    hide()
    set_up_logs()
    metrics.serve(get_settings())
    if wants_json(get_settings(), sys.stderr):
        sys.__stdout__ = None  # type: ignore[misc]  # Celery prints there what its signals do, in no format
    alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    # The first word keeps Celery from printing its banner, which is not a line of a log.
    app.worker_main(["--quiet", "worker", "--pool=threads", "--concurrency=1", *alone, *sys.argv[1:]])


if __name__ == "__main__":
    main()
