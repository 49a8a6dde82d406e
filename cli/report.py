"""What a job measured and made, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from cli.screen import print_table, size

if TYPE_CHECKING:
    from client import Artifact, Job, Retort


def report_of(client: Retort, job_id: str) -> dict[str, Any] | None:
    """The final table that the job's diary holds; None when the job made none."""
    reports = [event.data for event in client.jobs.events(job_id) if event.kind == "report"]
    return reports[-1] if reports else None


def print_report(report: dict[str, Any]) -> None:
    """Each network: how good it is on the test part, how often it guesses as the teacher does, and how large it is."""
    columns = (
        *("network", "architecture", "test accuracy", "images right", "as the teacher", "calibration error"),
        *("parameters", "best epoch"),
    )
    print_table(columns, (_report_row(row, report["ship"]) for row in report["networks"]), right=columns[2:])
    # Reports of older jobs do not know that training may end before its time.
    if report.get("stopped_early"):
        typer.echo("Training ended early, as was asked.")
        for row in report["networks"]:
            if (trained := row["trained"]) and trained["steps"] < trained["of_steps"]:
                typer.echo(
                    f"{row['name']} was trained for {trained['epochs']} of {trained['of_epochs']} epochs "
                    f"({trained['steps']:,} of {trained['of_steps']:,} steps)."
                )
        for name in report["left_out"]:
            typer.echo(f"{name} was left out: its training had not begun.")


def _report_row(row: dict[str, Any], ship: str) -> tuple[str, ...]:
    test = row["test"][ship]
    right = f"{test['test.correct']:.0f} of {test['test.images']:.0f}"
    best = "" if row["best_epoch"] is None else str(row["best_epoch"])
    return (
        row["name"],
        row["architecture"],
        f"{test['test.accuracy']:.2%}",
        right,
        f"{test['test.agreement']:.2%}" if "test.agreement" in test else "",
        f"{test['test.calibration_error']:.3f}",
        f"{row['parameters']:,}",
        best,
    )


def print_latest(job: Job) -> None:
    """The newest metrics of each network."""
    if job.latest:
        names = sorted({metric for values in job.latest.values() for metric in values})
        rows = ((metric, *(_number(values.get(metric)) for values in job.latest.values())) for metric in names)
        print_table(("metric", *job.latest), rows, right=(*job.latest,))


def print_files(files: Sequence[Artifact]) -> None:
    """Name, size and digest of each file that a job made."""
    if files:
        rows = ((file.name, size(file.size), file.sha256) for file in files)
        print_table(("file", "size", "sha256"), rows, right=("size",))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
