"""Kinds of jobs: each names a spec and a class of the engine that does its work."""

from __future__ import annotations

import inspect
from pathlib import Path
from pkgutil import resolve_name

import pytest
from pydantic import TypeAdapter, ValidationError

from retort.engine.__main__ import _from_parent, carry_out
from retort.engine.event_log import EventLog
from retort.engine.interrupt import FINISHED, IMPOSSIBLE, Interrupt
from retort.engine.run import RunPaths
from retort.kinds import KINDS, Kind, KindName
from retort.spec import Spec


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_class_in_the_engine_that_takes_what_it_is_given(kind: str) -> None:
    work = resolve_name(KINDS[kind].work)
    names = list(inspect.signature(work).parameters)
    assert names[1:] == ["place", "event_log", "interrupt", "group"]
    assert callable(work.__call__)


def test_an_unknown_kind_is_told_which_there_are() -> None:
    said = f"'distil' is no kind of job; wanted {' or '.join(KINDS)}; did you mean 'distill'"
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(KindName).validate_python("distil")


class Greeting(Spec):
    """Something to say."""

    words: str


class Greeter:
    """Writes it down."""

    def __init__(self, spec: Greeting, place: RunPaths, diary: EventLog, interrupt: Interrupt, group: object) -> None:
        self.spec, self.place = spec, place

    def __call__(self) -> None:
        (self.place.directory / "said").write_text(self.spec.words)


def test_the_engine_does_what_the_kind_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "greet", Kind(Greeting, f"{__name__}:Greeter"))
    place = RunPaths(tmp_path, tmp_path, tmp_path, (), "1", 60)
    log = tmp_path / "log"
    with log.open("wb") as out:
        diary = EventLog(out.fileno())
        assert carry_out(b'{"words": "hello"}', place, diary, Interrupt(), kind="greet") == FINISHED
        assert (tmp_path / "said").read_text() == "hello"
        assert carry_out(b'{"sounds": "hello"}', place, diary, Interrupt(), kind="greet") == IMPOSSIBLE


def test_an_order_without_a_kind_is_one_to_distil() -> None:
    order = (
        b'{%s "spec": {}, "directory": "", "checkpoints": "", "weights": "", "data_roots": [], "run": "1",'
        b' "checkpoint_seconds": 1, "store": "", "store_bytes": 0}'
    )
    assert [_from_parent(order % said, Interrupt())[0] for said in (b"", b'"kind": "greet",')] == ["distill", "greet"]
