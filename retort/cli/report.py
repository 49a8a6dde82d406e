"""Metrics, reports and files of a job, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from retort.cli.errors import CommandError
from retort.cli.screen import duration, print_line, print_table, size

if TYPE_CHECKING:
    from retort.client import ArtifactInfo, JobInfo, Retort


COLUMNS = ("accuracy", "correct", "images", "agreement", "calibration_error")
"""Metrics of a report that does not name its columns, as those of older jobs."""


def find_report(client: Retort, job_id: str) -> dict[str, Any] | None:
    """The report in the job's events; None when the job made none."""
    reports = [event.data for event in client.jobs.events(job_id) if event.kind == "report"]
    return reports[-1] if reports else None


def print_report(kind: str, report: dict[str, Any]) -> None:
    """Print the report of a job of that kind; nothing for a kind that is shown elsewhere. Raises CommandError."""
    if kind in REPORTS:
        with known_form(f"the report of this job of kind {kind}"):
            REPORTS[kind](report)


@contextmanager
def known_form(report: str) -> Iterator[None]:
    """Raise CommandError where what is shown has another form than it should."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise CommandError(f"{report} has an unknown form; --json prints what there is") from None


def _print_networks(report: dict[str, Any]) -> None:
    """Warnings first, then metrics of each network on the test split, and its size."""
    for sentence in report.get("warnings", ()):
        print_line(f"Warning: {sentence}.")
    metrics = [name for name in report.get("columns", COLUMNS) if name != "images"]
    names = [name.replace("_", " ") for name in metrics]
    columns = ("network", "architecture", f"test {names[0]}", *names[1:], "parameters", "best epoch")
    rows = (_report_row(row, report["ship"], metrics) for row in report["networks"])
    print_table(columns, rows, right=columns[2:])
    # Reports of older jobs lack the fields of an early stop.
    if report.get("stopped_early"):
        print_line("Training was stopped early.")
        for row in report["networks"]:
            if (trained := row["trained"]) and trained["steps"] < trained["of_steps"]:
                print_line(
                    f"{row['name']} was trained for {trained['epochs']} of {trained['of_epochs']} epochs "
                    f"({trained['steps']:,} of {trained['of_steps']:,} steps)."
                )
        for name in report["left_out"]:
            print_line(f"{name} was left out: its training had not begun.")


def _report_row(row: dict[str, Any], ship: str, metrics: Sequence[str]) -> tuple[str, ...]:
    test = row["test"][ship]
    values = (_metric(name, test) for name in metrics)
    best = "" if row["best_epoch"] is None else str(row["best_epoch"])
    return row["name"], row["architecture"], *values, f"{row['parameters']:,}", best


def _metric(name: str, test: Mapping[str, float]) -> str:
    """One metric of the test split; empty where a network does not have it."""
    value = test.get(f"test.{name}")
    if value is None:
        return ""
    if name == "correct":
        return f"{value:.0f} of {test['test.images']:.0f}"
    return f"{value:.2%}" if name in ("accuracy", "agreement") else f"{value:.3f}"


def _print_estimate(report: dict[str, Any]) -> None:
    """Time of each phase and of the whole, with intervals; memory and sizes."""
    rows = [
        (section["phase"], ", ".join(section["networks"]), str(section["epochs"]),
         *(_seconds(section[name]) for name in ("seconds_per_step", "seconds_per_epoch", "seconds")))
        for section in report["sections"]
    ]  # fmt: skip
    columns = ("phase", "networks", "epochs", "a step", "an epoch", "in all")
    print_table(columns, rows, right=columns[2:])
    total = report["total_seconds"]
    low, mean, high = (duration(total[bound]) for bound in ("low", "mean", "high"))
    print_line(f"The job would take {mean} on this worker ({low} to {high}, with {report['device']} as its device).")
    testing = duration(report["testing_seconds"]["mean"])
    print_line(f"Of that the final test takes {testing}, and the exports {duration(report['exporting_seconds'])}.")
    low, high = (size(report["peak_bytes"][bound]) for bound in ("low", "high"))
    print_line(f"Memory of {report['peak_of']} at its peak: {low} to {high}.")
    for name, count in report["artifact_bytes"].items():
        print_line(f"{name}: {size(count)}.")


def _print_check(report: dict[str, Any]) -> None:
    """Metrics of a model, and the findings of its check."""
    model, count = report["model"], report["parameters"]
    least, greatest = (f"{report['outputs'][bound]:.4g}" for bound in ("least", "greatest"))
    rows = [
        ("parameters", f"{count:,}"),
        ("outputs", f"{model['classes']}, from {least} to {greatest}"),
        ("an image", f"{1000 * report['seconds_per_image']:.3g} ms on {report['device']}"),
    ]
    if "accuracy" in report:
        rows += [("accuracy", f"{report['accuracy']:.2%} of {report['images']} images")]
        rows += [(f"  fed with {name}", f"{value:.2%}") for name, value in report["normalisations"].items()]
        if report["permuted"]:
            rows += [("  classes in the order that fits best", f"{report['permuted']['accuracy']:.2%}")]
    print_table(("", model["id"]), rows)
    for sentence in report["sentences"]:
        print_line(sentence)


def _seconds(interval: Mapping[str, float]) -> str:
    """The mean and its interval: "0.153 s (0.148 to 0.158)"."""
    return f"{interval['mean']:.3g} s ({interval['low']:.3g} to {interval['high']:.3g})"


REPORTS = {"distill": _print_networks, "estimate": _print_estimate, "check": _print_check}
"""The function that prints a report, by the job's kind."""


def print_latest(job: JobInfo) -> None:
    """The newest metrics of each network."""
    if job.latest:
        names = sorted({metric for values in job.latest.values() for metric in values})
        rows = ((metric, *(_number(values.get(metric)) for values in job.latest.values())) for metric in names)
        print_table(("metric", *job.latest), rows, right=(*job.latest,))


def print_files(files: Sequence[ArtifactInfo]) -> None:
    """Name, size and digest of each file that a job made."""
    if files:
        rows = ((file.name, size(file.size), file.sha256) for file in files)
        print_table(("file", "size", "sha256"), rows, right=("size",))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
