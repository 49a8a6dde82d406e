"""The embedded service: one command, one machine, reachable from this machine alone."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retort.cli.errors import USAGE, CommandError, report_errors

if TYPE_CHECKING:
    from service.settings import Settings
    from worker.commands.children import ChildProcess, StopRequest

HOST = "127.0.0.1"
PORT = 8765
READY_SECONDS = 180.0
API_STOP_SECONDS = 10.0
ROOT_WARNING = (
    "Warning: this is root. Run it as an ordinary user: engines, which read users' files, are root as well unless they "
    "can become RETORT_ENGINE_USER (`retort doctor` tells)."
)
WORKER_SPARE_SECONDS = 25.0
"""Seconds of a worker beyond its engine's grace, in which it puts its job back and records that."""


@report_errors
def up(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = PORT,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the service; RETORT_DATA_DIR, or ~/.retort, without it.")
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write address and key file there, as JSON, once it is ready.")
    ] = None,
) -> None:
    """Start the service and one worker on this machine, and keep them running until Ctrl-C."""
    settings = settings_of(data_dir)
    os.umask(0o077)  # all that the service writes is its owner's alone
    _make_folder(settings.data_dir)
    with only_one(settings.data_dir), listening(port) as listener:
        _prepare(settings)
        if os.geteuid() == 0:
            typer.echo(ROOT_WARNING, err=True)
        serve(settings, listener, ready_file)


def serve(settings: Settings, listener: socket.socket, ready_file: Path | None) -> None:
    """Run API and worker until a stop is requested."""
    from service.logs import set_up
    from worker.commands.children import StopRequest, keep_alive

    stop = StopRequest()
    url = f"http://{HOST}:{listener.getsockname()[1]}"
    api, worker = make_children(settings, listener)
    try:
        api.start()
        worker.start()
        if not wait_until_ready(url, api, stop):
            return
        _announce(url, settings, ready_file)
        set_up(settings)
        keep_alive((worker, api), stop, logging.getLogger(__name__).warning)
    finally:
        # The worker first: its last writes go to the database, which needs no API.
        worker.stop()
        api.stop()
    typer.echo("Stopped.")


def make_children(settings: Settings, listener: socket.socket) -> tuple[ChildProcess, ChildProcess]:
    """The API, which gets the listening socket, and the worker."""
    from worker.commands.children import ChildProcess

    logs = settings.data_dir / "logs"
    _make_folder(logs)
    descriptor = listener.fileno()
    api = ChildProcess(
        "API", [sys.executable, "-m", "service.app", "--fd", str(descriptor)], logs / "api.log", API_STOP_SECONDS,
        inherits=(descriptor,),
    )  # fmt: skip
    stop_seconds = settings.grace_seconds + WORKER_SPARE_SECONDS
    worker = ChildProcess("worker", [sys.executable, "-m", "worker.app"], logs / "worker.log", stop_seconds)
    return api, worker


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data directory; raises CommandError when another one does."""
    with (data_dir / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise CommandError(f"`retort up` already runs on {data_dir} ({holder})") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}")
        lock.flush()
        yield


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """A socket that listens on this machine alone; it outlives an API that dies. Raises CommandError."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "is taken by another program" if taken else f"cannot be used: {error.strerror}"
            raise CommandError(f"port {port} {reason}; --port 0 takes a free one") from None
        listener.listen(128)
        yield listener


def wait_until_ready(url: str, api: ChildProcess, stop: StopRequest) -> bool:
    """Wait until the API is ready; False when a stop was requested meanwhile. Raises CommandError."""
    from retort.client import Retort, RetortError

    deadline = time.monotonic() + READY_SECONDS
    with Retort(url, key="none yet") as client:
        while not stop:
            if (how := api.ended()) is not None:
                raise CommandError(f"the API ended with {how} while it started ({api.log}: {api.last_line()})")
            try:
                client.ready()
            except RetortError as error:
                if time.monotonic() > deadline:
                    raise CommandError(f"the API is not ready after {READY_SECONDS:g} s: {error}") from None
                time.sleep(0.1)
            else:
                return True
    return False


def settings_of(data_dir: Path | None) -> Settings:
    """The settings, with that data directory where one is given. Raises CommandError when the environment is wrong."""
    from pydantic_settings import SettingsError

    from service.settings import get_settings

    if data_dir is not None:
        os.environ["RETORT_DATA_DIR"] = str(data_dir.absolute())
    try:
        return get_settings()
    except SettingsError as error:
        raise CommandError(str(error), USAGE) from None


def _prepare(settings: Settings) -> None:
    """Bring the database up to date and see that there is a key."""
    from alembic.util import CommandError as MigrationError
    from sqlalchemy.exc import SQLAlchemyError

    from service.db import get_engine, transaction
    from service.keys.service import ensure_first_key
    from service.migrations import upgrade

    try:
        upgrade(get_engine())
        with transaction() as session:
            ensure_first_key(session)
    except MigrationError as error:
        raise CommandError(f"the database in {settings.data_dir} is of another version of Retort: {error}") from None
    except SQLAlchemyError as error:
        raise CommandError(f"the database cannot be used: {' '.join(str(error.args[0]).split())}") from None
    finally:
        get_engine().dispose()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"the folder {folder} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CommandError(f"the folder {folder} cannot be written to")


def _announce(url: str, settings: Settings, ready_file: Path | None) -> None:
    key_file = settings.data_dir / "key"
    address = "" if url.endswith(f":{PORT}") else f"--url {url} "
    typer.echo(
        f"Retort is ready at {url}\n"
        f"  key     {key_file}\n"
        f"  logs    {settings.data_dir / 'logs'}\n"
        f"  submit  retort {address}submit recipe.yaml --watch\n"
        f"  stop    Ctrl-C"
    )
    sys.stdout.flush()
    if ready_file is not None:
        part = ready_file.with_name(f"{ready_file.name}.part")
        part.write_text(json.dumps({"url": url, "key_file": str(key_file), "process": os.getpid()}))
        part.replace(ready_file)
