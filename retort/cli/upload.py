"""The command that uploads a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retort.cli.errors import USAGE, CommandError, report_errors
from retort.cli.screen import Json, console, print_json, print_line
from retort.printable import printable

if TYPE_CHECKING:
    from retort.client import Retort, UploadInfo

Kind = Literal["dataset", "model"]


@report_errors
def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive of images, or a network.")],
    kind: Annotated[Kind, typer.Option(help="The thing that is to be made of it.")],
    name: Annotated[str | None, typer.Option(help="A name for people; the file's without one.")] = None,
    as_json: Json = False,
) -> None:
    """Upload a file; print the upload's id. A broken upload is resumed."""
    from retort.client import Retort

    with Retort() as client:
        done = upload_file(client, file, kind, name)
    if as_json:
        print_json(done)
    else:
        print_line(done.id)


def upload_file(client: Retort, file: Path, kind: Kind, name: str | None = None) -> UploadInfo:
    """Upload a file, with a bar on a terminal."""
    if file.is_dir():
        raise CommandError(f"{file} is a folder; wanted a file, such as an archive of that folder", USAGE)
    with _bar(file.name) as on_progress:
        try:
            return client.uploads.upload(file, kind=kind, name=name, on_progress=on_progress)
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}", USAGE) from None


def upload_folder(client: Retort, folder: Path) -> UploadInfo:
    """Upload a folder of images as an archive, with a bar for packing it and one for sending it."""
    from retort.cli.packing import pack

    with ExitStack() as stack:
        with _bar(f"packing {folder}") as on_progress:
            archive = stack.enter_context(pack(folder, on_progress))
        return upload_file(client, archive, "dataset")


@contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; yields a callback of (bytes done, bytes in all)."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console(stderr=True), disable=not console(stderr=True).is_terminal) as bars:
        task = bars.add_task(printable(label), total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
