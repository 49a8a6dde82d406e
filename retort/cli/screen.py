"""Output of commands: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retort.printable import printable

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console
    from rich.table import Table

    from retort.client import DataFactsInfo

PIPED_WIDTH = 240
"""Columns of tables that go to a file or a program: nothing is folded there."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def print_line(text: str, *, err: bool = False) -> None:
    """Print a sentence, whatever it quotes, as one line."""
    typer.echo(printable(text), err=err)


def print_field(label: str, value: str, width: int) -> None:
    """Print a line of a label and its value."""
    out = console()
    out.print(f"[bold]{label:{width}}[/] ", end="")
    out.print(printable(value), markup=False)


def console(*, stderr: bool = False) -> Console:
    """Colours and bars on a terminal, plain text elsewhere."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPED_WIDTH)


def print_json(value: BaseModel | Sequence[BaseModel] | dict[str, Any]) -> None:
    """Print one JSON document; answers in the types of the client."""
    typer.echo(printable(json.dumps(_plain(value), indent=2, ensure_ascii=False), keep="\n"))


def print_json_line(value: BaseModel) -> None:
    """Print JSON in one line, for a program that reads line by line."""
    typer.echo(printable(json.dumps(_plain(value), ensure_ascii=False)))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table without frames, or a sentence for an empty one."""
    table = make_table(columns, rows, right=right)
    console().print(table if table.row_count else "Nothing there.")


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> Table:
    """Columns named in `right` hold numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(printable(column)), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def ago(moment: datetime | None) -> str:
    """Time since then: "3 min 05 s ago"; empty for None."""
    if moment is None:
        return ""
    return f"{duration((datetime.now(UTC) - moment).total_seconds())} ago"


def duration(seconds: float) -> str:
    """Seconds in readable units: "42 s", "3 min 05 s", "2 h 07 min", "4 d 3 h"."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def size(count: float) -> str:
    """Bytes in readable units: "1.5 KiB", "5.0 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def format_facts(facts: DataFactsInfo) -> str:
    """The facts of a data set in one line, as far as they are known."""
    parts = [] if facts.classes is None else [f"{facts.classes} classes"]
    parts.append(f"{facts.train} training, {facts.validation} validation and {facts.test} test examples")
    if facts.image_size is not None:
        parts.append(f"{facts.image_size} pixels a side")
    return ", ".join(parts)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.model_dump(mode="json")
