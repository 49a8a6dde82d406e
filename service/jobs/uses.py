"""The things that jobs use which have not ended: data sets, models, uploads, networks of earlier jobs. They stay.

A deletion locks the thing before it asks for its users, and the making of a job holds the things that the job uses
until its transaction ends: so one of the two waits for the other, and sees what became of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from os.path import commonprefix
from typing import Any

from sqlalchemy import String, Table, cast, func, or_, select, update
from sqlalchemy.orm import DeclarativeBase, Session

from retort.kinds import KINDS, Use
from service.db import database_now
from service.errors import Conflict, FieldError, Invalid
from service.jobs.models import TERMINAL, JobRow, State

GOING_ON = [state for state in State if state not in TERMINAL]
NAMED = 5
"""Jobs that a refusal names at most."""
SPECS_A_LOOK = 100
"""Number of specs in memory at once."""
USED_SECONDS = 3600.0
"""The precision of the time at which a data set or a model was last used."""
WORDS = {"dataset": "data set"}
"""The word of a kind of thing for people, where that is another."""
STORED: dict[str, Table] = {}
"""Tables of things that jobs make and use, by the prefix of their ids."""


def register(kind: str, row: type[DeclarativeBase]) -> None:
    """Register a table of things that jobs make and use: it has `id`, `project_id`, `job_id`, `size` and `used_at`."""
    table = row.__table__
    assert isinstance(table, Table)
    STORED[kind] = table


def kind_of(thing_id: str) -> str:
    """The prefix of a thing's id, which says what it is."""
    return thing_id.partition("_")[0]


def users(
    session: Session, project_id: str, ids: Collection[str], *, since: float | None = None, enough: int = 1
) -> Mapping[str, Sequence[str]]:
    """Those of the project's things that its jobs use, each with the ids of some of these jobs, oldest first: of jobs
    that have not ended, or not before that time. No more are looked for once there are `enough` of each thing."""
    alive = JobRow.state.in_(GOING_ON)
    own = (JobRow.project_id == project_id, alive if since is None else or_(alive, JobRow.ended_at > since))
    found: dict[str, set[str]] = {}
    # What the ids begin with stands nowhere by chance, so few specs hold it that mean something else.
    text = commonprefix([*ids])  # noqa: RUF071 - of strings, which are no paths
    named = cast(JobRow.spec, String).contains(text, autoescape=True)
    naming = select(JobRow.id, JobRow.kind, JobRow.spec).where(*own, named).order_by(JobRow.id)
    with session.execute(naming.execution_options(yield_per=SPECS_A_LOOK)) as rows:
        for job_id, kind, spec in rows:
            for use in KINDS[kind].uses(spec):
                if use.id in ids:
                    found.setdefault(use.id, set()).add(job_id)
            if len(found) == len(ids) and all(len(jobs) >= enough for jobs in found.values()):
                break
    # What a job makes is not in its spec.
    for kind in {kind_of(thing_id) for thing_id in ids} & STORED.keys():
        things = STORED[kind]
        made = select(things.c.id, JobRow.id).join(JobRow, JobRow.id == things.c.job_id)
        for thing_id, job_id in session.execute(made.where(*own, things.c.id.in_(ids))):
            found.setdefault(thing_id, set()).add(job_id)
    return {thing_id: sorted(jobs) for thing_id, jobs in found.items()}


def check_unused(session: Session, project_id: str, thing_id: str) -> None:
    """Raise Conflict when a job uses the thing that has not ended."""
    jobs = users(session, project_id, [thing_id], enough=NAMED + 1).get(thing_id)
    if jobs:
        named = ", ".join(jobs[:NAMED]) + (" and more" if len(jobs) > NAMED else "")
        raise Conflict(f"{_words(thing_id)} is used by jobs that have not ended ({named}), so cancel them first")


def hold(session: Session, project_id: str, kind: str, spec: Mapping[str, Any]) -> int:
    """Keep what a stored spec uses from being deleted until the transaction ends; gives the bytes of the data sets and
    models among it. Raises Invalid, pointing into that spec, when something is not there any more."""
    uses: dict[str, list[Use]] = {}
    for use in KINDS[kind].uses(spec):
        uses.setdefault(use.kind, []).append(use)
    size = sum(_hold_stored(session, project_id, table, uses[name]) for name, table in STORED.items() if name in uses)
    if "job" in uses:
        found = select(JobRow.id).where(JobRow.project_id == project_id, JobRow.id.in_({use.id for use in uses["job"]}))
        locked = found.order_by(JobRow.id).with_for_update(read=True, key_share=True)
        _check_there(uses["job"], set(session.scalars(locked)))
    return size


def _hold_stored(session: Session, project_id: str, things: Table, uses: Sequence[Use]) -> int:
    """Hold stored things of one kind and note that they were used; gives their bytes."""
    columns = things.c
    stale = func.coalesce(columns.used_at, 0.0) < database_now() - USED_SECONDS
    found = select(columns.id, columns.size, stale).where(
        columns.project_id == project_id, columns.id.in_({use.id for use in uses})
    )
    rows = session.execute(found.order_by(columns.id).with_for_update(read=True, key_share=True)).all()
    _check_there(uses, {row.id for row in rows})
    for thing_id in [thing_id for thing_id, _, is_stale in rows if is_stale]:
        # Seldom, for it makes others wait who make a job of the same; asked again, for one of them may have done it.
        used = update(things).where(columns.id == thing_id, stale).values(used_at=database_now())
        session.execute(used.execution_options(synchronize_session=False))
    return sum(row.size or 0 for row in rows)


def _check_there(uses: Sequence[Use], there: Collection[str]) -> None:
    gone = [use for use in uses if use.id not in there]
    if gone:
        raise Invalid.of(
            [FieldError(pointer=use.pointer, detail=f"{_words(use.id)} was deleted", found=use.id) for use in gone]
        )


def _words(thing_id: str) -> str:
    kind = kind_of(thing_id)
    return f"{WORDS.get(kind, kind)} {thing_id}"
