"""The command that downloads the files of a job."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retort.cli.errors import USAGE, CommandError, report_errors
from retort.cli.jobs import JobId
from retort.cli.screen import console, print_line
from retort.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from retort.client import ArtifactInfo, Retort


@report_errors
def download(
    job: JobId,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Files; all without one.")] = None,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="A folder; the job's id without one.")] = None,
) -> None:
    """Download a job's files; a broken download is resumed."""
    from retort.client import Retort

    with Retort() as client:
        files = _choose(client.jobs.artifacts(job), names or (), job)
        for path in fetch(client, job, files, to or Path(job)):
            print_line(str(path))


def fetch(client: Retort, job_id: str, files: Sequence[ArtifactInfo], folder: Path) -> list[Path]:
    """Download files into a folder under their names, with a bar on a terminal; their paths."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{folder} cannot be created: {error.strerror}") from None
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    paths = []
    with Progress(*columns, console=console(stderr=True), disable=not console(stderr=True).is_terminal) as bars:
        for file in files:
            task = bars.add_task(printable(file.name), total=file.size)
            paths.append(_one(client, job_id, file.name, folder, partial(_show, bars, task)))
    return paths


def _show(bars: Bars, task: TaskID, done: int, total: int) -> None:
    bars.update(task, completed=done, total=total)


def _one(client: Retort, job_id: str, name: str, folder: Path, on_progress: Callable[[int, int], None]) -> Path:
    try:
        return client.jobs.download(job_id, name, folder, on_progress)
    except OSError as error:
        raise CommandError(f"{folder / name} cannot be written: {error.strerror}") from None


def _choose(files: Sequence[ArtifactInfo], names: Sequence[str], job_id: str) -> list[ArtifactInfo]:
    known = {file.name: file for file in files}
    for name in names:
        if name not in known:
            raise CommandError(f"{job_id} has no file {name!r}; it has {', '.join(known) or 'none'}", USAGE)
    if not files:
        raise CommandError(f"{job_id} has no files yet")
    return [known[name] for name in names] if names else [*files]
