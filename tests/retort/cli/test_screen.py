from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console

from retort.cli.screen import duration, format_facts, size
from retort.cli.watch import PhaseBars, format_event, format_progress
from retort.client import DataFactsInfo, EventInfo, ProgressInfo


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7620, "2 h 07 min"), (356400, "4 d 3 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB")])
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def progress(**fields: object) -> ProgressInfo:
    return ProgressInfo.model_validate({"phase": "distilling", "network": "student, baseline", **fields})


def event(kind: str, number: int = 1, **fields: object) -> EventInfo:
    at = datetime(2026, 1, 1, 12, 0, 1, tzinfo=UTC)
    return EventInfo.model_validate({"number": number, "at": at, "kind": kind, "attempt": 1, **fields})


def test_all_known_numbers_are_shown() -> None:
    newest = {"epoch": 3, "epochs": 8, "loss": 0.12345, "metric": "accuracy", "value": 0.987}
    known = progress(**newest, examples_per_second=12345.6, seconds_left=75)
    assert format_progress(known) == "epoch 3/8, loss 0.123, accuracy 98.7%, 12,346 examples/s, left 1 min 15 s"
    assert format_progress(progress(metric="psnr", value=31.456)) == "psnr 31.46"
    assert format_progress(progress()) == ""


def test_facts_are_one_line() -> None:
    splits = {"train": 8, "validation": 1, "test": 2}
    assert format_facts(DataFactsInfo(**splits)) == "8 training, 1 validation and 2 test examples"
    images = DataFactsInfo(**splits, classes=5, class_names=[*"abcde"], image_size=32)
    assert format_facts(images) == "5 classes, 8 training, 1 validation and 2 test examples, 32 pixels a side"


def test_an_event_is_a_line() -> None:
    metrics = event("metrics", phase="distilling", network="student", epoch=2, values={"loss": 0.5})
    assert format_event(metrics) == "12:00:01 metrics distilling student epoch 2  loss=0.5"


@pytest.mark.parametrize(("end", "numbers"), [
    (("stop_wanted", "phase", "succeeded"), "epoch 2/6"), (("phase", "succeeded"), "epoch 6/6"),
    (("failed",), "epoch 2/6"), (("paused",), "epoch 2/6"), (("cancelled",), "epoch 2/6"),
])  # fmt: skip
def test_a_bar_ends_where_the_training_ended(end: tuple[str, ...], numbers: str) -> None:
    out = StringIO()
    with PhaseBars(Console(file=out, force_terminal=True, width=140)) as bars:
        bars.add(event("phase", phase="distilling"))
        bars.update(progress(epoch=1, epochs=6, examples_per_second=500.0, seconds_left=9))
        bars.add(event("metrics", phase="distilling", network="student", epoch=2))
        for kind in end:
            bars.add(event(kind, phase="exporting" if kind == "phase" else None))
    shown = out.getvalue()
    last = shown[shown.rindex("distilling student") :].splitlines()[0]
    assert numbers in last
    assert "left" not in last


def test_each_phase_has_a_bar_that_fills() -> None:
    out = StringIO()
    with PhaseBars(Console(file=out, force_terminal=True, width=140)) as bars:
        bars.add(event("phase", phase="teaching"))
        bars.update(
            ProgressInfo(phase="teaching", network="teacher", epoch=1, epochs=2, step=5, steps=10, seconds_left=9)
        )
        bars.update(ProgressInfo(phase="preparing", epoch=1, epochs=1))  # late, of a phase that is over
        bars.add(event("phase", phase="distilling"))
        bars.update(progress(epoch=1, epochs=4, examples_per_second=500.0))
        bars.add(event("warning", text="something is odd"))
        bars.add(event("succeeded"))
    shown = out.getvalue()
    last = shown[shown.rindex("teaching teacher") :]
    assert "epoch 2/2" in last.splitlines()[0]
    assert "left" not in last.splitlines()[0]
    assert "distilling student, baseline" in last
    assert "500 examples/s" in last
    assert "warning: something is odd" in shown
    assert "preparing" not in shown
