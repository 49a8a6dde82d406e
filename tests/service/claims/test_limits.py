"""Who may take which job: what jobs need and machines have, how many a project runs, how long a job may take."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update

from service.claims.repository import Claim
from service.claims.service import claim, hand_back, retry, succeed
from service.db import reading, transaction
from service.jobs.models import JobRow, State, Wanted
from service.kinds import EFFECTS
from service.projects.models import ProjectRow
from service.workers.repository import Machine
from tests.service.claims.conftest import Later
from tests.service.claims.test_ownership import CRASH, kinds, row, take
from tests.service.rows import RECIPE, add_job, add_project

pytestmark = pytest.mark.usefixtures("database")

GIB = 2**30
SMALL = Machine(gpu=None, memory_bytes=4 * GIB, disk_bytes=10 * GIB)
LARGE = Machine(gpu="NVIDIA H200", memory_bytes=140 * GIB, disk_bytes=1000 * GIB)


def take_on(machine: Machine) -> str | None:
    with transaction() as session:
        taken = claim(session, "worker", 30, machine)
    return taken.job_id if taken else None


def limit(project_id: str, most: int | None) -> None:
    with transaction() as session:
        session.execute(update(ProjectRow).where(ProjectRow.id == project_id).values(max_running=most))


@pytest.mark.parametrize(
    "needs", [{"needs_gpu": True}, {"needs_memory_bytes": 5 * GIB}, {"needs_disk_bytes": 11 * GIB}]
)
def test_a_machine_takes_only_what_it_can_run(needs: dict[str, int | bool]) -> None:
    project_id = add_project()
    demanding = add_job(project_id, age=10, **needs)
    modest = add_job(project_id, needs_memory_bytes=4 * GIB, needs_disk_bytes=10 * GIB)
    assert [take_on(SMALL), take_on(SMALL), take_on(LARGE)] == [modest, None, demanding]


def test_a_project_runs_no_more_jobs_than_it_may(later: Later) -> None:
    mine, theirs = add_project("mine"), add_project("theirs")
    limit(mine, 2)
    for i in range(4):
        add_job(mine, age=20 - i)
    other = add_job(theirs, age=1)
    taken = [take(f"worker_{i}") for i in range(4)]
    assert [claimed is not None for claimed in taken] == [True, True, True, False]
    assert other in [claimed.job_id for claimed in taken if claimed]
    later(31)  # a lost job of a full project is taken over: it counts already
    again = take("worker_9")
    assert again is not None
    with transaction() as session:
        succeed(session, again, [], EFFECTS)
    limit(mine, None)
    assert [take(f"worker_{i}") is not None for i in range(5)] == [True, True, True, True, False]


def test_the_limit_holds_when_many_claim_at_once() -> None:
    mine = add_project("mine")
    limit(mine, 3)
    for _ in range(12):
        add_job(mine)
    together = threading.Barrier(8)

    def work(number: int) -> list[Claim]:
        together.wait()
        return [taken for _ in range(3) if (taken := take(f"worker_{number}"))]

    with ThreadPoolExecutor(8) as pool:
        taken = [claimed for mine_ in pool.map(work, range(8)) for claimed in mine_]
    with reading() as session:
        running = session.scalar(select(func.count()).select_from(JobRow).where(JobRow.state == State.running))
    assert (len(taken), running) == (3, 3)


def test_projects_take_turns_though_many_claim_at_once() -> None:
    projects = [add_project(name) for name in ("a", "b", "c", "d")]
    for project_id in projects:
        for _ in range(5):
            add_job(project_id)
    together = threading.Barrier(4)

    def work(number: int) -> Claim | None:
        together.wait()
        return take(f"worker_{number}")

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(work, range(4)))
    assert {claimed.project_id for claimed in taken if claimed} == set(projects)


def test_a_job_whose_time_is_over_while_it_waits_fails_at_the_next_look(later: Later) -> None:
    recipe = {**RECIPE, "deadline": {"seconds": 10.0, "then": "fail"}}
    job_id = add_job(add_project(), spec=recipe)
    taken = take()
    assert taken is not None
    with transaction() as session:
        retry(session, taken, CRASH)
    later(11)
    assert take() is None
    job = row(job_id)
    assert (job.state, (job.error or {})["cause"], job.ended_at is not None) == (State.failed, "deadline", True)
    assert kinds(job_id) == ["claimed", "requeued", "failed"]


def test_a_job_whose_time_is_over_while_it_waits_is_wrapped_up(later: Later) -> None:
    recipe = {**RECIPE, "deadline": {"seconds": 10.0, "then": "stop"}}
    job_id = add_job(add_project(), spec=recipe)
    taken = take()
    assert taken is not None
    with transaction() as session:
        hand_back(session, taken)
    later(11)
    again = take()
    assert again is not None
    assert (again.job_id, again.wanted) == (job_id, Wanted.stop)
    assert kinds(job_id) == ["claimed", "requeued", "stop_wanted", "claimed"]


def test_a_paused_job_is_left_alone_even_when_its_worker_died(later: Later) -> None:
    job_id = add_job(add_project())
    assert take() is not None
    with transaction() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(wanted=Wanted.pause))
    later(31)
    assert take() is None
    job = row(job_id)
    assert (job.state, job.lease_owner, job.lease_ends, job.ended_at) == (State.paused, None, None, None)
    assert kinds(job_id) == ["claimed", "paused"]


def test_a_job_that_fails_while_it_is_to_pause_is_paused_and_keeps_the_cause() -> None:
    job_id = add_job(add_project())
    taken = take()
    assert taken is not None
    with transaction() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(wanted=Wanted.pause))
    with transaction() as session:
        assert retry(session, taken, CRASH) is State.paused
    job = row(job_id)
    assert (job.attempt, (job.error or {})["cause"], job.not_before > 0) == (1, "exit_1", True)
    assert kinds(job_id) == ["claimed", "requeued", "paused"]
