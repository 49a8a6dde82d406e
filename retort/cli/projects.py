"""Projects from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from retort.cli.errors import speaks
from retort.cli.screen import Json, ago, print_json, print_table, size

if TYPE_CHECKING:
    from retort.client import Project

COLUMNS = ("project", "name", "runs at once", "waits", "stores", "one upload", "asks a second", "keeps", "created")
TERMS = {"jobs": "jobs", "datasets": "data sets", "models": "models", "uploads": "uploads"}
"""What is kept for a while, with its name for people."""
Days = Annotated[float | None, typer.Option(metavar="DAYS", help="How long they are kept once nothing uses them.")]

app = typer.Typer(help="List, make and limit projects.", invoke_without_command=True, no_args_is_help=False)


@app.callback()
@speaks
def list_projects(context: typer.Context, as_json: Json = False) -> None:
    """List, make and limit projects."""
    from retort.client import Retort

    if context.invoked_subcommand is not None:
        return
    with Retort() as client:
        found = client.projects.list()
    if as_json:
        print_json(found)
        return
    print_table(COLUMNS, map(_row, found))


@app.command()
@speaks
def create(name: Annotated[str, typer.Argument(help="Unique name.")], as_json: Json = False) -> None:
    """Make a project; needs an admin key."""
    from retort.client import Retort

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
    max_running: Annotated[int | None, typer.Option(min=1, help="How many of its jobs run at once.")] = None,
    max_queued: Annotated[int | None, typer.Option(min=1, help="How many of its jobs wait at once.")] = None,
    max_stored_gib: Annotated[float | None, typer.Option(help="How much it stores, in GiB.")] = None,
    max_upload_gib: Annotated[float | None, typer.Option(help="How large one upload is, in GiB.")] = None,
    requests_per_second: Annotated[float | None, typer.Option(help="How often its keys together may ask.")] = None,
    keep_jobs_days: Annotated[
        float | None, typer.Option(metavar="DAYS", help="How long jobs that have ended are kept.")
    ] = None,
    keep_datasets_days: Days = None,
    keep_models_days: Days = None,
    keep_uploads_days: Days = None,
    unset: Annotated[
        list[str] | None,
        typer.Option(help="Name of a limit to take away, such as max-running; may be given several times."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Set limits of a project; needs an admin key. Where it has none the service's own hold."""
    from retort.client import Retort

    limits: dict[str, float | None] = {name.replace("-", "_").replace("_gib", "_bytes"): None for name in unset or ()}
    for name, value in {"max_running": max_running, "max_queued": max_queued}.items():
        limits |= {} if value is None else {name: value}
    for name, gib in {"max_stored_bytes": max_stored_gib, "max_upload_bytes": max_upload_gib}.items():
        limits |= {} if gib is None else {name: round(gib * 2**30)}
    others = {
        "requests_per_second": requests_per_second,
        "keep_jobs_days": keep_jobs_days,
        "keep_datasets_days": keep_datasets_days,
        "keep_models_days": keep_models_days,
        "keep_uploads_days": keep_uploads_days,
    }
    limits |= {name: value for name, value in others.items() if value is not None}
    with Retort() as client:
        found = client.projects.limit(project, **limits)
    if as_json:
        print_json(found)
    else:
        print_table(COLUMNS, [_row(found)])


@speaks
def usage(as_json: Json = False) -> None:
    """Show what the key's project may use, and what it uses now."""
    from retort.client import Retort

    with Retort() as client:
        found = client.projects.usage()
    if as_json:
        print_json(found)
        return
    used, limits = found.used, found.limits
    rows = [
        ("running jobs", str(used.running), _number(limits.max_running)),
        ("queued jobs", str(used.queued), _number(limits.max_queued)),
        ("stored", size(used.stored_bytes), size(limits.max_stored_bytes)),
        ("one upload", "", size(limits.max_upload_bytes)),
        ("requests a second", "", _number(limits.requests_per_second)),
    ]
    for name, words in TERMS.items():
        days = getattr(limits, f"keep_{name}_days")
        rows.append((f"{words} are kept", "", "for ever" if days is None else f"{days:g} days"))
    print_table((f"project {found.project}", "used", "limit"), rows)


def _row(project: Project) -> tuple[str, ...]:
    stored, upload = (
        "default" if count is None else size(count) for count in (project.max_stored_bytes, project.max_upload_bytes)
    )
    waiting, rate = (
        "default" if count is None else f"{count:g}" for count in (project.max_queued, project.requests_per_second)
    )
    return (
        project.id,
        project.name,
        _number(project.max_running),
        waiting,
        stored,
        upload,
        rate,
        _terms(project),
        ago(project.created_at),
    )


def _terms(project: Project) -> str:
    days = {words: getattr(project, f"keep_{name}_days") for name, words in TERMS.items()}
    return ", ".join(f"{words} {count:g} d" for words, count in days.items() if count is not None) or "default"


def _number(count: float | None) -> str:
    return "any number" if count is None else f"{count:g}"
