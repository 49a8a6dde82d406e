"""Backup and restore, next to the database: these commands need its address and no key."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retort.cli.errors import USAGE, CommandError, report_errors
from retort.cli.screen import print_line
from worker.commands.up import settings_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from service.backup import Contents

DataDir = Annotated[
    Path | None, typer.Option(help="Of the embedded service; RETORT_DATA_DIR, or ~/.retort, without it.")
]


@report_errors
def backup(
    file: Annotated[Path, typer.Argument(help="A new file; - writes to standard output.")], data_dir: DataDir = None
) -> None:
    """Write all that the database holds into one file, while the service runs."""
    from service.backup import make_backup

    if str(file) == "-" and sys.stdout.isatty():
        raise CommandError("a backup is no text for a terminal; wanted: retort backup - > FILE", USAGE)
    with _database(data_dir) as engine, _folder() as folder:
        if str(file) != "-":
            contents = make_backup(engine, file)
        else:
            contents = make_backup(engine, folder / "backup")
            _print_bytes(folder / "backup")
    print_line(f"Backed up {_shown(contents)}.", err=True)


@report_errors
def restore(
    file: Annotated[Path, typer.Argument(help="A file of `retort backup`; - reads standard input.")],
    replace: Annotated[bool, typer.Option("--replace", help="Give up what the database holds.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Put what a backup holds into the database, all of it or nothing; running jobs go on from their checkpoints."""
    from service.backup import restore as restore_database

    with _database(data_dir) as engine, _folder() as folder:
        if str(file) == "-":
            file = folder / "standard-input"
            with file.open("wb") as received:
                shutil.copyfileobj(sys.stdin.buffer, received)
        contents = restore_database(engine, file, replace=replace)
    print_line(f"Restored {_shown(contents)}.", err=True)


@report_errors
def disown(data_dir: DataDir = None) -> None:
    """Take all jobs from their workers, after the database was brought back by other means than `retort restore`."""
    from service.backup import disown as disown_all

    with _database(data_dir) as engine, engine.begin() as connection:
        count = disown_all(connection, "the database was brought back from an earlier time")
    print_line(f"Done; {count} running jobs wait for a worker.", err=True)


@contextmanager
def _database(data_dir: Path | None) -> Iterator[Engine]:
    from sqlalchemy.exc import SQLAlchemyError

    from service.backup import BackupError
    from service.db import get_engine

    settings_of(data_dir)
    os.umask(0o077)  # a backup and a database are their owner's alone
    try:
        yield get_engine()
    except BackupError as error:
        raise CommandError(str(error)) from None
    except SQLAlchemyError as error:
        raise CommandError(f"the database cannot be used: {' '.join(str(error.args[0]).split())}") from None
    finally:
        get_engine().dispose()


def _print_bytes(file: Path) -> None:
    try:
        with file.open("rb") as made:
            shutil.copyfileobj(made, sys.stdout.buffer)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        raise CommandError(f"standard output did not take the whole backup: {error.strerror}") from None


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that lasts as long as the block, for backups that go through a pipe."""
    with tempfile.TemporaryDirectory(prefix="retort-") as folder:
        yield Path(folder)


def _shown(contents: Contents) -> str:
    words = ("projects", "jobs", "events", "artifacts")
    return f"{', '.join(f'{contents.rows[word]} {word}' for word in words)} of {contents.made_at}"
