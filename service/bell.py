"""The bell: a Celery message that says "look" to the workers and carries nothing else.

It may be lost, repeated, or impossible to send: jobs are found in the database without it, only later. So ringing
neither blocks nor fails the request that rings.
"""

from __future__ import annotations

import json
import logging
import threading
from functools import lru_cache
from pathlib import Path
from queue import Empty
from typing import Any

from celery import Celery
from kombu.entity import Queue
from kombu.transport import TRANSPORT_ALIASES, filesystem
from sqlalchemy import event
from sqlalchemy.orm import Session

from service.settings import Settings, get_settings

LOOK = "retort.look"
"""Name of the task."""
QUEUE = "retort"
FILES = "filesystem"
"""Scheme of the broker that is a folder in the data directory."""
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
POLL_SECONDS = 0.25
"""How often a worker looks into the folder for messages."""

log = logging.getLogger(__name__)


class FileChannel(filesystem.Channel):
    """Kombu's channel of files, but a message appears whole and is taken by one reader only.

    A message names its queue, so no table of bindings is kept; Kombu's own could be read while it is half written.
    """

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)  # type: ignore[no-untyped-call]
        Path(self.data_folder_out).mkdir(parents=True, exist_ok=True)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        pass

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]
        folder = Path(self.data_folder_out)
        name = f"{payload['properties']['delivery_tag']}.{queue}"
        written = folder / f"{name}.part"
        written.write_text(json.dumps(payload))
        written.rename(folder / f"{name}.msg")

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        for message in Path(self.data_folder_in).glob(f"*.{queue}.msg"):
            taken = message.with_suffix(".taken")
            try:
                message.rename(taken)
            except FileNotFoundError:
                continue  # another worker was faster
            content = taken.read_text()
            taken.unlink()
            return json.loads(content)
        raise Empty


class FileTransport(filesystem.Transport):
    """Kombu's transport of files with that channel."""

    Channel = FileChannel


def celery_options(settings: Settings) -> dict[str, Any]:
    """Celery's configuration, for who rings and who listens alike."""
    return {
        **_broker(settings),
        "task_queues": [Queue(QUEUE)],
        "task_default_queue": QUEUE,
        "task_ignore_result": True,
        "worker_enable_remote_control": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
    }


def _broker(settings: Settings) -> dict[str, Any]:
    if not settings.broker.startswith(f"{FILES}:"):
        return {"broker_url": settings.broker}
    TRANSPORT_ALIASES["retort-files"] = f"{__name__}:{FileTransport.__name__}"
    folder = str(settings.data_dir / "broker")
    options = {"data_folder_in": folder, "data_folder_out": folder, "polling_interval": POLL_SECONDS}
    return {"broker_url": "retort-files://localhost", "broker_transport_options": options}


class Bell:
    """The sending half of Celery, with a thread of its own: a message wakes one worker, so each ring is one."""

    def __init__(self, settings: Settings) -> None:
        options = celery_options(settings)
        options["broker_transport_options"] = {**options.get("broker_transport_options", {}), **IMPATIENT}
        self._celery = Celery("service", set_as_current=False)
        self._celery.conf.update(options)
        self._asked = threading.Event()
        self._waiting = 0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._changing = threading.Lock()

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
        self._celery.close()

    def _probe(self) -> str | None:
        try:
            with self._celery.connection_for_write() as connection:
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
                self._celery.send_task(LOOK, retry=False)
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

    @event.listens_for(session, "after_commit")
    def committed(session: Session) -> None:
        if not session.in_nested_transaction():
            ring()


def reachable() -> str | None:
    """None when the broker answers within a second, or else why it does not."""
    return get_bell().reachable()
