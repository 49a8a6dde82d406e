"""`retort keys create --local`: the first key of a service, written into its database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from retort.cli import keys
from retort.cli.errors import USAGE, CommandError, report_errors
from retort.cli.keys import Admin, ExpiresDays, KeyName, Project, Scopes, scopes_of
from retort.cli.screen import Json, print_line

if TYPE_CHECKING:
    from retort.client import Scope


def join() -> None:
    """Put a `create` that knows `--local` in the place of the users' one."""
    users = next(each for each in keys.app.registered_commands if each.callback is keys.create)
    keys.app.registered_commands.remove(users)
    keys.app.command()(create)


@report_errors
def create(
    name: KeyName,
    project: Project = None,
    admin: Admin = False,
    scope: Scopes = None,
    expires_days: ExpiresDays = None,
    local: Annotated[
        bool, typer.Option("--local", help="Write it into the database of this machine's settings; needs no key.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a key and print it; it is shown this once."""
    if not local:
        keys.create(name, project, admin, scope, expires_days, as_json)
        return
    if expires_days is not None:
        raise CommandError("--local makes a key without an end; leave out --expires-days", USAGE)
    print_line(_make_locally(name, project, scopes_of(scope, admin=admin)))


def _make_locally(name: str, project: str | None, scopes: list[Scope]) -> str:
    """The first key of a service that is not `retort up`'s, which makes its own."""
    from sqlalchemy.exc import SQLAlchemyError

    from service.access.scopes import PROJECT_SCOPES
    from service.db import transaction
    from service.keys.service import create_local_key
    from service.projects.service import DEFAULT

    try:
        with transaction() as session:
            return create_local_key(session, name, project or DEFAULT, scopes=scopes or PROJECT_SCOPES)
    except SQLAlchemyError as error:
        raise CommandError(f"the database cannot be used: {' '.join(str(error.args[0]).split())}") from None
