"""The commands for projects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from retort.cli.errors import report_errors
from retort.cli.screen import Json, ago, print_json, print_line, print_table, size

if TYPE_CHECKING:
    from retort.client import ProjectInfo

COLUMNS = ("project", "name", "running", "queued", "stored", "one upload", "requests a second", "retention", "created")
THINGS = {"jobs": "jobs", "datasets": "data sets", "models": "models", "uploads": "uploads"}
"""Things with a retention, with their names for people."""
RetentionDays = Annotated[
    float | None, typer.Option(metavar="DAYS", help="Days until they are deleted after their last use.")
]

app = typer.Typer(help="List, make and limit projects.", invoke_without_command=True, no_args_is_help=False)


@app.callback()
@report_errors
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
@report_errors
def create(name: Annotated[str, typer.Argument(help="Unique name.")], as_json: Json = False) -> None:
    """Make a project; needs an admin key."""
    from retort.client import Retort

    with Retort() as client:
        made = client.projects.create(name)
    if as_json:
        print_json(made)
    else:
        print_line(made.id)


@app.command()
@report_errors
def limit(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="The project's id.")],
    max_running: Annotated[int | None, typer.Option(min=1, help="Number of its jobs that run at once.")] = None,
    max_queued: Annotated[int | None, typer.Option(min=1, help="Number of its jobs that are queued at once.")] = None,
    max_stored_gib: Annotated[float | None, typer.Option(help="Stored bytes, in GiB.")] = None,
    max_upload_gib: Annotated[float | None, typer.Option(help="Size of one upload, in GiB.")] = None,
    requests_per_second: Annotated[float | None, typer.Option(help="Requests of all its keys together.")] = None,
    jobs_retention_days: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Days until jobs are deleted after their end.")
    ] = None,
    datasets_retention_days: RetentionDays = None,
    models_retention_days: RetentionDays = None,
    uploads_retention_days: RetentionDays = None,
    unset: Annotated[
        list[str] | None,
        typer.Option(help="Name of a limit to remove, such as max-running; may be given several times."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Set limits of a project; needs an admin key. The service's own hold where a project has none."""
    from retort.client import Retort

    limits: dict[str, float | None] = {name.replace("-", "_").replace("_gib", "_bytes"): None for name in unset or ()}
    for name, value in {"max_running": max_running, "max_queued": max_queued}.items():
        limits |= {} if value is None else {name: value}
    for name, gib in {"max_stored_bytes": max_stored_gib, "max_upload_bytes": max_upload_gib}.items():
        limits |= {} if gib is None else {name: round(gib * 2**30)}
    others = {
        "requests_per_second": requests_per_second,
        "jobs_retention_days": jobs_retention_days,
        "datasets_retention_days": datasets_retention_days,
        "models_retention_days": models_retention_days,
        "uploads_retention_days": uploads_retention_days,
    }
    limits |= {name: value for name, value in others.items() if value is not None}
    with Retort() as client:
        found = client.projects.limit(project, **limits)
    if as_json:
        print_json(found)
    else:
        print_table(COLUMNS, [_row(found)])


@report_errors
def usage(as_json: Json = False) -> None:
    """Show limits and present use of the key's project."""
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
    for name, words in THINGS.items():
        days = getattr(limits, f"{name}_retention_days")
        rows.append((f"retention of {words}", "", "for ever" if days is None else f"{days:g} days"))
    print_table((f"project {found.project}", "used", "limit"), rows)


def _row(project: ProjectInfo) -> tuple[str, ...]:
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
        _retention(project),
        ago(project.created_at),
    )


def _retention(project: ProjectInfo) -> str:
    days = {words: getattr(project, f"{name}_retention_days") for name, words in THINGS.items()}
    return ", ".join(f"{words} {count:g} d" for words, count in days.items() if count is not None) or "default"


def _number(count: float | None) -> str:
    return "any number" if count is None else f"{count:g}"
