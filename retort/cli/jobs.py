"""The commands for jobs: validate, submit, list, show, watch, pause, resume, stop, cancel."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retort.cli.errors import REFUSED, print_error, report_errors
from retort.cli.screen import (
    Json,
    ago,
    duration,
    format_facts,
    print_field,
    print_json,
    print_line,
    print_table,
)

if TYPE_CHECKING:
    from retort.client import JobInfo, Retort, ValidationInfo

WANTED = {"pause": "pause", "stop": "stop with the best so far", "cancel": "end without a result"}
"""A job's `wanted` in words."""

RecipeFile = Annotated[
    str | None, typer.Argument(metavar="FILE", help="A recipe in YAML or JSON; - reads standard input.")
]
OfJob = Annotated[str | None, typer.Option("--from", metavar="JOB", help="Take that job's recipe instead of a file.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a field of the recipe, e.g. training.epochs=5."),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]


@report_errors
def validate(file: RecipeFile = None, of_job: OfJob = None, changes: Changes = None, as_json: Json = False) -> None:
    """Validate a recipe and print all problems; nothing is queued."""
    from retort.cli.recipe_file import load_recipe
    from retort.client import Retort

    with Retort() as client:
        found = client.jobs.validate(load_recipe(client, file, of_job, changes or ()))
    if as_json:
        print_json(found)
    else:
        print_validation(found)
        if found.valid:
            print_facts(found)
    if not found.valid:
        raise typer.Exit(REFUSED)


@report_errors
def submit(
    file: RecipeFile = None,
    of_job: OfJob = None,
    changes: Changes = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Run some steps of each kind instead, and estimate the whole.")
    ] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key and recipe give the same job, however often they are sent.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Queue a job, from a file or again from a job's recipe; print its id."""
    from retort.cli.recipe_file import load_recipe
    from retort.client import Retort

    with Retort() as client:
        recipe = load_recipe(client, file, of_job, changes or ())
        make = client.jobs.estimate if estimate else client.jobs.create
        job = send(client, recipe, idempotency_key, make)
        if as_json:
            print_json(job)
        else:
            print_line(job.id)
        if watch or (estimate and not as_json):
            from retort.cli.watch import watch_to_the_end

            watch_to_the_end(client, job.id)


def send(
    client: Retort,
    recipe: dict[str, Any],
    idempotency_key: str | None = None,
    make: Callable[..., JobInfo] | None = None,
) -> JobInfo:
    """Validate a recipe, print its problems and warnings, and queue a job. Raises typer.Exit when it is not valid."""
    found = client.jobs.validate(recipe)
    print_validation(found)
    if not found.valid:
        raise typer.Exit(REFUSED)
    return (make or client.jobs.create)(recipe, idempotency_key=idempotency_key)


def print_validation(found: ValidationInfo) -> None:
    """Problems and warnings, on stderr."""
    if found.problems:
        count = len(found.problems)
        print_error(f"the recipe has {count} problem{'s' if count > 1 else ''}", found.problems)
    for warning in found.warnings:
        print_error(f"warning: {warning}")


def print_facts(found: ValidationInfo) -> None:
    """The data of a valid recipe, and the students that share a pass."""
    print_line("The recipe is valid.")
    if found.facts:
        print_line(f"Data: {format_facts(found.facts)}.")
    for group in found.sharing:
        if len(group) > 1:
            print_line(f"One pass over the data serves {', '.join(group)}.")


@report_errors
def jobs(
    state: Annotated[str | None, typer.Option(help="queued, running, paused, succeeded, failed or cancelled.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only jobs of that kind, such as distill.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of that name.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with that tag.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of jobs at most, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    from retort.client import Retort

    with Retort() as client:
        found = [*islice(client.jobs.list(state=state, kind=kind, name=name, tag=tag, page=min(limit, 200)), limit)]
    if as_json:
        print_json(found)
        return
    print_table(("job", "kind", "name", "state", "doing", "created"), map(_row, found))


@report_errors
def show(job: JobId, as_json: Json = False) -> None:
    """Show one job: its state, its progress, its error, its metrics and its files."""
    from retort.cli.report import find_report, print_files, print_latest, print_report
    from retort.client import Retort

    with Retort() as client:
        found = client.jobs.get(job)
        if as_json:
            print_json(found)
            return
        files = client.jobs.artifacts(job)
        # The event log of a distillation may be long; its result stands in the newest metrics too.
        report = find_report(client, job) if found.kind != "distill" else None
    for label, value in _lines(found):
        print_field(label, value, 9)
    print_latest(found)
    if report is not None:
        print_report(found.kind, report)
    print_files(files)


@report_errors
def watch(
    job: JobId,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
) -> None:
    """Follow a job to its end; the exit code is 1 when it did not succeed."""
    from retort.cli.watch import watch_to_the_end
    from retort.client import Retort

    with Retort() as client:
        watch_to_the_end(client, job, as_json=as_json)


@report_errors
def cancel(job: JobId, as_json: Json = False) -> None:
    """Cancel a job: at once while it waits, a little later when it runs."""
    _request(lambda client: client.jobs.cancel(job), as_json)


@report_errors
def pause(job: JobId, as_json: Json = False) -> None:
    """Pause a job; a running one writes a checkpoint first."""
    _request(lambda client: client.jobs.pause(job), as_json)


@report_errors
def resume(job: JobId, as_json: Json = False) -> None:
    """Queue a paused job again; it goes on from its checkpoint."""
    _request(lambda client: client.jobs.resume(job), as_json)


@report_errors
def stop(job: JobId, as_json: Json = False) -> None:
    """End a job early with the best students so far; before there is one it is cancelled."""
    _request(lambda client: client.jobs.stop(job), as_json)


def _request(call: Callable[[Retort], JobInfo], as_json: bool) -> None:
    """Make a call that changes a job's `wanted`, and print the result."""
    from retort.client import Retort

    with Retort() as client:
        found = call(client)
    if as_json:
        print_json(found)
    elif found.state == "running" and found.wanted != "run":
        print_line(f"{found.id} is asked to {WANTED[found.wanted]}.")
    else:
        print_line(f"{found.id} is {found.state}.")


def _row(job: JobInfo) -> tuple[str, ...]:
    return job.id, job.kind, job.name, job.state, _doing(job), ago(job.created_at)


def _doing(job: JobInfo) -> str:
    """Phase, network, epoch and `wanted` of a job that has not ended, in a few words."""
    if job.terminal:
        return ""
    wanted = f"to {WANTED[job.wanted]}" if job.wanted in WANTED and job.state != "paused" else ""
    if job.state != "running":
        return wanted
    parts = [job.phase or "", wanted]
    if (at := job.progress) is not None and at.phase == job.phase:
        done, whole = (at.epoch, at.epochs) if at.epochs else (at.step, at.steps)
        parts[1:1] = [at.network or "", f"{done or 0}/{whole}" if whole else ""]
    return " ".join(part for part in parts if part)


def _lines(job: JobInfo) -> list[tuple[str, str]]:
    lines = [
        ("job", job.id),
        ("kind", job.kind),
        ("name", job.name),
        ("tags", " ".join(job.tags)),
        ("state", job.state),
    ]
    lines += [("doing", _doing(job)), ("created", ago(job.created_at)), ("took", _took(job))]
    if job.attempt > 1:
        lines.append(("attempt", f"{job.attempt} of {job.max_attempts} at most"))
    if job.waiting:
        lines.append(("waits", job.waiting.reason))
    if job.error:
        lines.append(("error", f"{job.error.detail} (fault of the {job.error.fault}: {job.error.cause})"))
    return [(label, value) for label, value in lines if value]


def _took(job: JobInfo) -> str:
    return duration((job.ended_at - job.started_at).total_seconds()) if job.started_at and job.ended_at else ""
