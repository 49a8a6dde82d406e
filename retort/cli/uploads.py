"""Uploads from the command line: what was brought or begun, and giving it up. `retort upload` brings one."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from retort.cli.errors import speaks
from retort.cli.screen import Json, ago, duration, print_json, print_table, size

if TYPE_CHECKING:
    from retort.client import Upload

app = typer.Typer(help="List and delete what was uploaded.", invoke_without_command=True)


@app.callback()
@speaks
def list_uploads(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="Only those that are open, or complete.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only those for a dataset, or a model.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List and delete what was uploaded."""
    from retort.client import Retort

    if context.invoked_subcommand is not None:
        return
    with Retort() as client:
        found = [*islice(client.uploads.list(state=state, kind=kind, page=min(limit, 200)), limit)]
    if as_json:
        print_json(found)
        return
    print_table(("upload", "for a", "name", "state", "there", "size", "begun", "kept for"), map(_row, found))


@app.command()
@speaks
def delete(upload: Annotated[str, typer.Argument(metavar="UPLOAD", help="The upload's id.")]) -> None:
    """Give an upload up that no job goes on to use; what was made of it stays."""
    from retort.client import Retort

    with Retort() as client:
        client.uploads.delete(upload)
    typer.echo(f"{upload} is deleted.")


def _row(one: Upload) -> tuple[str, ...]:
    left = duration((one.expires_at - datetime.now(UTC)).total_seconds())
    there = size(one.received_bytes)
    return one.id, one.kind, one.name, one.state, there, size(one.size), ago(one.created_at), left
