"""Files to the service, from the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retort.cli.errors import USAGE, CommandError, speaks
from retort.cli.screen import Json, console, print_json

if TYPE_CHECKING:
    from retort.client import Retort, Upload

Kind = Literal["dataset", "model"]


@speaks
def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive of images, or a network.")],
    kind: Annotated[Kind, typer.Option(help="What is to become of it.")],
    name: Annotated[str | None, typer.Option(help="A name for people; the file's without one.")] = None,
    as_json: Json = False,
) -> None:
    """Bring a file to the service; print the upload's id. One that broke off goes on where it broke."""
    from retort.client import Retort

    with Retort() as client:
        done = bring(client, file, kind, name)
    if as_json:
        print_json(done)
    else:
        typer.echo(done.id)


def bring(client: Retort, file: Path, kind: Kind, name: str | None = None) -> Upload:
    """Upload a file, with a bar on a terminal."""
    if file.is_dir():
        raise CommandError(f"{file} is a folder; wanted a file, such as an archive of that folder", USAGE)
    with _bar(file.name) as told:
        try:
            return client.uploads.upload(file, kind=kind, name=name, progressed=told)
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}", USAGE) from None


def bring_folder(client: Retort, folder: Path) -> Upload:
    """Upload a folder of images as an archive, with a bar for packing it and one for sending it."""
    from retort.cli.packing import packed

    with ExitStack() as stack:
        with _bar(f"packs {folder}") as told:
            archive = stack.enter_context(packed(folder, told))
        return bring(client, archive, "dataset")


@contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, told how many bytes of how many are done."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console(stderr=True), disable=not console(stderr=True).is_terminal) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
