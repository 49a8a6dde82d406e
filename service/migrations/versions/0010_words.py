"""Words: a job's `recipe` is its `spec`, a project's `keep_jobs_days` its `jobs_retention_days`; stored JSON follows.

Revision 0010, after 0009. A key of JSON is renamed where its object lacks the new one; values and the order of keys
stay. Two things have another form: the `accuracy` of progress is `metric` and `value`, and a report's `classes` are
their number and `class_names`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

THINGS = ("jobs", "datasets", "models", "uploads")
ROWS_A_BATCH = 20
"""Number of rows in memory at once: a report may be some megabytes."""
TRAINING = {"accumulate": "gradient_accumulation", "keep_teacher_outputs": "cache_teacher_outputs"}
RECIPE = {"require_teacher_accuracy": "require_teacher"}
NETWORK = {"student": "network"}
PROGRESS = {**NETWORK, "images_per_second": "examples_per_second"}
REPORT = {"parts": "splits"}
REPORT_OF_NETWORK = {"collapse": "diagnostics"}
REPORT_OF_SECTION = {"learners": "networks"}
FAULT = ("recipe", "spec")

Names = Mapping[str, str]
Rewrite = Callable[[Any], Any]
"""Gives a value with its names changed; one that has none of them as it is."""


def upgrade() -> None:
    """Rename columns and keys."""
    # Columns last: a renamed column locks its table until the end.
    _rewrite_all(lambda names: names, FAULT, spec="recipe")
    _rewrite("jobs", ("id",), "progress", ["accuracy"], _with_metric)
    _rewrite_reports(["classes"], _with_class_names)
    op.execute("ALTER TABLE jobs RENAME COLUMN recipe TO spec")
    for thing in THINGS:
        op.execute(f"ALTER TABLE projects RENAME COLUMN keep_{thing}_days TO {thing}_retention_days")


def downgrade() -> None:
    """Rename them back."""
    _rewrite_reports(["class_names"], _without_class_names)
    _rewrite("jobs", ("id",), "progress", ["metric"], _without_metric)
    _rewrite_all(lambda names: {new: old for old, new in names.items()}, FAULT[::-1], spec="spec")
    for thing in THINGS:
        op.execute(f"ALTER TABLE projects RENAME COLUMN {thing}_retention_days TO keep_{thing}_days")
    op.execute("ALTER TABLE jobs RENAME COLUMN spec TO recipe")


def _rewrite_all(turned: Callable[[Names], Names], fault: tuple[str, str], *, spec: str) -> None:
    """Rename keys of JSON; `spec` names the column of a job's spec."""
    training, recipe, network = (turned(names) for names in (TRAINING, RECIPE, NETWORK))
    progress, report = turned(PROGRESS), turned(REPORT)
    report_of_network, report_of_section = turned(REPORT_OF_NETWORK), turned(REPORT_OF_SECTION)

    def in_recipe(value: Any) -> Any:
        """A recipe: its training, its teacher's training, and its own fields."""
        value = _within(value, "training", lambda inner: _renamed(inner, training))
        value = _within(
            value, "teacher", lambda teacher: _within(teacher, "teach", lambda teach: _renamed(teach, training))
        )
        return _renamed(value, recipe)

    def in_spec(value: Any) -> Any:
        """The spec of a job of kind `distill`, or of kind `estimate`, which holds a recipe."""
        return in_recipe(_within(value, "recipe", in_recipe))

    def in_error(value: Any) -> Any:
        return _within(value, "fault", lambda found: fault[1] if found == fault[0] else found)

    def in_event(value: Any) -> Any:
        """An event: its network, the fault of an attempt that failed, and the resolved recipe."""
        return _within(_renamed(value, network), "data", lambda data: in_spec(in_error(data)))

    def in_report(value: Any) -> Any:
        """The report of a distillation, of an estimate or of a data set."""
        value = _within_each(value, "networks", lambda inner: _renamed(inner, report_of_network))
        value = _within_each(value, "sections", lambda inner: _renamed(inner, report_of_section))
        return _renamed(value, report)

    words = [*training, *recipe]
    kinds = sa.column("kind").in_(("distill", "estimate"))
    _rewrite("jobs", ("id",), spec, words, in_spec, kinds)
    _rewrite("jobs", ("id",), "progress", [*progress], lambda value: _renamed(value, progress))
    _rewrite("jobs", ("id",), "error", ["fault"], in_error)
    _rewrite("events", ("job_id", "number"), "body", [*words, *network, "fault"], in_event)
    _rewrite_reports([*report, *report_of_network, *report_of_section], in_report)
    _rewrite("datasets", ("id",), "report", [*report], lambda value: _renamed(value, report))


def _rewrite_reports(words: Sequence[str], rewrite: Rewrite) -> None:
    """Rewrite the reports in event logs; `report.json` of a job keeps its bytes."""
    kind = sa.column("kind") == "report"
    _rewrite("events", ("job_id", "number"), "body", words, lambda value: _within(value, "data", rewrite), kind)


def _with_metric(progress: Any) -> Any:
    """Progress with the accuracy as the headline metric of the network that is trained, if one is."""
    if not isinstance(progress, dict) or "accuracy" not in progress or "metric" in progress:
        return progress
    metric = None if progress.get("network") is None else "accuracy"
    return _replaced(progress, "accuracy", {"metric": metric, "value": progress["accuracy"]})


def _without_metric(progress: Any) -> Any:
    """The same back; progress of another metric, of which version 0.1 had none, stays."""
    if not isinstance(progress, dict) or progress.get("metric") not in (None, "accuracy") or "value" not in progress:
        return progress
    rest = {key: inner for key, inner in progress.items() if key != "metric"}
    return _replaced(rest, "value", {"accuracy": progress["value"]})


def _with_class_names(report: Any) -> Any:
    """The report of a distillation, whose `classes` were names, with their number and their names."""
    names = report.get("classes") if isinstance(report, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or "networks" not in report:
        return report
    return _replaced(report, "classes", {"classes": len(names), "class_names": names})


def _without_class_names(report: Any) -> Any:
    if not isinstance(report, dict) or not isinstance(report.get("class_names"), list) or "networks" not in report:
        return report
    rest = {key: inner for key, inner in report.items() if key != "class_names"}
    return _replaced(rest, "classes", {"classes": report["class_names"]})


def _replaced(value: dict[str, Any], key: str, entries: dict[str, Any]) -> dict[str, Any]:
    """An object with other entries in the place of one."""
    return {
        name: inner for old, each in value.items() for name, inner in (entries if old == key else {old: each}).items()
    }


def _rewrite(
    table: str, key: Sequence[str], column: str, words: Sequence[str], rewrite: Rewrite, *wanted: sa.ColumnElement[bool]
) -> None:
    """Rewrite a column of JSON where its text holds one of the words in quotation marks, some rows at a time."""
    rows = sa.table(table, *map(sa.column, key), sa.column(column, sa.JSON()))
    keys = [rows.c[name] for name in key]
    update = sa.update(rows).values({column: sa.bindparam("changed", type_=sa.JSON())})
    update = update.where(*(name == sa.bindparam(f"key_{name.name}") for name in keys))
    for batch in _batches(rows, keys, column, words, wanted):
        changes = [
            {**{f"key_{name}": row._mapping[name] for name in key}, "changed": changed}
            for row in batch
            if (changed := rewrite(row._mapping[column])) != row._mapping[column]
        ]
        if changes:
            op.get_bind().execute(update, changes)


def _batches(
    rows: sa.TableClause,
    keys: Sequence[sa.ColumnElement[Any]],
    column: str,
    words: Sequence[str],
    wanted: Sequence[sa.ColumnElement[bool]],
) -> Iterator[list[sa.Row[Any]]]:
    """Rows that may have to be rewritten, in the order of their keys."""
    text = sa.cast(rows.c[column], sa.String)
    holding = sa.or_(*(text.contains(f'"{word}"', autoescape=True) for word in words))
    found = sa.select(*keys, rows.c[column]).where(holding, *wanted).order_by(*keys).limit(ROWS_A_BATCH)
    after = found
    while batch := list[sa.Row[Any]](op.get_bind().execute(after)):
        yield batch
        last = batch[-1]
        after = found.where(sa.tuple_(*keys) > sa.tuple_(*(sa.literal(value) for value in last[: len(keys)])))


def _renamed(value: Any, names: Names) -> Any:
    """An object with keys renamed; anything else as it is."""
    if not isinstance(value, dict):
        return value
    return {names[key] if key in names and names[key] not in value else key: inner for key, inner in value.items()}


def _within(value: Any, key: str, rewrite: Rewrite) -> Any:
    """An object with the value of a key rewritten; anything else as it is."""
    if not isinstance(value, dict) or key not in value:
        return value
    return {**value, key: rewrite(value[key])}


def _within_each(value: Any, key: str, rewrite: Rewrite) -> Any:
    """An object with each entry of the list under a key rewritten; anything else as it is."""
    return _within(value, key, lambda inner: [rewrite(each) for each in inner] if isinstance(inner, list) else inner)
