"""Jobs from the command line: validate, submit, list, show, and what their owner wishes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retort.cli.errors import REFUSED, speaks, tell
from retort.cli.screen import Json, ago, console, duration, print_json, print_table

if TYPE_CHECKING:
    from retort.client import Job, Retort, Validation

WORDS = {"pause": "pause", "stop": "stop with what it has", "cancel": "end without a result"}
"""What each wish asks of a job."""

RecipeFile = Annotated[
    str | None, typer.Argument(metavar="FILE", help="A recipe in YAML or JSON; - reads standard input.")
]
OfJob = Annotated[str | None, typer.Option("--from", metavar="JOB", help="Take that job's recipe instead of a file.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a field of the recipe, e.g. training.epochs=5."),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]


@speaks
def validate(file: RecipeFile = None, of_job: OfJob = None, changes: Changes = None, as_json: Json = False) -> None:
    """Say all that is wrong with a recipe, and queue nothing."""
    from retort.cli.recipe_file import wanted_recipe
    from retort.client import Retort

    with Retort() as client:
        found = client.jobs.validate(wanted_recipe(client, file, of_job, changes or ()))
    if as_json:
        print_json(found)
    else:
        say_found(found)
        if found.valid:
            say_facts(found)
    if not found.valid:
        raise typer.Exit(REFUSED)


@speaks
def submit(
    file: RecipeFile = None,
    of_job: OfJob = None,
    changes: Changes = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Run some steps of each kind instead, and tell what all would take.")
    ] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key and recipe give the same job, however often they are sent.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Queue a job, from a file or anew from a job's recipe; print its id."""
    from retort.cli.recipe_file import wanted_recipe
    from retort.client import Retort

    with Retort() as client:
        recipe = wanted_recipe(client, file, of_job, changes or ())
        make = client.jobs.estimate if estimate else client.jobs.create
        job = send(client, recipe, idempotency_key, make)
        if as_json:
            print_json(job)
        else:
            typer.echo(job.id)
        if watch or (estimate and not as_json):
            from retort.cli.watch import watch_to_the_end

            watch_to_the_end(client, job.id)


def send(
    client: Retort,
    recipe: dict[str, Any],
    idempotency_key: str | None = None,
    make: Callable[..., Job] | None = None,
) -> Job:
    """Queue a job; first say what is wrong or odd, and leave when it is wrong."""
    found = client.jobs.validate(recipe)
    say_found(found)
    if not found.valid:
        raise typer.Exit(REFUSED)
    return (make or client.jobs.create)(recipe, idempotency_key=idempotency_key)


def say_found(found: Validation) -> None:
    """Problems and warnings, on stderr."""
    if found.problems:
        count = len(found.problems)
        tell(f"the recipe has {count} problem{'s' if count > 1 else ''}", found.problems)
    for warning in found.warnings:
        tell(f"warning: {warning}")


def say_facts(found: Validation) -> None:
    """What a recipe that can run would run on."""
    typer.echo("The recipe is valid.")
    if facts := found.facts:
        typer.echo(
            f"Data: {facts.classes} classes, {facts.train} images to train on, {facts.validation} to choose by, "
            f"{facts.test} to test on, {facts.image_size} pixels a side."
        )
    for group in found.sharing:
        if len(group) > 1:
            typer.echo(f"One pass over the data serves {', '.join(group)}.")


@speaks
def jobs(
    state: Annotated[str | None, typer.Option(help="queued, running, paused, succeeded, failed or cancelled.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only jobs of that kind, such as distill.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of that name.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with that tag.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, newest first.")] = 20,
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


@speaks
def show(job: JobId, as_json: Json = False) -> None:
    """Show one job: where it stands, why it waits or failed, what it measured, what it made."""
    from retort.cli.report import print_files, print_latest, print_report, report_of
    from retort.client import Retort

    with Retort() as client:
        found = client.jobs.get(job)
        if as_json:
            print_json(found)
            return
        files = client.jobs.artifacts(job)
        # The diary of a distillation may be long; what it ended with stands in its newest metrics too.
        report = report_of(client, job) if found.kind != "distill" else None
    out = console()
    for label, value in _lines(found):
        out.print(f"[bold]{label:9}[/] ", end="")
        out.print(value, markup=False)
    print_latest(found)
    if report is not None:
        print_report(found.kind, report)
    print_files(files)


@speaks
def cancel(job: JobId, as_json: Json = False) -> None:
    """Cancel a job: at once while it waits, a little later when it runs."""
    _tell_wish(lambda client: client.jobs.cancel(job), as_json)


@speaks
def pause(job: JobId, as_json: Json = False) -> None:
    """Hold a job back; one that runs leaves a checkpoint first."""
    _tell_wish(lambda client: client.jobs.pause(job), as_json)


@speaks
def resume(job: JobId, as_json: Json = False) -> None:
    """Let a paused job go on from its checkpoint."""
    _tell_wish(lambda client: client.jobs.resume(job), as_json)


@speaks
def stop(job: JobId, as_json: Json = False) -> None:
    """End a job early and keep the best students so far; before there is one, it is cancelled."""
    _tell_wish(lambda client: client.jobs.stop(job), as_json)


def _tell_wish(wish: Callable[[Retort], Job], as_json: bool) -> None:
    from retort.client import Retort

    with Retort() as client:
        found = wish(client)
    if as_json:
        print_json(found)
    elif found.state == "running" and found.wanted != "run":
        typer.echo(f"{found.id} is asked to {WORDS[found.wanted]}.")
    else:
        typer.echo(f"{found.id} is {found.state}.")


def _row(job: Job) -> tuple[str, ...]:
    return job.id, job.kind, job.name, job.state, _doing(job), ago(job.created_at)


def _doing(job: Job) -> str:
    """What a job that has not ended does, in a few words."""
    if job.terminal:
        return ""
    wish = f"to {WORDS[job.wanted]}" if job.wanted in WORDS and job.state != "paused" else ""
    if job.state != "running" or job.progress is None:
        return wish or job.phase or ""
    at = job.progress
    parts = [at.phase, at.network or "", f"{at.epoch}/{at.epochs}" if at.epochs else "", wish]
    return " ".join(part for part in parts if part)


def _lines(job: Job) -> list[tuple[str, str]]:
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


def _took(job: Job) -> str:
    return duration((job.ended_at - job.started_at).total_seconds()) if job.started_at and job.ended_at else ""
