"""Keys from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import CommandError, speaks
from cli.screen import Json, ago, print_json, print_table

if TYPE_CHECKING:
    from client import Key

app = typer.Typer(help="List, make and revoke keys.", invoke_without_command=True, no_args_is_help=False)


@app.callback()
@speaks
def list_keys(context: typer.Context, as_json: Json = False) -> None:
    """List, make and revoke keys."""
    from client import Retort

    if context.invoked_subcommand is not None:
        return
    with Retort() as client:
        found = client.keys.list()
    if as_json:
        print_json(found)
        return
    print_table(("key", "name", "project", "begins with", "may", "used"), map(_row, found))


@app.command()
@speaks
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    project: Annotated[str | None, typer.Option(help="Another project; needs an admin key.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may make projects and keys; needs an admin key.")] = False,
    local: Annotated[
        bool, typer.Option("--local", help="Write it into the database of this machine's settings; needs no key.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a key and print it; it is shown this once."""
    from client import Retort

    if local:
        typer.echo(_make_locally(name, project, admin=admin))
        return
    with Retort() as client:
        made = client.keys.create(name, project=project, admin=admin)
    if as_json:
        print_json(made)
    else:
        typer.echo(made.key)


@app.command()
@speaks
def revoke(key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id.")]) -> None:
    """End a key at once."""
    from client import Retort

    with Retort() as client:
        client.keys.revoke(key)
    typer.echo(f"{key} is revoked.")


def _make_locally(name: str, project: str | None, *, admin: bool) -> str:
    """The first key of a service that is not `retort up`'s, which makes its own."""
    from sqlalchemy.exc import SQLAlchemyError

    from service.db import transaction
    from service.keys.service import create_local_key
    from service.projects.service import DEFAULT

    try:
        with transaction() as session:
            return create_local_key(session, name, project or DEFAULT, admin=admin)
    except SQLAlchemyError as error:
        raise CommandError(f"the database cannot be used: {' '.join(str(error.args[0]).split())}") from None


def _row(key: Key) -> tuple[str, ...]:
    used = "revoked" if key.revoked_at else ago(key.used_at) or "never"
    return key.id, key.name, key.project, key.prefix, "all (admin)" if key.admin else "its project", used
