"""The bell: a Celery message that says "look" to the workers and carries nothing else.

It may be lost, repeated, or impossible to send: jobs are found in the database without it, only later. So ringing
neither blocks nor fails the request that rings.
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
QUEUE = "retort"
ANSWER_SECONDS = 1.0
"""How long a broker may take to answer before it counts as unreachable."""
IMPATIENT = {
    "socket_connect_timeout": ANSWER_SECONDS,
    "socket_timeout": ANSWER_SECONDS,
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0,
}
"""Kombu would otherwise try for four seconds."""
PAUSE_SECONDS = 0.02
"""Between two messages: who makes hundreds of jobs a second has better things to do than to ring as often."""
MOST_WAITING = 100
"""How many messages wait to be sent at most; so many workers are awake by then."""
RINGS = "rings"
"""Marks a session that rings when it commits."""

log = logging.getLogger(__name__)


class Bell:
    """The sending half of Celery, with a thread of its own: a message wakes one worker, so each ring is one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked = threading.Event()
        self._waiting = 0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._changing = threading.Lock()
        self._made: Celery | None = None
        self._making = threading.Lock()

    def ring(self) -> None:
        """Tell the workers to look, soon; returns at once and never raises."""
        with self._changing:
            self._waiting = min(self._waiting + 1, MOST_WAITING)
            self._asked.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_when_asked, name="bell", daemon=True)
                self._thread.start()

    def reachable(self) -> str | None:
        """None when the broker answers within a second, or else why it does not."""
        answers: list[str | None] = []
        self._celery()  # what it takes to make is not the broker's time
        probe = threading.Thread(target=lambda: answers.append(self._probe()), name="bell-probe", daemon=True)
        probe.start()
        probe.join(ANSWER_SECONDS)
        return answers[0] if answers else f"no answer within {ANSWER_SECONDS:g} s"

    def close(self) -> None:
        """End the thread and let go of the broker; a ring that was not sent yet may be lost."""
        self._closed.set()
        self._asked.set()
        if self._thread is not None:
            self._thread.join()
        if self._made is not None:
            self._made.close()

    def _celery(self) -> Celery:
        """Made when it is first needed: a front end that only answers questions has no use for Celery."""
        from celery import Celery

        from service.broker import celery_options

        with self._making:
            if self._made is None:
                options = celery_options(self._settings)
                options["broker_transport_options"] = {**options.get("broker_transport_options", {}), **IMPATIENT}
                self._made = Celery("service", set_as_current=False)
                self._made.conf.update(options)
            return self._made

    def _probe(self) -> str | None:
        try:
            with self._celery().connection_for_write() as connection:
                connection.default_channel.queue_declare(QUEUE)
        except Exception as error:  # whatever a transport raises, it is no answer
            return f"{type(error).__name__}: {error}"
        return None

    def _send_when_asked(self) -> None:
        failing = False
        while True:
            self._asked.wait()
            if self._closed.is_set():
                return
            try:
                self._celery().send_task(LOOK, retry=False)
                failing = False
                self._sent(1)
            except Exception as error:  # whatever a transport raises, workers look by themselves
                if not failing:
                    log.warning("the broker takes no message, workers find jobs later: %s", error)
                failing = True
                self._sent(MOST_WAITING)
            self._closed.wait(PAUSE_SECONDS)

    def _sent(self, count: int) -> None:
        with self._changing:
            self._waiting = max(0, self._waiting - count)
            if not self._waiting and not self._closed.is_set():
                self._asked.clear()


@lru_cache
def get_bell() -> Bell:
    """The process's bell, made from the settings."""
    return Bell(get_settings())


def ring() -> None:
    """Tell the workers to look, soon; returns at once and never raises."""
    get_bell().ring()


def ring_after_commit(session: Session) -> None:
    """Ring once the session's transaction is committed; never when it is rolled back."""
    session.info[RINGS] = True


@event.listens_for(Session, "after_commit")
def _committed(session: Session) -> None:
    if session.info.get(RINGS) and not session.in_nested_transaction():
        del session.info[RINGS]
        ring()


@event.listens_for(Session, "after_rollback")
def _rolled_back(session: Session) -> None:
    if not session.in_nested_transaction():
        session.info.pop(RINGS, None)


def reachable() -> str | None:
    """None when the broker answers within a second, or else why it does not."""
    return get_bell().reachable()
