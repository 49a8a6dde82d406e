"""The command for the audit log."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from retort.cli.errors import report_errors
from retort.cli.screen import Json, ago, print_json, print_table

if TYPE_CHECKING:
    from retort.client import AuditEntryInfo


@report_errors
def audit(
    project: Annotated[str | None, typer.Option(help="Only by keys of the project with this id.")] = None,
    key: Annotated[str | None, typer.Option(help="Only by the key with this id.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many entries to show at most.")] = 50,
    as_json: Json = False,
) -> None:
    """Show changes, refused requests and removals by retention, newest first; needs an admin key."""
    from retort.client import Retort

    with Retort() as client:
        found = [*islice(client.audit.list(project_id=project, key_id=key), limit)]
    if as_json:
        print_json(found)
        return
    print_table(("when", "key", "project", "request", "about", "status"), map(_row, found))


def _row(entry: AuditEntryInfo) -> tuple[str, ...]:
    about = " ".join(entry.about.values())
    request = f"{entry.method} {entry.route}"
    return ago(entry.at), entry.key_id or "none", entry.project_id or "none", request, about, str(entry.status)
