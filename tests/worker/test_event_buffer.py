"""Events and progress are written in few transactions, and none is lost."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from retort.event import Checkpoint, Event, Progress
from service.claims import service
from service.db import transaction
from tests.service.rows import add_job, add_project
from tests.worker.plays import kinds, row
from worker.event_buffer import EventBuffer


def line(record: Event | Progress | Checkpoint) -> bytes:
    return record.model_dump_json().encode() + b"\n"


def event(step: int, phase: str = "distilling") -> bytes:
    return line(Event(kind="metrics", phase=phase, network="student", step=step, values={"loss": 1.0}))


def test_events_are_due_at_once_and_then_gathered() -> None:
    buffer = EventBuffer()
    assert not buffer.due()
    buffer.add(event(1))
    assert buffer.due()
    buffer.clear()
    buffer.add(event(2))
    assert not buffer.due()
    time.sleep(0.25)
    assert buffer.due()


def test_progress_is_due_once_a_second() -> None:
    buffer = EventBuffer()
    buffer.add(line(Progress(phase="distilling")))
    assert buffer.due()
    buffer.clear()
    buffer.add(line(Progress(phase="distilling")))
    time.sleep(0.25)
    assert not buffer.due()
    time.sleep(0.8)
    assert buffer.due()


def test_what_could_not_be_written_waits() -> None:
    buffer = EventBuffer()
    buffer.add(event(1))
    buffer.postpone(0.1)
    assert not buffer.due()
    time.sleep(0.15)
    assert buffer.due()


def test_half_a_line_is_nothing_and_another_language_is_an_error() -> None:
    buffer = EventBuffer()
    buffer.add(b'{"line": "event", "kin')
    assert not buffer.due()
    for wrong in (b"hello\n", b'{"line": "song"}\n', b'{"line": "event", "kind": "metrics", "phase": "p", "x": 1}\n'):
        with pytest.raises(ValidationError):
            buffer.add(wrong)


@pytest.mark.usefixtures("database")
def test_events_are_written_in_their_order_and_the_refusal_apart() -> None:
    job_id = add_job(add_project())
    buffer = EventBuffer()
    buffer.add(event(1))
    buffer.add(line(Progress(phase="distilling", epoch=1)))
    buffer.add(event(2))
    buffer.add(line(Checkpoint(file="1.safetensors", phase="exporting", step=2)))
    buffer.add(line(Event(kind="failed", phase="exporting", text="no room")))
    with transaction() as session:
        claim = service.claim(session, "worker_a", 30)
        assert claim is not None
        buffer.write(session, claim)
    buffer.clear()
    assert kinds(job_id) == ["claimed", "metrics", "metrics"]
    assert (row(job_id).phase, (row(job_id).progress or {})["epoch"]) == ("exporting", 1)
    assert buffer.refusal == "no room"
    assert not buffer.due()
