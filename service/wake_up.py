"""Wake-ups: a Celery message that tells the workers to look for jobs and carries nothing else.

It may be lost, repeated, or impossible to send: jobs are found in the database without it, only later. So waking
neither blocks nor fails the request that wakes.
"""

from __future__ import annotations

import logging
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.orm import Session

from service.settings import Settings, get_settings

if TYPE_CHECKING:
    from celery import Celery

LOOK = "retort.look"
"""Name of the task."""
ANSWER_SECONDS = 1.0
"""Seconds within which a broker must answer to count as reachable."""
IMPATIENT = {
    "socket_connect_timeout": ANSWER_SECONDS,
    "socket_timeout": ANSWER_SECONDS,
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0,
}
"""Kombu would otherwise try for four seconds."""
PAUSE_SECONDS = 0.02
"""Between two messages: hundreds of jobs a second need fewer messages than that."""
MOST_WAITING = 100
"""Most messages that wait to be sent; so many workers are awake by then."""
WAKES = "wakes"
"""Marks a session that wakes the workers when it commits."""

log = logging.getLogger(__name__)


class WakeUpSender:
    """The sending half of Celery, with a thread of its own; a message wakes one worker, so each call sends one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._wanted = threading.Event()
        self._waiting = 0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._changing = threading.Lock()
        self._app: Celery | None = None
        self._making = threading.Lock()

    def wake(self) -> None:
        """Tell a worker to look, soon; returns at once and never raises."""
        with self._changing:
            self._waiting = min(self._waiting + 1, MOST_WAITING)
            self._wanted.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_when_wanted, name="wake-up", daemon=True)
                self._thread.start()

    def reachable(self) -> str | None:
        """None when the broker answers within a second, or else why it does not."""
        answers: list[str | None] = []
        self._celery()  # the time that this takes is not the broker's
        probe = threading.Thread(target=lambda: answers.append(self._probe()), name="wake-up-probe", daemon=True)
        probe.start()
        probe.join(ANSWER_SECONDS)
        return answers[0] if answers else f"no answer within {ANSWER_SECONDS:g} s"

    def close(self) -> None:
        """End the thread and close the connection to the broker; a wake-up that was not sent yet may be lost."""
        self._closed.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
        if self._app is not None:
            self._app.close()

    def _celery(self) -> Celery:
        """The Celery app, made at its first use: a front end that only answers questions needs none."""
        from celery import Celery

        from service.broker import celery_options

        with self._making:
            if self._app is None:
                options = celery_options(self._settings)
                options["broker_transport_options"] = {**options.get("broker_transport_options", {}), **IMPATIENT}
                self._app = Celery("service", set_as_current=False)
                self._app.conf.update(options)
            return self._app

    def _probe(self) -> str | None:
        try:
            app = self._celery()
            with app.connection_for_write() as connection:
                connection.default_channel.queue_declare(app.conf.task_default_queue)
        except Exception as error:  # whatever a transport raises, it is no answer
            return f"{type(error).__name__}: {error}"
        return None

    def _send_when_wanted(self) -> None:
        failing = False
        while True:
            self._wanted.wait()
            if self._closed.is_set():
                return
            try:
                self._celery().send_task(LOOK, retry=False)
                failing = False
                self._count_sent(1)
            except Exception as error:  # whatever a transport raises, workers look by themselves
                if not failing:
                    log.warning("the broker takes no message, workers find jobs later: %s", error)
                failing = True
                self._count_sent(MOST_WAITING)
            self._closed.wait(PAUSE_SECONDS)

    def _count_sent(self, count: int) -> None:
        with self._changing:
            self._waiting = max(0, self._waiting - count)
            if not self._waiting and not self._closed.is_set():
                self._wanted.clear()


@lru_cache
def get_sender() -> WakeUpSender:
    """The process's sender, made from the settings."""
    return WakeUpSender(get_settings())


def wake() -> None:
    """Tell a worker to look, soon; returns at once and never raises."""
    get_sender().wake()


def wake_after_commit(session: Session) -> None:
    """Wake a worker once the session's transaction is committed; never when it is rolled back."""
    session.info[WAKES] = True


@event.listens_for(Session, "after_commit")
def _wake_when_committed(session: Session) -> None:
    if session.info.get(WAKES) and not session.in_nested_transaction():
        del session.info[WAKES]
        wake()


@event.listens_for(Session, "after_rollback")
def _forget_when_rolled_back(session: Session) -> None:
    if not session.in_nested_transaction():
        session.info.pop(WAKES, None)


def reachable() -> str | None:
    """None when the broker answers within a second, or else why it does not."""
    return get_sender().reachable()
