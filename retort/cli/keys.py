"""The commands for keys, which need an admin key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from retort.cli.errors import USAGE, CommandError, report_errors
from retort.cli.screen import Json, ago, print_json, print_line, print_table

if TYPE_CHECKING:
    from retort.client import KeyInfo, Scope

KeyName = Annotated[str, typer.Argument(help="A name for people.")]
Project = Annotated[str | None, typer.Option(help="Name of its project, if not your own.")]
Admin = Annotated[bool, typer.Option("--admin", help="All permissions: `--scope admin`.")]
Scopes = Annotated[
    list[str] | None,
    typer.Option(help="jobs:read, jobs:write, data:write or admin; given several times, all of these."),
]
ExpiresDays = Annotated[float | None, typer.Option(min=0, help="Days until it expires.")]

app = typer.Typer(help="List, make, rotate and revoke keys.", invoke_without_command=True, no_args_is_help=False)


@app.callback()
@report_errors
def list_keys(context: typer.Context, as_json: Json = False) -> None:
    """List, make, rotate and revoke keys."""
    from retort.client import Retort

    if context.invoked_subcommand is not None:
        return
    with Retort() as client:
        found = client.keys.list()
    if as_json:
        print_json(found)
        return
    print_table(("key", "name", "project", "begins with", "scopes", "last used", "expires"), map(_row, found))


@app.command()
@report_errors
def create(
    name: KeyName,
    project: Project = None,
    admin: Admin = False,
    scope: Scopes = None,
    expires_days: ExpiresDays = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it; it is shown this once."""
    from retort.client import Retort

    scopes = scopes_of(scope, admin=admin)
    ends = None if expires_days is None else datetime.now(UTC) + timedelta(days=expires_days)
    with Retort() as client:
        made = client.keys.create(name, project=project, scopes=scopes or None, expires_at=ends)
    if as_json:
        print_json(made)
    else:
        print_line(made.key)


@app.command()
@report_errors
def rotate(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id.")],
    grace_hours: Annotated[float, typer.Option(min=0, max=720, help="Hours for which the old key stays valid.")] = 24,
    as_json: Json = False,
) -> None:
    """Make a key's successor and print it; it is shown this once."""
    from retort.client import Retort

    with Retort() as client:
        made = client.keys.rotate(key, grace_seconds=round(3600 * grace_hours))
    if as_json:
        print_json(made)
    else:
        print_line(made.key)


@app.command()
@report_errors
def revoke(key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id.")]) -> None:
    """End a key at once."""
    from retort.client import Retort

    with Retort() as client:
        client.keys.revoke(key)
    print_line(f"{key} is revoked.")


def scopes_of(names: list[str] | None, *, admin: bool) -> list[Scope]:
    """The scopes that the options name, in their order. Raises CommandError for one that does not exist."""
    from retort.client import Scope

    names = [*(names or ()), *(["admin"] if admin else [])]
    known: tuple[Scope, ...] = get_args(Scope)
    if unknown := [name for name in names if name not in known]:
        raise CommandError(f"there is no scope {unknown[0]!r}; wanted some of {', '.join(known)}", USAGE)
    return [scope for scope in known if scope in names]


def _row(key: KeyInfo) -> tuple[str, ...]:
    ends = "revoked" if key.revoked_at else f"{key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else "never"
    return key.id, key.name, key.project, key.prefix, " ".join(key.scopes), ago(key.used_at) or "never", ends
