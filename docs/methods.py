"""Writes docs/methods.md: the catalogue's facts and the measurements of each method.

.venv/bin/python docs/methods.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from retort.methods import METHODS
from service.methods.schemas import MethodRead
from service.methods.service import every

PAGE = Path(__file__).with_suffix(".md")
FIGURES = Path(__file__).with_name("learning.json")
"""Written by benchmarks/learning.py."""

REASONS = {
    "at": "its weight is for maps of 32 x 32; a mean over positions of unit vectors grows as maps shrink to 2 x 2",
    "ft": "its weight is for maps of 8 x 8, as with `at`; here the last map is 2 x 2",
    "comparative_kd": "differences of pairs leave a shift common to all images free, which no label term holds",
    "simkd": "learns the teacher's last map alone, without labels, from 126 images",
}
"""Why a method does worse than no teacher on the small task, where it is known."""

HEAD = """# Methods

<!-- Written by docs/methods.py; change that, not this. -->

Every method is one file in `retort/methods/`. `GET /v1/methods` and `retort methods` show the same facts.

"Checked" counts values of published implementations, computed in float64, with which value and gradients of ours
agree; the worst difference is a share of the largest entry of the tensor that it is in, rounded up to a power of ten
above ten times what was measured, and no less than 1e-14. To check against other values in the same format:

    RETORT_GOLDENS=DIR .venv/bin/python -m pytest tests/retort/methods/test_goldens.py

A *reconstruction* is our own best reading of a paper whose formula or code could not be had; nothing stands behind it
but that reading.

Not here: NORM and DisWOT, with which NCKD's paper compares itself, have no formula at hand. OKD and MixKD belong to
language models and DUKD to super-resolution, which are no tasks of this service yet.
"""

LEARNING = """## What each adds on a small task

Digits with a tenth of the labels (126 training images), `{student}` taught by `{teacher}` (all labels,
{teacher_accuracy:.2%} of the test images), {seeds} seeds, each method with its defaults, test accuracy of the best
validation epoch. Points are the mean difference to the same student without a teacher ({baseline_accuracy:.2%}), with
half the width of the 95 % interval. Seconds an epoch (phases before the loop left out) and peak memory of the process
are relative to `kd`, one run each: `benchmarks/learning.py`. Defaults were published for CIFAR-100 and 240 epochs, so
the table says what a first try brings, not which method is best. Only the weights of two reconstructions, `nckd` and
`aekt`, were chosen on this task, with other seeds.
"""


def page() -> str:
    """The whole page, in Markdown."""
    methods = every()
    figures = json.loads(FIGURES.read_text())
    return "\n".join([HEAD, *_overview(methods), *_learning(figures), *(line for m in methods for line in _method(m))])


def _overview(methods: list[MethodRead]) -> Iterator[str]:
    yield "| method | computes | checked | worst difference |"
    yield "| --- | --- | --- | --- |"
    for method in methods:
        count = len(method.conformance)
        checked = f"{count} value{'s' if count > 1 else ''}" if count else "no value was published"
        if method.reconstruction:
            checked = "*reconstruction*"
        worst = "" if method.worst_difference is None else f"{method.worst_difference:.0e}"
        yield f"| [`{method.name}`](#{method.name}) | {_cell(method.summary)} | {checked} | {worst} |"
    yield ""


def _learning(figures: dict[str, Any]) -> Iterator[str]:
    yield LEARNING.format(**figures)
    yield "| method | points | 95 % | seconds an epoch | peak memory | remark |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    for name, row in sorted(figures["methods"].items(), key=lambda item: -item[1]["gain_points"]):
        gain, half = row["gain_points"], row["interval_points"]
        remarks = [REASONS[name]] if name in REASONS else []
        if gain < 0 and not remarks:
            remarks.append("worse than no teacher" if gain + half < 0 else "not told apart from no teacher")
        if "teacher" in row:
            remarks.append(f"taught by `{row['teacher']}`")
        if row["diverged"]:
            remarks.append(f"diverged at {row['diverged']} of the seeds, which are left out")
        remark = "; ".join(remarks)
        cells = f"{gain:+.2f} | {half:.2f} | {row['seconds_over_kd']:.2f} | {row['memory_over_kd']:.2f}"
        yield f"| `{name}` | {cells} | {remark} |"
    missing = [f"`{name}`" for name in METHODS if name not in figures["methods"]]
    if missing:
        yield f"\nNot measured yet: {', '.join(missing)}."
    yield ""


def _method(method: MethodRead) -> Iterator[str]:
    yield f"## {method.name}\n"
    yield f"{method.summary}\n"
    yield f"    {method.formula}\n"
    yield f"{method.source}\n"
    weight = "none was published" if method.label_weight is None else f"{method.label_weight:g}"
    yield f"- Needs: {'; '.join(method.needs)}."
    yield f"- Refuses: {method.refuses or 'nothing'}."
    yield f"- Weight of the labels beside it: {weight}."
    if method.conformance:
        yield f"- Checked against: {', '.join(f'`{case.case}` ({case.source})' for case in method.conformance)}."
    yield "\n| field | default | meaning |\n| --- | --- | --- |"
    yield from _fields(method.parameters)
    yield ""


def _fields(schema: dict[str, Any]) -> Iterable[str]:
    for name, field in schema["properties"].items():
        if name != "name":
            yield f"| `{name}` | `{json.dumps(field.get('default'))}` | {_cell(field.get('description', ''))} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
