"""A whole service on one machine, as processes of its own, each of which may be killed and started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Engine, create_engine

import service.db
from retort.client import Retort
from service.db import make_engine, transaction
from service.keys.service import create_local_key
from service.migrations import upgrade
from service.settings import get_settings
from service.wake_up import WakeUpSender
from tests.conftest import forget_settings
from tests.servers import PostgreSQL, Redis, ended, get, lasting_port, wait_until
from worker.engine_process import ENGINE

ROOT = Path(__file__).parents[2]
STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in.py")))
ENGINES: dict[str, Sequence[str]] = {"stand_in": STAND_IN, "real": ENGINE}
PAIRS = ("full", "embedded")
"""PostgreSQL and Redis; SQLite and files."""
HOUR = 3600.0
SETTINGS: dict[str, object] = {
    "lease_seconds": 3, "look_seconds": 0.5, "grace_seconds": 3, "checkpoint_seconds": 0.3, "max_attempts": 12,
}  # fmt: skip
MARK = "FAULTS_MARK"
"""A variable in the environment of every process of an installation, engines and what they start among them."""


class Worker:
    """A worker's process."""

    def __init__(self, number: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.number = number
        """Of the machine that it runs on."""
        self.process = process
        self.log = log
        self.suspended = False
        self.asked = False
        """Whether it was asked to stop; asked again Celery ends at once."""

    def ask_to_stop(self) -> None:
        if not self.asked:
            self.asked = True
            self.process.terminate()

    def suspend(self) -> None:
        self.suspended = True
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.suspended = False

    def has_started(self) -> bool:
        return " ready." in self.log.read_text()

    def engines(self) -> list[int]:
        """Ids of its living children."""
        lists = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(word) for listed in lists for word in _read(listed).split()]


class Installation:
    """Database, broker, API and workers under one folder.

    `apart`: every worker has a storage of its own, as machines have; otherwise they share one.
    """

    def __init__(
        self, folder: Path, *, pair: str, engine: str = "stand_in", apart: bool = True, **settings: object
    ) -> None:
        self.folder, self.pair, self.engine, self.apart = folder, pair, engine, apart
        self.settings = {**SETTINGS, **settings}
        self.mark = uuid4().hex
        self.control, self.work, self.logs = folder / "control", folder / "work", folder / "logs"
        self.port = lasting_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.postgresql: PostgreSQL | None = None
        self.redis: Redis | None = None
        self.database_url = f"sqlite:///{folder / 'data/retort.db'}"
        self.broker_url = ""
        self.api: subprocess.Popen[bytes] | None = None
        self.workers: list[Worker] = []
        self.gone: list[Worker] = []
        """Workers that have ended, or were killed."""
        self.recorded: bytes | None = None
        """A message as it lies in Redis."""
        self._mending = threading.Lock()
        self._clients: list[Retort] = []
        for path in (self.control, self.work, self.logs, folder / "data"):
            path.mkdir(parents=True)

    # Setting up and taking down

    @contextmanager
    def running(self, workers: int) -> Iterator[Installation]:
        """All of it runs; at the end nothing does, whatever happened."""
        try:
            self._start_servers()
            with self.here():
                engine = make_engine(self.database_url)
                upgrade(engine)
                engine.dispose()
                self._record_message()
            self.start_api()
            self.wait_for_api()
            for number in range(workers):
                self.start_worker(number)
            yield self
        finally:
            self._end_all()

    @contextmanager
    def workers_with(self, count: int, **settings: object) -> Iterator[None]:
        """So many workers with settings of their own; at the end they and all that they started are gone, their logs
        too, and the servers run again."""
        before = self.settings
        self.settings = {**before, **settings}
        try:
            wait_until(lambda: get(f"{self.url}/readyz").is_success, "the service is ready")
            for number in range(count):
                self.start_worker(number)
            yield
        finally:
            self.settings = before
            self._end_workers()
            for server in (self.postgresql, self.redis):
                if server is not None and server.process is None:
                    server.start()
            for log in self.logs.glob("worker-*.log"):
                log.unlink()

    @contextmanager
    def here(self) -> Iterator[None]:
        """This process has the installation's settings and clock."""
        kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("RETORT_")}
        mine = {name: text for name, text in self.environment(0).items() if name.startswith("RETORT_")}
        os.environ.update(mine)
        forget_settings()
        try:
            yield
        finally:
            for name in mine:
                os.environ.pop(name)
            os.environ.update(kept)
            forget_settings()

    def environment(self, machine: int) -> dict[str, str]:
        """Of a process on that machine."""
        plain = {name: text for name, text in os.environ.items() if not name.startswith("RETORT_")}
        values = {
            "data_dir": self.folder / "data",
            "database_url": self.database_url,
            "broker_url": self.broker_url,
            "storage_url": self.storage(machine).as_uri(),
            "engine_environment": f"{MARK},FAULTS_WORK,FAULTS_STEP_SECONDS",
            **self.settings,
        }
        own = {
            MARK: self.mark,
            "FAULTS_CONTROL": str(self.control),
            "FAULTS_WORK": str(self.work),
            "FAULTS_ENGINE": json.dumps(ENGINES[self.engine]),
            "OMP_NUM_THREADS": "1",
        }
        retort = {f"RETORT_{name.upper()}": str(value) for name, value in values.items()}
        return {"FAULTS_STEP_SECONDS": "0.05", **plain, **own, **retort}

    def storage(self, machine: int) -> Path:
        return self.folder / (f"storage-{machine}" if self.apart else "storage")

    def storages(self) -> list[Path]:
        return sorted(self.folder.glob("storage*"))

    def _start_servers(self) -> None:
        if self.pair == "embedded":
            return
        for name in ("postgresql", "redis"):
            (self.folder / name).mkdir()
        self.folder.chmod(0o755)
        self.postgresql = PostgreSQL(self.folder / "postgresql", durable=True)
        self.redis = Redis(self.folder / "redis")
        self.postgresql.start()
        self.redis.start()
        engine = create_engine(f"{self.postgresql.url}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE retort")
        engine.dispose()
        self.database_url = f"{self.postgresql.url}/retort"
        self.broker_url = self.redis.url

    def _record_message(self) -> None:
        """Keep one message as the sender of wake-ups sends it, to deliver it again later."""
        sender = WakeUpSender(get_settings())
        sender.wake()
        if self.redis is not None:
            with self.redis.client() as client:
                wait_until(lambda: client.llen("retort") == 1, "a wake-up was sent")
                self.recorded = client.lindex("retort", 0)
        else:
            wait_until(lambda: list(self.broker_folder.glob("*.msg")), "a wake-up was sent")
            self.recorded = next(self.broker_folder.glob("*.msg")).read_bytes()
        sender.close()

    def _end_all(self) -> None:
        for client in self._clients:
            client.close()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in [self.api, *(worker.process for worker in [*self.workers, *self.gone])]:
            if process is not None:
                process.wait()
        for server in (self.postgresql, self.redis):
            if server is not None:
                server.stop(signal.SIGQUIT)
        service.db.clock_offset_seconds = 0.0

    def _end_workers(self) -> None:
        for pid in self.processes():
            if self.api is None or pid != self.api.pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for worker in self.workers:
            worker.process.wait()
        self.gone += self.workers
        self.workers = []

    # Processes

    def launch(self, name: str, machine: int, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        log = self.logs / f"{name}.log"
        command = [sys.executable, "-m", "tests.faults.launcher", *arguments]
        with log.open("ab") as out:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment(machine), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        return process, log

    def start_api(self) -> None:
        self.api, _ = self.launch("api", 0, "api", "--port", str(self.port))

    def start_worker(self, machine: int) -> Worker:
        process, log = self.launch(f"worker-{len(self.workers) + len(self.gone)}", machine, "worker")
        worker = Worker(machine, process, log)
        self.workers.append(worker)
        return worker

    def wait_for_api(self) -> None:
        wait_until(lambda: get(f"{self.url}/healthz").is_success, "the API answers")

    def mend(self) -> None:
        """Start what has died, as a supervisor would."""
        with self._mending:
            if self.api is not None and self.api.poll() is not None:
                self.start_api()
            for worker in [worker for worker in self.workers if worker.process.poll() is not None]:
                self.workers.remove(worker)
                self.gone.append(worker)
                self.start_worker(worker.number)

    def kill_api(self) -> None:
        if self.api is not None:
            ended(self.api, signal.SIGKILL)

    def stop_workers(self, seconds: float = 60) -> list[int]:
        """SIGTERM to all, once they have started; the exit codes of those that had."""
        for worker in self.workers:
            if worker.suspended:
                worker.wake()
            if not worker.asked:
                wait_until(worker.has_started, "the worker starts")
            worker.ask_to_stop()
        codes = [(worker.process.wait(seconds), worker.has_started()) for worker in self.workers]
        return [code for code, started in codes if started]

    def processes(self) -> list[int]:
        """Every living process that bears this installation's mark; this system must have /proc."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and f"{MARK}={self.mark}".encode() in _read_bytes(entry / "environ"):
                found.append(int(entry.name))
        return found

    def said(self, words: str) -> int:
        """How often a worker's log has those words."""
        return sum(log.read_text(errors="replace").count(words) for log in self.logs.glob("worker-*.log"))

    # What a test does to it

    def client(self, project: str) -> Retort:
        """Of an admin key of that project."""
        with self.here(), transaction() as session:
            key = create_local_key(session, "faults", project)
        self._clients.append(Retort(self.url, key))
        return self._clients[-1]

    def engine_of_database(self) -> Engine:
        return make_engine(self.database_url)

    def move_clock(self, seconds: float) -> None:
        """All processes, this one too, take the database's clock to be that much later, almost at once."""
        service.db.clock_offset_seconds += seconds
        part = self.control / "offset.part"
        part.write_text(repr(service.db.clock_offset_seconds))
        part.replace(self.control / "offset")
        time.sleep(0.1)

    @contextmanager
    def wake_ups_lost(self) -> Iterator[None]:
        (self.control / "lose").touch()
        try:
            yield
        finally:
            (self.control / "lose").unlink()

    def api_dies_at_next_wake_up(self) -> None:
        (self.control / "die").touch()

    def deliver_again(self, times: int) -> None:
        """The recorded message comes once more, several times."""
        assert self.recorded is not None
        if self.redis is not None:
            with self.redis.client() as client:
                client.rpush("retort", *[self.recorded] * times)
            return
        for _ in range(times):
            part = self.broker_folder / f"{uuid4()}.retort.part"
            part.write_bytes(self.recorded)
            part.rename(part.with_suffix(".msg"))

    @property
    def broker_folder(self) -> Path:
        return self.folder / "data/broker"


def fresh_folder(name: str) -> Path:
    """A folder that the servers' own user may enter too, under the system's folder for temporary files."""
    folder = Path("/tmp") / f"retort-faults-{name}-{uuid4().hex[:8]}"
    folder.mkdir(mode=0o755)
    return folder


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
