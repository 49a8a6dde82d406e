"""What jobs use that have not ended: data sets, models, uploads, and networks of earlier jobs. All of that stays.

Who deletes a thing has locked it before he asks who uses it, and who makes a job holds what it uses until his
transaction ends: so one of them waits for the other, and sees what became of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from os.path import commonprefix
from typing import Any

from sqlalchemy import String, cast, func, or_, select, update
from sqlalchemy.orm import Session

from retort.kinds import KINDS, Use
from service.datasets.models import Dataset
from service.db import database_now
from service.errors import Conflict, FieldError, Invalid
from service.jobs.models import TERMINAL, Job, State
from service.models.models import Model

GOING_ON = [state for state in State if state not in TERMINAL]
NAMED = 5
"""Jobs that a refusal names at most."""
SPECS_A_LOOK = 100
"""How many specs are in memory at once."""
USED_SECONDS = 3600.0
"""How exactly it is known when a data set or a model was last used."""
WORDS = {"dataset": "data set"}
"""What people call a kind of thing, where that is another word."""


def users(
    session: Session, project_id: str, ids: Collection[str], *, since: float | None = None, enough: int = 1
) -> Mapping[str, Sequence[str]]:
    """Those of the project's things that its jobs use, each with the ids of some of these jobs, oldest first: of jobs
    that have not ended, or not before that time. No more are looked for once there are `enough` of each thing."""
    alive = Job.state.in_(GOING_ON)
    own = (Job.project_id == project_id, alive if since is None else or_(alive, Job.ended_at > since))
    found: dict[str, set[str]] = {}
    # What the ids begin with stands nowhere by chance, so few specs hold it that mean something else.
    text = commonprefix([*ids])  # noqa: RUF071 - of strings, which are no paths
    named = cast(Job.spec, String).contains(text, autoescape=True)
    naming = select(Job.id, Job.kind, Job.spec).where(*own, named).order_by(Job.id)
    with session.execute(naming.execution_options(yield_per=SPECS_A_LOOK)) as rows:
        for job_id, kind, spec in rows:
            for use in KINDS[kind].uses(spec):
                if use.id in ids:
                    found.setdefault(use.id, set()).add(job_id)
            if len(found) == len(ids) and all(len(jobs) >= enough for jobs in found.values()):
                break
    # What a job makes is not in its spec.
    made = select(Dataset.id, Job.id).join(Job, Job.id == Dataset.job_id).where(*own, Dataset.id.in_(ids))
    for dataset_id, job_id in session.execute(made):
        found.setdefault(dataset_id, set()).add(job_id)
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
        found = select(Job.id).where(Job.project_id == project_id, Job.id.in_({use.id for use in uses["job"]}))
        locked = found.order_by(Job.id).with_for_update(read=True, key_share=True)
        _check_there(uses["job"], set(session.scalars(locked)))
    return size


STORED: dict[str, type[Dataset] | type[Model]] = {"dataset": Dataset, "model": Model}


def _hold_stored(session: Session, project_id: str, table: type[Dataset] | type[Model], uses: Sequence[Use]) -> int:
    """Hold data sets, or models, and note that they were used; gives their bytes."""
    stale = func.coalesce(table.used_at, 0.0) < database_now() - USED_SECONDS
    found = select(table.id, table.size, stale).where(
        table.project_id == project_id, table.id.in_({use.id for use in uses})
    )
    rows = session.execute(found.order_by(table.id).with_for_update(read=True, key_share=True)).all()
    _check_there(uses, {row.id for row in rows})
    for thing_id in [thing_id for thing_id, _, is_stale in rows if is_stale]:
        # Seldom, for it makes others wait who make a job of the same; asked again, for one of them may have done it.
        used = update(table).where(table.id == thing_id, stale).values(used_at=database_now())
        session.execute(used.execution_options(synchronize_session=False))
    return sum(row.size or 0 for row in rows)


def _check_there(uses: Sequence[Use], there: Collection[str]) -> None:
    gone = [use for use in uses if use.id not in there]
    if gone:
        raise Invalid.of(
            [FieldError(pointer=use.pointer, detail=f"{_words(use.id)} was deleted", found=use.id) for use in gone]
        )


def _words(thing_id: str) -> str:
    kind = thing_id.partition("_")[0]
    return f"{WORDS.get(kind, kind)} {thing_id}"
