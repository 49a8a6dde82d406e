"""The broker, as the sender of wake-ups and the workers use it: Redis or another of Celery's, or a folder of files."""

from __future__ import annotations

import json
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.entity import Queue
from kombu.transport import TRANSPORT_ALIASES, filesystem

from service.settings import Settings

QUEUE = "retort"
"""Name of the only queue."""
FILES = "filesystem"
"""Scheme of the broker that is a folder in the data directory."""
POLL_SECONDS = 0.25
"""Seconds between two looks of a worker into the folder for messages."""


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
    """Celery's configuration."""
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
