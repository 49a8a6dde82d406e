"""The commands that list and delete uploads; `retort upload` makes one."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from retort.cli.errors import report_errors
from retort.cli.screen import Json, ago, duration, print_json, print_line, print_table, size

if TYPE_CHECKING:
    from retort.client import UploadInfo

app = typer.Typer(help="List and delete uploads.", invoke_without_command=True)


@app.callback()
@report_errors
def list_uploads(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="Only those in that state: open or complete.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only those of that kind: dataset or model.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of uploads at most, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List and delete uploads."""
    from retort.client import Retort

    if context.invoked_subcommand is not None:
        return
    with Retort() as client:
        found = [*islice(client.uploads.list(state=state, kind=kind, page=min(limit, 200)), limit)]
    if as_json:
        print_json(found)
        return
    print_table(("upload", "kind", "name", "state", "received", "size", "created", "expires in"), map(_row, found))


@app.command()
@report_errors
def delete(upload: Annotated[str, typer.Argument(metavar="UPLOAD", help="The upload's id.")]) -> None:
    """Delete an upload; refused while a job that has not ended uses it. What was made of it stays."""
    from retort.client import Retort

    with Retort() as client:
        client.uploads.delete(upload)
    print_line(f"{upload} is deleted.")


def _row(one: UploadInfo) -> tuple[str, ...]:
    left = duration((one.expires_at - datetime.now(UTC)).total_seconds())
    received = size(one.received_bytes)
    return one.id, one.kind, one.name, one.state, received, size(one.size), ago(one.created_at), left
