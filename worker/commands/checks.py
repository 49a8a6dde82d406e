"""The checks of `retort doctor`. A check changes nothing, asks each server once, and never raises."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from retort.cli.errors import CommandError
from retort.cli.screen import duration, size

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from retort.client import Retort
    from service.settings import Settings

Status: TypeAlias = Literal["ok", "warn", "fail"]

PACKAGES = ("retort", "sqlalchemy", "celery", "fastapi", "torch", "torchvision", "timm", "onnxruntime")
PROBE_TABLE = (
    "CREATE TEMPORARY TABLE retort_probe ON COMMIT DROP AS SELECT repeat('x', 1000) FROM generate_series(1, 100)"
)
CLOCK_SECONDS = 2.0
"""Seconds by which this machine's clock may be off the database's."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    status: Status
    found: str
    advice: str = ""
    """One sentence of advice; empty when all is well."""


@dataclass(frozen=True)
class Facts:
    """The database, as it describes itself."""

    server: str
    """Its kind and version."""
    revision: str | None
    """The migration that it stands at."""
    clock_seconds: float
    """Seconds by which this machine's clock is ahead of the database's."""
    workers: int = 0
    """Workers that are alive. This and the following are known of a migrated database alone."""
    seen_seconds: float | None = None
    """Seconds since the last of all workers was seen."""
    queued: int = 0
    need_bytes: int = 0
    """The largest need of a queued job on a worker's disk."""


def run_checks(data_dir: Path | None) -> Iterator[Finding]:
    """All checks, one after the other."""
    yield from guarded("versions", versions)
    try:
        from worker.commands.up import settings_of

        settings = settings_of(data_dir)
    except ImportError as error:
        text = (
            f"the parts of a server are not installed here ({error.name}), so only the service's address is looked at"
        )
        yield Finding("settings", "warn", text, "On a server, install retort[service], or retort[worker] to train.")
    except CommandError as error:
        yield Finding("settings", "fail", str(error), "Mend that variable; nothing starts with it.")
    else:
        yield from of_this_server(settings)
    yield from guarded("service", lambda: service())


def of_this_server(settings: Settings) -> Iterator[Finding]:
    """The checks of a server besides its code."""
    yield Finding("settings", "ok", f"read from the environment; the data directory is {settings.data_dir}")
    facts: list[Facts] = []
    yield from guarded("database", lambda: database(settings, facts.append))
    known = facts[0] if facts else None
    yield from guarded("clock", lambda: clock(known))
    yield from guarded("workers", lambda: workers(known))
    yield from guarded("broker", lambda: broker(settings))
    yield from guarded("storage", lambda: storage(settings, known.need_bytes if known else 0))
    yield from guarded("data roots", lambda: data_roots(settings))
    yield from guarded("device", device)
    yield from guarded("engine", lambda: engine(settings))


def guarded(name: str, check: Callable[[], Finding | Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check, or that it failed itself: the others are made all the same."""
    try:
        found = check()
        yield from [found] if isinstance(found, Finding) else found
    except Exception as error:  # whatever a broken machine raises
        text = f"the check itself failed: {type(error).__name__}: {' '.join(str(error).split())}"
        yield Finding(name, "fail", text, "Report this, with the output of `retort doctor --json`.")


def versions() -> Finding:
    """Python and the libraries that matter."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        version = installed(package)
        found.append(f"{package} {version}" if version else f"no {package}")
    return Finding("versions", "ok", ", ".join(found))


def installed(package: str) -> str | None:
    """A package's version; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def database(settings: Settings, keep: Callable[[Facts], None]) -> Finding:
    """Whether it answers and has today's tables; its facts go to `keep`."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    from service import revisions
    from service.db import make_engine
    from service.health.service import disk_problem

    try:
        url = make_url(settings.database).set(query={})
    except ArgumentError:
        return Finding("database", "fail", "RETORT_DATABASE_URL is no address of a database", wanted_url())
    shown = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite" and not (url.database and Path(url.database).is_file()):
        return Finding("database", "fail", f"there is no file {url.database}", "`retort up` makes it.")
    try:
        facts = query_facts(make_engine(settings.database), settings.lease_seconds)
    except (SQLAlchemyError, ImportError) as error:
        text = first_line(str(getattr(error, "orig", None) or error))
        return Finding("database", "fail", f"{shown} cannot be used: {text}", wanted_url())
    keep(facts)
    if facts.revision != revisions.head():
        stands = (
            f"{facts.server} at {shown} stands at migration {facts.revision or 'none'}; {revisions.head()} is wanted"
        )
        return Finding(
            "database", "fail", stands,
            "`python -m service.migrations` brings it there; a database of a newer Retort needs that version.",
        )  # fmt: skip
    if full := disk_problem(settings) or full_server(settings):
        return Finding("database", "fail", f"{facts.server} at {shown}: {full}", "Make room on that disk.")
    return Finding("database", "ok", f"{facts.server} at {shown}, migration {facts.revision}")


def full_server(settings: Settings) -> str | None:
    """The reason why PostgreSQL has no room for a small table that goes with its transaction; None when it has, or when
    we may make none."""
    from sqlalchemy.exc import SQLAlchemyError

    from service.db import DatabaseFull, make_engine, why

    engine = make_engine(settings.database)
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql(PROBE_TABLE)
            connection.rollback()
    except DatabaseFull as error:
        return f"it takes nothing: {why(error)}"
    except SQLAlchemyError:
        return None
    finally:
        engine.dispose()
    return None


def wanted_url() -> str:
    """Advice about a database that cannot be reached."""
    return "Start it, or set RETORT_DATABASE_URL to an address like postgresql+psycopg://USER@HOST/DATABASE."


def query_facts(engine: Engine, lease_seconds: float) -> Facts:
    """The facts of a database. Raises SQLAlchemyError."""
    from sqlalchemy import func, select

    from service import revisions
    from service.db import database_now, is_near
    from service.jobs.models import JobRow, State
    from service.workers.models import WorkerRow

    try:
        with engine.connect().execution_options(retort_reads=True) as connection:
            before = time.time()
            now = connection.scalars(select(database_now())).one()
            ahead = (before + time.time()) / 2 - now
            version = ".".join(map(str, connection.dialect.server_version_info or ()))
            server = f"{'SQLite' if connection.dialect.name == 'sqlite' else 'PostgreSQL'} {version}"
        facts = Facts(server, revisions.current(engine), ahead)
        if facts.revision != revisions.head():
            return facts
        with engine.connect().execution_options(retort_reads=True) as connection:
            alive = select(func.count()).where(is_near(WorkerRow.seen_at, lease_seconds))
            queued = select(func.count(), func.coalesce(func.max(JobRow.needs_disk_bytes), 0))
            waiting, need = connection.execute(queued.where(JobRow.state == State.queued)).one()
            return Facts(
                server, facts.revision, ahead, connection.scalars(alive).one(),
                connection.scalar(select(database_now() - func.max(WorkerRow.seen_at))), waiting, need,
            )  # fmt: skip
    finally:
        engine.dispose()


def clock(facts: Facts | None) -> Finding:
    """This machine's against the database's."""
    if facts is None:
        return unknown("clock")
    if facts.server.startswith("SQLite"):
        return Finding("clock", "ok", "the database has this machine's")
    off = f"{abs(facts.clock_seconds):.2f} s {'ahead of' if facts.clock_seconds > 0 else 'behind'} the database's"
    if abs(facts.clock_seconds) <= CLOCK_SECONDS:
        return Finding("clock", "ok", off)
    return Finding("clock", "warn", off, "Keep both by NTP; leases go by the database's alone, but logs do not.")


def workers(facts: Facts | None) -> Finding:
    """Living workers, as far as the database knows."""
    from service import revisions

    if facts is None or facts.revision != revisions.head():
        return unknown("workers")
    seen = (
        "none was ever seen" if facts.seen_seconds is None else f"the last was seen {duration(facts.seen_seconds)} ago"
    )
    waiting = f"{facts.queued} {'job waits' if facts.queued == 1 else 'jobs wait'}"
    if facts.workers:
        return Finding("workers", "ok", f"{facts.workers} alive, {seen}; {waiting}")
    return Finding("workers", "warn", f"none is alive, {seen}; {waiting}", "`python -m worker.app` starts one.")


def unknown(name: str) -> Finding:
    """A check that needs the database, which does not answer or is not migrated."""
    return Finding(name, "warn", "not known without the database", "Mend the database first.")


def broker(settings: Settings) -> Finding:
    """Whether wake-ups reach the broker."""
    from service.broker import FILES
    from service.wake_up import WakeUpSender

    if settings.broker.startswith(f"{FILES}:"):
        return check_broker_folder(settings.data_dir / "broker")
    sender = WakeUpSender(settings)
    problem = sender.reachable()
    sender.close()
    shown = settings.broker.partition("?")[0]
    if problem is None:
        return Finding("broker", "ok", f"{shown} answers")
    return Finding(
        "broker", "warn", f"{shown} cannot be reached: {first_line(problem)}",
        "Start it, or mend RETORT_BROKER_URL; until then workers find jobs by looking, which takes longer.",
    )  # fmt: skip


def check_broker_folder(folder: Path) -> Finding:
    """Whether the folder that is the broker takes files."""
    problem = refusal(folder)
    if problem is None:
        return Finding("broker", "ok", f"the folder {folder}")
    return Finding(
        "broker", "warn", f"the folder {folder} takes no file: {problem}",
        "Let its owner run the service, or make room; until then workers find jobs by looking.",
    )  # fmt: skip


def storage(settings: Settings, need_bytes: int) -> Finding:
    """Whether a worker here can write, and whether that is enough for the jobs that wait."""
    folder = settings.storage
    problem = refusal(folder)
    if problem is not None:
        text = f"{folder} takes no file: {problem}"
        return Finding(
            "storage", "fail", text, "Make it writable for the service, or set RETORT_STORAGE_URL to another."
        )
    free = shutil.disk_usage(nearest(folder)).free
    text = f"{folder} has {size(free)} free"
    room = free - settings.disk_reserve_bytes
    if room <= 0:
        kept = f"{text}, of which {size(settings.disk_reserve_bytes)} are left alone"
        return Finding("storage", "fail", kept, "Make room: no worker begins a job here.")
    if room < need_bytes:
        wanted = f"{text}; a job that waits needs {size(need_bytes + settings.disk_reserve_bytes)}"
        return Finding("storage", "warn", wanted, "Make room, or let a worker with a larger disk run.")
    return Finding("storage", "ok", text)


def refusal(folder: Path) -> str | None:
    """The reason why a folder, or the one that it will be made in, takes no file; None when it does."""
    from service.health import service as health

    return health.refusal(nearest(folder))


def nearest(folder: Path) -> Path:
    """The folder itself, or the first above it that is there."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


def data_roots(settings: Settings) -> Finding:
    """Whether the folders of local images can be read."""
    wrong = [root for root in settings.data_roots if not (root.is_dir() and os.access(root, os.R_OK | os.X_OK))]
    if wrong:
        listed = ", ".join(map(str, wrong))
        return Finding("data roots", "fail", f"cannot be read as folders: {listed}", "Mend RETORT_DATA_ROOTS.")
    listed = ", ".join(map(str, settings.data_roots))
    return Finding("data roots", "ok", listed or "none, so recipes name no local images")


def device() -> Finding:
    """The device that a worker on this machine would train on."""
    from retort.limits import memory, processors
    from worker import machine

    torch = installed("torch")
    gpu = machine.first_gpu()
    computer = f"{processors()} CPU threads, {size(memory())} of memory"
    if gpu is None:
        if shutil.which("nvidia-smi") and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
            text = f"nvidia-smi is installed and lists no GPU; {computer}"
            return Finding(
                "device", "warn", text, "Run nvidia-smi and mend the driver; until then a worker uses the CPU."
            )
        return Finding("device", "ok", f"no GPU; {computer}")
    text = f"{gpu[0]} with {size(gpu[1])}; {computer}"
    if torch is not None and torch.endswith("+cpu"):
        return Finding(
            "device", "warn", f"{text}; torch {torch} knows no GPU", "Install a torch that is built with CUDA."
        )
    return Finding("device", "ok", text)


def engine(settings: Settings) -> Finding:
    """The confinement of a worker's engines here, which read hostile files."""
    from worker.sandbox import AS_ROOT, PROMISES, WALLS, prepare

    with tempfile.TemporaryDirectory(dir=nearest(settings.storage)) as folder:
        sandbox = prepare(settings.model_copy(update={"storage_url": Path(folder).as_uri()}))
    held = "; ".join(words for name, words in PROMISES.items() if sandbox.holds(name)) or "none of what confines it"
    lacking = [f"{PROMISES[name]} ({why})" for name, why in sandbox.missing.items()]
    text = f"has {held}" + (f"; does without: {'; '.join(lacking)}" if lacking else "")
    if any(not sandbox.holds(name) for name in WALLS):
        return Finding(
            "engine", "warn", text, "Run workers where the kernel has Landlock and seccomp; see docs/security.md."
        )
    if sandbox.is_root:
        return Finding("engine", "warn", f"runs as root; {text}", f"{AS_ROOT[0].upper()}{AS_ROOT[1:]}.")
    return Finding("engine", "ok", text)


def service() -> Iterator[Finding]:
    """Whether the service answers over HTTP, and whether the key that is set opens it."""
    from retort.client import ApiError, Retort, RetortError

    try:
        with Retort() as client:
            try:
                ready = readiness(client.url, client.ready())
            except ApiError as error:
                text = f"{client.url} answers that it cannot work: {error}"
                yield Finding("service", "fail", text, "Mend what it says, on its own machine.")
                return
            yield ready
            if ready.status != "fail":
                yield key(client)
    except RetortError as error:
        text = str(error).partition("; check the address")[0]
        yield Finding("service", "fail", text, "Start it (`retort up` does here), or set RETORT_URL to its address.")


def readiness(url: str, answer: object) -> Finding:
    """The finding about an answer of /readyz."""
    status = answer.get("status") if isinstance(answer, dict) else None
    if status == "ok":
        return Finding("service", "ok", f"{url} is ready")
    if isinstance(answer, dict) and status == "degraded":
        return Finding(
            "service", "warn", f"{url} is degraded: its broker is {answer.get('broker')}", "Mend its broker."
        )
    return Finding("service", "fail", f"{url} answers, but not as Retort does", "Set RETORT_URL to Retort's address.")


def key(client: Retort) -> Finding:
    """Whether the key that the command line finds opens the service."""
    from retort.client import RetortError

    advice = "Set RETORT_KEY; `retort keys create NAME --local` makes a key on the service's machine."
    if not client.has_key:
        return Finding("key", "warn", "none is set here, which the service itself does not need", advice)
    try:
        next(iter(client.jobs.list()), None)
    except RetortError as error:
        return Finding("key", "fail", first_line(str(error)), advice)
    return Finding("key", "ok", "it opens the service")


def first_line(text: str) -> str:
    """The first line of a driver's message."""
    return text.strip().partition("\n")[0]
