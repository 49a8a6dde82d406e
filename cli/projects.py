"""Projects from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import speaks
from cli.screen import Json, ago, print_json, print_table

if TYPE_CHECKING:
    from client import Project

app = typer.Typer(help="List, make and limit projects.", invoke_without_command=True, no_args_is_help=False)


@app.callback()
@speaks
def list_projects(context: typer.Context, as_json: Json = False) -> None:
    """List, make and limit projects."""
    from client import Retort

    if context.invoked_subcommand is not None:
        return
    with Retort() as client:
        found = client.projects.list()
    if as_json:
        print_json(found)
        return
    print_table(("project", "name", "runs at once", "created"), map(_row, found))


@app.command()
@speaks
def create(name: Annotated[str, typer.Argument(help="Unique name.")], as_json: Json = False) -> None:
    """Make a project; needs an admin key."""
    from client import Retort

    with Retort() as client:
        made = client.projects.create(name)
    if as_json:
        print_json(made)
    else:
        typer.echo(made.id)


@app.command()
@speaks
def limit(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="The project's id.")],
    max_running: Annotated[
        int | None, typer.Option(min=1, help="How many of its jobs run at once at most; without it, no limit.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set how many jobs of a project run at once; needs an admin key."""
    from client import Retort

    with Retort() as client:
        found = client.projects.limit(project, max_running)
    if as_json:
        print_json(found)
    else:
        runs = "without a limit" if max_running is None else f"{max_running} at once at most"
        typer.echo(f"{found.name} runs jobs {runs}.")


def _row(project: Project) -> tuple[str, ...]:
    most = "any number" if project.max_running is None else str(project.max_running)
    return project.id, project.name, most, ago(project.created_at)
