"""What is heard is written in few steps, and nothing of it is lost."""

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


def line(said: Event | Progress | Checkpoint) -> bytes:
    return said.model_dump_json().encode() + b"\n"


def event(step: int, phase: str = "distilling") -> bytes:
    return line(Event(kind="metrics", phase=phase, network="student", step=step, values={"loss": 1.0}))


def test_events_are_due_at_once_and_then_gathered() -> None:
    transcript = EventBuffer()
    assert not transcript.due()
    transcript.hear(event(1))
    assert transcript.due()
    transcript.written()
    transcript.hear(event(2))
    assert not transcript.due()
    time.sleep(0.25)
    assert transcript.due()


def test_progress_is_due_once_a_second() -> None:
    transcript = EventBuffer()
    transcript.hear(line(Progress(phase="distilling")))
    assert transcript.due()
    transcript.written()
    transcript.hear(line(Progress(phase="distilling")))
    time.sleep(0.25)
    assert not transcript.due()
    time.sleep(0.8)
    assert transcript.due()


def test_what_could_not_be_written_waits() -> None:
    transcript = EventBuffer()
    transcript.hear(event(1))
    transcript.put_off(0.1)
    assert not transcript.due()
    time.sleep(0.15)
    assert transcript.due()


def test_half_a_line_is_nothing_and_another_language_is_an_error() -> None:
    transcript = EventBuffer()
    transcript.hear(b'{"line": "event", "kin')
    assert not transcript.due()
    for wrong in (b"hello\n", b'{"line": "song"}\n', b'{"line": "event", "kind": "metrics", "phase": "p", "x": 1}\n'):
        with pytest.raises(ValidationError):
            transcript.hear(wrong)


@pytest.mark.usefixtures("database")
def test_it_is_written_as_it_was_said_and_the_refusal_is_kept_apart() -> None:
    job_id = add_job(add_project())
    transcript = EventBuffer()
    transcript.hear(event(1))
    transcript.hear(line(Progress(phase="distilling", epoch=1)))
    transcript.hear(event(2))
    transcript.hear(line(Checkpoint(file="1.safetensors", phase="exporting", step=2)))
    transcript.hear(line(Event(kind="failed", phase="exporting", text="no room")))
    with transaction() as session:
        claim = service.claim(session, "worker_a", 30)
        assert claim is not None
        transcript.write(session, claim)
    transcript.written()
    assert kinds(job_id) == ["claimed", "metrics", "metrics"]
    assert (row(job_id).phase, (row(job_id).progress or {})["epoch"]) == ("exporting", 1)
    assert transcript.refusal == "no room"
    assert not transcript.due()
