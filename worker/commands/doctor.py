"""`retort doctor`: the checks' findings, with advice for what fails."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retort.cli.errors import REFUSED, report_errors
from retort.cli.screen import Json, console, print_json
from retort.printable import printable

if TYPE_CHECKING:
    from worker.commands.checks import Finding

COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@report_errors
def doctor(
    data_dir: Annotated[
        Path | None, typer.Option(help="Of the embedded service; RETORT_DATA_DIR, or ~/.retort, without it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check database, broker, storage, clock, device, workers and the service; exit code 1 when something fails."""
    from worker.commands.checks import run_checks

    logging.getLogger().addHandler(logging.NullHandler())  # keeps logs of libraries away, which a finding says better
    found: list[Finding] = []
    for finding in run_checks(data_dir):
        found.append(finding)
        if not as_json:
            show(finding)
    failed = any(finding.status == "fail" for finding in found)
    if as_json:
        print_json({"ok": not failed, "checks": [shown(finding) for finding in found]})
    if failed:
        raise typer.Exit(REFUSED)


def shown(finding: Finding) -> dict[str, str]:
    """A finding without secrets."""
    from service.redaction import without_secrets

    return {name: without_secrets(text) for name, text in asdict(finding).items()}


def show(finding: Finding) -> None:
    """A line, and what to do on the next."""
    from rich.text import Text

    clean = {name: printable(text) for name, text in shown(finding).items()}
    line = Text.assemble((f"{clean['status']:5}", COLOURS[clean["status"]]), f" {clean['name']:11}{clean['found']}")
    if clean["advice"]:
        line.append(f"\n{'':17}{clean['advice']}")
    console().print(line, soft_wrap=True)
