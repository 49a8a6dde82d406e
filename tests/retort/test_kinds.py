"""Kinds of jobs: each names a spec and a class of the engine that does its work."""

from __future__ import annotations

import inspect
from pathlib import Path
from pkgutil import resolve_name

import pytest
from pydantic import TypeAdapter, ValidationError

from retort.engine.__main__ import carry_out
from retort.engine.event_log import EventLog
from retort.engine.interrupt import FINISHED, IMPOSSIBLE, Interrupt
from retort.kinds import KINDS, Kind, KindName
from retort.order import Order, Paths
from retort.spec import Spec


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_class_in_the_engine_that_takes_what_it_is_given(kind: str) -> None:
    work = resolve_name(KINDS[kind].work)
    names = list(inspect.signature(work).parameters)
    assert names[1:] == ["paths", "event_log", "interrupt", "group"]
    assert callable(work.__call__)


def test_an_unknown_kind_is_told_which_there_are() -> None:
    said = f"'distil' is not a kind of job; wanted {' or '.join(KINDS)}; did you mean 'distill'"
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(KindName).validate_python("distil")


class Greeting(Spec):
    """Something to say."""

    words: str


class Greeter:
    """Writes it down."""

    def __init__(self, spec: Greeting, paths: Paths, event_log: EventLog, interrupt: Interrupt, group: object) -> None:
        self.spec, self.paths = spec, paths

    def __call__(self) -> None:
        (self.paths.directory / "said").write_text(self.spec.words)


def test_the_engine_does_what_the_kind_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "greet", Kind(Greeting, f"{__name__}:Greeter"))
    paths = Paths(directory=tmp_path, checkpoints=tmp_path, weights=tmp_path)
    log = tmp_path / "log"
    with log.open("wb") as out:
        event_log = EventLog(out.fileno())
        order = Order(kind="greet", spec={"words": "hello"}, paths=paths)
        assert carry_out(order, event_log, Interrupt()) == FINISHED
        assert (tmp_path / "said").read_text() == "hello"
        order = Order(kind="greet", spec={"sounds": "hello"}, paths=paths)
        assert carry_out(order, event_log, Interrupt()) == IMPOSSIBLE
