"""Nothing that an engine says reaches a claim, and one job that cannot be read holds up no other."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from retort.event import Event, Progress
from retort.kinds import DISTILL, KINDS
from service.claims.records import MOST_METRICS, InvalidRecord, resolved_spec
from service.claims.repository import Claim
from service.claims.service import Trouble, claim, record, retry
from service.db import LOST, transaction
from service.jobs.event_log import append
from service.jobs.models import EventRow, State, Wanted
from tests.service.claims.conftest import Later
from tests.service.claims.test_ownership import LEASE_SECONDS, change_row, event_log, kinds, must_take, row, take
from tests.service.conftest import RECIPE as SENT
from tests.service.conftest import on_sqlite
from tests.service.rows import RECIPE, add_job, add_project

pytestmark = pytest.mark.usefixtures("database")

ASKED = (
    KINDS[DISTILL].spec.model_validate({**SENT, "deadline": {"seconds": 60, "then": "stop"}}).model_dump(mode="json")
)
"""A recipe as it is stored, with `auto` in some fields."""


def write(taken: Claim, *events: Event, progress: Progress | None = None) -> None:
    with transaction() as session:
        record(session, taken, events, progress, "preparing")


def test_a_warning_of_any_length_is_written_once(later: Later) -> None:
    text = "".join(chr(0x4E00 + i % 5000) for i in range(5000))
    warning = Event(kind="warning", phase="checking images", text=text)
    job_id = add_job(add_project())
    write(must_take(), warning, warning)
    later(LEASE_SECONDS + 1)
    write(must_take("worker_b"), warning)
    assert kinds(job_id).count("warning") == 1
    assert len(event_log(job_id)[1].key or "") == 64


@on_sqlite
def test_a_long_key_of_version_0_2_is_known_again() -> None:
    """PostgreSQL could not hold one of more than 2,704 bytes."""
    warning = Event(kind="warning", phase="checking images", text="x" * 1000)
    job_id = add_job(add_project())
    taken = must_take()
    write(taken, warning)
    with transaction() as session:
        session.execute(update(EventRow).where(EventRow.kind == "warning").values(key=warning.key))
    write(taken, warning)
    assert kinds(job_id).count("warning") == 1


@on_sqlite
def test_more_events_at_once_than_a_statement_has_parameters_are_written_once() -> None:
    job_id = add_job(add_project())
    with transaction() as session:
        taken = claim(session, "worker_a", LEASE_SECONDS)
        assert taken is not None
        for _ in range(2):
            events = [Event(kind="metrics", phase="distilling", step=step) for step in range(40_000)]
            record(session, taken, events, None, "distilling")
    assert row(job_id).next_event == 40_002


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """The recipe with another value in one place; with ... without it."""
    spec = deepcopy(ASKED)
    holder: Any = spec
    for step in path[:-1]:
        holder = holder[step]
    if to is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = to
    return spec


@on_sqlite
def test_the_engine_resolves_what_was_left_to_it_and_nothing_else() -> None:
    good = changed("training", "threads", to=3)
    good["training"]["precision"] = "bfloat16"
    good["training"]["optimizer"]["learning_rate"] = 0.05
    assert resolved_spec(DISTILL, ASKED, good) == good
    older = {name: value for name, value in ASKED.items() if name != "compression"}
    assert resolved_spec(DISTILL, older, good) == good, "fields that are newer than the spec have their defaults"
    weights = {"job": "job_../../../etc", "network": "teacher"}
    for wrong in (
        changed("deadline", to=...),
        changed("deadline", to=None),
        changed("deadline", "seconds", to=1e9),
        changed("dataset", to={"name": "stored", "dataset": "dataset_of_others"}),
        changed("teacher", "weights", to=weights),
        changed("students", 0, "weights", to=weights),
        changed("students", 0, "name", to="../x"),
        changed("students", to=[]),
        changed("exports", to=[]),
        changed("training", "threads", to="many"),
        changed("training", "precision", to="float8"),
        changed("training", "epochs", to=True),
        {**ASKED, "more": 1},
        {},
        None,
    ):
        with pytest.raises(InvalidRecord):
            resolved_spec(DISTILL, ASKED, wrong)


@on_sqlite
def test_a_record_that_says_what_its_job_cannot_changes_nothing() -> None:
    job_id = add_job(add_project(), spec=ASKED)
    taken = must_take()
    many = {f"m{i}": 1.0 for i in range(600)}
    more = {f"n{i}": 1.0 for i in range(MOST_METRICS - 599)}
    values = [Event(kind="metrics", phase="p", network="student", step=i, values=v) for i, v in enumerate((many, more))]
    for wrong in (
        [Event(kind="resolved", phase="preparing", data=changed("deadline", to=...))],
        [Event(kind="metrics", phase="p", network="of_another_job", values={"loss": 1.0})],
        values,
    ):
        with pytest.raises(InvalidRecord):
            write(taken, *wrong)
    with pytest.raises(InvalidRecord, match="'nobody'"):
        write(taken, progress=Progress(phase="p", network="student, nobody"))
    assert (row(job_id).spec, row(job_id).latest, kinds(job_id)) == (ASKED, {}, ["claimed"])


def test_a_job_that_cannot_be_read_is_put_aside_and_the_others_go_on(later: Later) -> None:
    project_id = add_project()
    overdue = add_job(project_id, spec={**RECIPE, "deadline": {"seconds": 5}}, age=30)
    must_take()
    broken = add_job(project_id, spec={**RECIPE, "deadline": {"seconds": "soon"}}, age=20)
    good = add_job(project_id, age=10)
    change_row(overdue, spec=RECIPE | {"deadline": {"then": "stop"}})
    later(LEASE_SECONDS + 1)
    assert must_take("worker_b").job_id == good
    for job_id in (overdue, broken):
        job = row(job_id)
        assert (job.state, (job.error or {})["cause"], job.lease_owner) == (State.failed, "unreadable", None)
        assert kinds(job_id)[-1] == "failed"
        assert job.ended_at is not None


@pytest.mark.parametrize("asked", [Wanted.run, Wanted.stop])
def test_a_clock_that_is_set_back_strands_no_job(later: Later, asked: Wanted) -> None:
    project_id = add_project()
    later(7200)
    left, last = add_job(project_id, age=20), add_job(project_id, age=10, max_attempts=1)
    must_take()
    must_take()
    paused = add_job(project_id)
    with transaction() as session:
        retry(session, must_take(), Trouble("machine", "disk_full", "no room"))
    change_row(left, wanted=asked)
    later(-7080)
    assert {must_take("worker_b").job_id, must_take("worker_b").job_id} == {left, paused}
    # The worker of a last attempt may live, and has a lease more to say so.
    assert take("worker_b") is None
    assert row(last).state is State.running
    later(LEASE_SECONDS + 1)
    take("worker_b")
    assert (row(last).error or {})["cause"] == "heartbeat_lost"


@on_sqlite
def test_a_fault_of_the_code_ends_a_job_at_the_second_attempt() -> None:
    job_id = add_job(add_project(), max_attempts=5)
    fault = Trouble("service", "exit_70", "the engine failed")
    for state in (State.queued, State.failed):
        change_row(job_id, not_before=0.0)
        with transaction() as session:
            assert retry(session, must_take(), fault) is state
    assert (row(job_id).error or {})["detail"] == "attempt 2 of 2: the engine failed"


@on_sqlite
def test_a_lost_database_is_not_a_job_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = add_job(add_project())

    def away(*_: object) -> None:
        raise LOST[0]("SELECT", None, Exception("gone"))

    monkeypatch.setattr("service.claims.service.append", away)
    with pytest.raises(OperationalError):
        take()
    assert row(job_id).state is State.queued
    monkeypatch.setattr("service.claims.service.append", append)
    assert must_take().job_id == job_id
