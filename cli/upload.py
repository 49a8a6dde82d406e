"""Files to the service, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.errors import USAGE, CommandError, speaks
from cli.screen import Json, console, print_json

if TYPE_CHECKING:
    from client import Retort, Upload

Kind = Literal["dataset", "model"]


@speaks
def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive of images, or a network.")],
    kind: Annotated[Kind, typer.Option(help="What is to become of it.")],
    name: Annotated[str | None, typer.Option(help="A name for people; the file's without one.")] = None,
    as_json: Json = False,
) -> None:
    """Bring a file to the service; print the upload's id. One that broke off goes on where it broke."""
    from client import Retort

    with Retort() as client:
        done = bring(client, file, kind, name)
    if as_json:
        print_json(done)
    else:
        typer.echo(done.id)


def bring(client: Retort, file: Path, kind: Kind, name: str | None = None) -> Upload:
    """Upload a file, with a bar on a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    if file.is_dir():
        raise CommandError(f"{file} is a folder; wanted a file, such as an archive of that folder", USAGE)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console(stderr=True), disable=not console(stderr=True).is_terminal) as bars:
        task = bars.add_task(file.name, total=None)

        def show(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        try:
            return client.uploads.upload(file, kind=kind, name=name, progressed=show)
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}", USAGE) from None
