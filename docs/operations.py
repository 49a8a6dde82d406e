"""Writes the tables of docs/operations.md: all settings and all metrics.

.venv/bin/python docs/operations.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from service import metrics
from service.health.fleet import Counts, metrics_of
from service.settings import Settings
from worker import metrics as worker_metrics

PAGE = Path(__file__).with_suffix(".md")
END = "<!-- end -->\n"


def page(text: str) -> str:
    """The page with its tables as they are now; all else stays as it was."""
    api = [*metrics.registry.collect(), *metrics_of(Counts({}, 0, 0.0, {}), broker=True)]
    counted = ("metric", "kind", "labels", "")
    tables = {
        "settings": table(("variable", "default", ""), map(setting, Settings.model_fields.items())),
        "metrics of the API": table(counted, described(api)),
        "metrics of a worker": table(counted, described(worker_metrics.registry.collect())),
    }
    for name, rows in tables.items():
        begin = f"<!-- {name}: written by docs/operations.py -->\n"
        before, found, after = text.partition(begin)
        if not found:
            raise ValueError(f"docs/operations.md has no line {begin!r}")
        text = f"{before}{begin}\n{rows}\n{END}{after.partition(END)[2]}"
    return text


def setting(named: tuple[str, FieldInfo]) -> tuple[str, ...]:
    """A setting's row."""
    name, field = named
    return f"`RETORT_{name.upper()}`", default(field), " ".join((field.description or "").split())


def default(field: FieldInfo) -> str:
    """A setting's default, as it would be written in the environment."""
    if field.default_factory is not None:
        return "`~/.retort`"
    value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    return f"`{value}`" if value not in ("", None, ()) else ""


def described(families: Iterable[Metric]) -> list[tuple[str, ...]]:
    """Rows of the service's own metrics, by name."""
    rows = []
    for family in families:
        if family.name.startswith("retort_"):
            suffix = "_total" if family.type == "counter" else ""
            labels = ", ".join(f"`{label}`" for label in labels_of(family))
            rows.append((f"`{family.name}{suffix}`", family.type, labels, family.documentation))
    return sorted(rows)


def labels_of(family: Metric) -> list[str]:
    """A metric's labels: those of its samples, or, where none was counted yet, those of LABELS."""
    of_samples = {label for sample in family.samples for label in sample.labels} - {"le"}
    return sorted(of_samples or LABELS.get(family.name, ()))


LABELS = {
    "retort_http_requests": ("method", "route", "status"),
    "retort_http_request_seconds": ("method", "route"),
    "retort_worker_attempts": ("cause", "outcome"),
    "retort_worker_lease_renewals": ("result",),
    "retort_worker_stored_bytes": ("what",),
    "retort_worker_stored_files": ("what",),
}
"""Labels of metrics that have no sample before something happens; a test compares them with what was counted."""


def table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
