"""Jobs are sent and carried out while everything breaks; in the end each of them has ended once, and tells the truth.

python -m tests.faults.scenario --jobs 200 --workers 4 --pair full --seed 1
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import select

from retort.engine.interrupt import FINISHED
from service.artifacts.models import ArtifactRow
from service.blobs.models import BlobRow, ChunkRow
from service.blobs.repository import sweep
from service.db import reading
from service.jobs.models import TERMINAL, JobRow, State
from tests.faults import stand_in
from tests.faults.installation import PAIRS, Installation, fresh_folder, remove
from tests.faults.owners import Owner
from tests.faults.troubles import Troubles
from tests.faults.watch import Line, Watcher, check_event_log
from tests.retort.engine.forks import Engine
from tests.servers import wait_until
from worker.workspace import sweep_folders

PROJECTS = ("left", "right")


@dataclass(frozen=True)
class Plan:
    """What is to happen."""

    jobs: int
    workers: int
    seed: int
    pair: str = "full"
    engine: str = "stand_in"
    apart: bool = True
    """Every worker has a storage of its own."""
    steps: tuple[int, int] = (10, 30)
    """Of a job of the stand-in; each takes a twentieth of a second."""
    send_seconds: float = 0.2
    """Between two jobs of a project, on average."""
    calm_seconds: tuple[float, float] = (0.3, 1.5)
    """Between two troubles."""
    troubles: int | None = None
    """At most so many; without a number they come until the last job has ended, or for too long."""
    trouble_seconds: float = 900.0
    wishes: float = 0.2
    patience_seconds: float = 240.0
    """For the last jobs to end once it is calm."""


SLOWLY: dict[str, Any] = {
    "calm_seconds": (3, 8), "send_seconds": 2, "trouble_seconds": 3600, "patience_seconds": 600,
}  # fmt: skip
"""Of a plan with the real engine, which takes ten seconds to a job and more on a busy machine."""


@dataclass
class Outcome:
    """What happened."""

    violations: list[str]
    figures: dict[str, Any]


def recipe(engine: str, seed: int, steps: int) -> dict[str, Any]:
    """A recipe that the API takes; for the stand-in `seed` and `steps` are all that counts."""
    training = {"epochs": steps, "data_seed": seed, "batch_size": 32, "threads": 1, "precision": "float32"}
    return {
        "dataset": {"name": "digits", "label_share": 0.05},
        "teacher": {"architecture": "resnet8", "teach": {**training, "epochs": 1}},
        "student": {"architecture": "resnet8"},
        "methods": [{"name": "kd"}],
        "training": training,
        "evaluation": {"every_epochs": 100},
        "exports": [{"name": "safetensors"}],
    }  # fmt: skip


def recipes(plan: Plan, project: str) -> list[dict[str, Any]]:
    """A project's share; several jobs have the same recipe, so that they ship the same bytes."""
    chance = random.Random(f"{plan.seed} {project}")
    count = plan.jobs // len(PROJECTS) + (plan.jobs % len(PROJECTS) if project == PROJECTS[0] else 0)
    if plan.engine == "real":
        return [recipe("real", number % 3, 1 + number % 2) for number in range(count)]
    steps = [chance.randint(*plan.steps) for _ in range(count)]
    return [recipe("stand_in", chance.randrange(max(1, plan.jobs // 3)), number) for number in steps]


def run(plan: Plan, folder: Path, say: Any = None) -> Outcome:
    """Carry out the plan in an empty folder."""
    slow = {"lease_seconds": 5} if plan.engine == "real" else {}  # four engines that start at once leave little time
    installation = Installation(folder, pair=plan.pair, engine=plan.engine, apart=plan.apart, **slow)
    chance = random.Random(plan.seed)
    began = time.monotonic()
    with installation.running(plan.workers):
        owners = [
            Owner(
                installation.client(project), project, recipes(plan, project), random.Random(f"{plan.seed}{project}"),
                pause_seconds=plan.send_seconds, wishes=plan.wishes,
            )
            for project in PROJECTS
        ]  # fmt: skip
        troubles = Troubles(installation, chance)
        with Watcher(installation.engine_of_database()) as watcher:
            for owner in owners:
                owner.thread.start()
            _break_things(plan, troubles, owners, watcher, say)
            troubles.calm()
            violations = _wait_for_the_end(plan, installation, owners, watcher)
            wall_seconds = time.monotonic() - began
            codes = installation.stop_workers()
            watcher.look()
        if any(codes):
            violations.append(f"workers that were asked to stop ended with {codes}")
        violations += [*watcher.violations, *(said for owner in owners for said in owner.violations)]
        with installation.here():
            violations += check(installation, owners, watcher.event_logs)
            figures = _figures(plan, installation, owners, watcher, troubles, wall_seconds)
        installation.kill_api()
        if left := installation.processes():
            violations.append(f"processes are left: {left}")
    return Outcome(violations, {**figures, "violations": len(violations)})


def _break_things(plan: Plan, troubles: Troubles, owners: Sequence[Owner], watcher: Watcher, say: Any) -> None:
    """One trouble after another, until enough were made or the last job has ended."""
    wait_until(lambda: watcher.in_state(State.running), "a job runs")
    deadline = time.monotonic() + plan.trouble_seconds
    while time.monotonic() < deadline and (plan.troubles is None or troubles.done.total() < plan.troubles):
        time.sleep(troubles.chance.uniform(*plan.calm_seconds))
        sent = not any(owner.thread.is_alive() for owner in owners)
        if sent and not watcher.in_state(State.queued, State.running):
            break
        name = troubles.one()
        if say is not None:
            states = Counter(row.state.value for row in list(watcher.rows.values()))
            print(f"{name}: {dict(states)}", file=say, flush=True)
        troubles.installation.mend()


def _wait_for_the_end(
    plan: Plan, installation: Installation, owners: Sequence[Owner], watcher: Watcher
) -> list[str]:  # fmt: skip
    deadline = time.monotonic() + plan.patience_seconds
    while time.monotonic() < deadline:
        installation.mend()
        if not any(owner.thread.is_alive() for owner in owners):
            job_ids = [job_id for owner in owners for job_id in owner.accepted.values()]
            if watcher.all_ended(job_ids):
                return []
            for owner in owners:
                for job_id in set(owner.accepted.values()) & set(watcher.in_state(State.paused)):
                    owner.wish("resume", job_id)
        time.sleep(0.3)
    states = Counter(row.state.value for row in watcher.rows.values())
    return [f"after {plan.patience_seconds:g} calm seconds the jobs are {dict(states)}"]


def check(installation: Installation, owners: Sequence[Owner], event_logs: dict[str, list[Line]]) -> list[str]:
    """All that must hold at the end, when nothing runs any more but the database."""
    wrong: list[str] = []
    accepted = {job_id: owner for owner in owners for job_id in owner.accepted.values()}
    keys = sum(len(owner.accepted) for owner in owners)
    if len(accepted) != keys:
        wrong.append(f"{keys} keys made {len(accepted)} jobs")
    with reading() as session:
        jobs = {job.id: job for job in session.scalars(select(JobRow))}
    if jobs.keys() != accepted.keys():
        wrong.append(f"{len(accepted)} jobs were accepted and {len(jobs)} are there")
    for job_id, job in jobs.items():
        owner = accepted.get(job_id)
        wished = owner.wished_of.get(job_id, set()) if owner else set()
        wrong += [f"job {job_id}: {said}" for said in check_event_log(job.state, job.fence, event_logs[job_id])]
        wrong += [f"job {job_id}: {said}" for said in _check_end(job, event_logs[job_id], wished)]
    if installation.engine == "stand_in":
        for job_id, job in jobs.items():
            if job.state is State.succeeded and job_id in accepted:
                stopped = "stop" in accepted[job_id].wished_of.get(job_id, ())
                said = _check_stand_in(job, accepted[job_id].recipe_of[job_id], event_logs[job_id], stopped)
                wrong += [f"job {job_id}: {what}" for what in said]
    else:
        wrong += _check_real(installation, jobs, accepted, event_logs)
    return wrong + _check_left(installation)


def _check_end(job: JobRow, event_log: Sequence[Line], wished: set[str]) -> list[str]:
    """Whether its end is one that its story allows."""
    wrong = []
    if job.state not in TERMINAL or job.lease_owner is not None or job.lease_ends is not None or job.ended_at is None:
        wrong.append(f"it is {job.state.value}, leased to {job.lease_owner}, ended at {job.ended_at}")
    if job.state is State.cancelled and not wished & {"cancel", "stop"}:
        wrong.append("it is cancelled and nobody wished that")
    for line in event_log:
        if line.data.get("fault") == "service":
            wrong.append(f"the worker failed in event {line.number}: {line.data}")
    if job.state is State.failed and job.attempt < job.max_attempts:
        wrong.append(f"it failed in attempt {job.attempt} of {job.max_attempts}: {job.error}")
    return wrong


def _check_stand_in(job: JobRow, asked: dict[str, Any], event_log: Sequence[Line], stopped: bool) -> list[str]:
    """Whether it shipped what an undisturbed run of its recipe ships, and told the same."""
    seed, steps = asked["training"]["data_seed"], asked["training"]["epochs"]
    said = {line.body["step"]: line.body["values"] for line in event_log if line.kind == "metrics"}
    done = max(said, default=0)
    wrong = []
    if done != steps and not stopped:
        wrong.append(f"it ended after {done} steps of {steps}")
    if _digests(job.id).get("student.safetensors") != sha256(stand_in.weights(seed, done)).hexdigest():
        wrong.append(f"its student is not what {done} steps make")
    wanted = {step: stand_in.metrics(seed, step)["values"] for step in range(1, done + 1)}
    if said != wanted:
        missing = sorted(wanted.keys() - said.keys())
        wrong.append(f"its event log lacks the steps {missing}" if missing else "its metrics are not its steps'")
    return wrong


def _check_real(
    installation: Installation, jobs: dict[str, JobRow], accepted: dict[str, Owner], event_logs: dict[str, list[Line]]
) -> list[str]:
    """Whether every job ended with the bits of an undisturbed run of its recipe, and said the same."""
    wrong: list[str] = []
    undisturbed: dict[str, tuple[dict[str, str], dict[str | None, Any]]] = {}
    for job_id, job in jobs.items():
        if job.state is not State.succeeded or "stop" in accepted[job_id].wished_of.get(job_id, ()):
            continue
        name = json.dumps(accepted[job_id].recipe_of[job_id])
        if name not in undisturbed:
            engine = Engine(installation.folder / f"undisturbed-{len(undisturbed)}", job.spec)
            if engine.run() != FINISHED:
                wrong.append(f"its recipe does not run to its end alone: {job.spec}")
            undisturbed[name] = engine.digests(), {event.key: (event.kind, event.values) for event in engine.events()}
        bits, told = undisturbed[name]
        if _digests(job_id) != bits:
            wrong.append(f"job {job_id} shipped other bits than an undisturbed run")
        said = {line.key: (line.kind, line.body["values"]) for line in event_logs[job_id] if line.key is not None}
        if said != told:
            differing = sorted(str(key) for key in told.keys() ^ said.keys())
            wrong.append(f"job {job_id} told another story than an undisturbed run: {differing or 'other values'}")
    return wrong


def _digests(job_id: str) -> dict[str, str]:
    found = select(ArtifactRow.name, BlobRow.sha256).join(BlobRow, BlobRow.id == ArtifactRow.blob_id)
    with reading() as session:
        return {row.name: row.sha256 for row in session.execute(found.where(ArtifactRow.job_id == job_id))}


def _check_left(installation: Installation) -> list[str]:
    """Whether anything is left in storage and database that belongs to nobody."""
    wrong: list[str] = []
    sweep(0)
    for storage in installation.storages():
        sweep_folders(storage, 0)
        left = [str(path.relative_to(storage)) for path in storage.glob("jobs/*")]
        if left:
            wrong.append(f"{storage.name} holds {left}")
    if installation.pair == "embedded":
        litter = [path.name for path in installation.broker_folder.iterdir() if path.suffix != ".msg"]
        if litter:
            wrong.append(f"the broker's folder holds {litter}")
    referred = set()
    with reading() as session:
        referred |= set(session.scalars(select(ArtifactRow.blob_id)))
        blobs = set(session.scalars(select(BlobRow.id)))
        chunks = set(session.scalars(select(ChunkRow.blob_id)))
        try:
            from service.checkpoints.models import CheckpointRow
        except ImportError:
            pass
        else:
            if kept := session.scalars(select(CheckpointRow.job_id)).all():
                wrong.append(f"checkpoints are left of {kept}")
    if blobs != referred or not chunks <= blobs:
        wrong.append(f"{len(blobs - referred)} blobs and {len(chunks - blobs)} blobs' chunks belong to nothing")
    return wrong


def _figures(
    plan: Plan, installation: Installation, owners: Sequence[Owner], watcher: Watcher, troubles: Troubles, wall: float
) -> dict[str, Any]:
    kinds = Counter(line.kind for event_log in watcher.event_logs.values() for line in event_log)
    causes = Counter(
        line.data["cause"] for event_log in watcher.event_logs.values() for line in event_log if line.data.get("cause")
    )
    figures = {
        "plan": asdict(plan),
        "wall_seconds": round(wall, 1),
        "states": dict(Counter(row.state.value for row in watcher.rows.values())),
        "claims": kinds["claimed"],
        "causes": dict(causes),
        "troubles": dict(sorted(troubles.done.items())),
        "wishes": dict(sum((owner.wished for owner in owners), Counter[str]())),
        "requests_again": sum(owner.again for owner in owners),
        "looks": watcher.looks,
    }
    if installation.engine == "stand_in":
        figures |= _work_done(installation)
    return figures


def _work_done(installation: Installation) -> dict[str, int]:
    """Steps that engines really took, and how many of them were different."""
    taken = [line.split() for notes in installation.work.iterdir() for line in notes.read_text().splitlines()]
    different = sum(
        len({line.split()[1] for line in notes.read_text().splitlines()}) for notes in installation.work.iterdir()
    )
    return {"steps_taken": len(taken), "steps_different": different}


def explain(plan: Plan, outcome: Outcome) -> str:
    """What a failed run says."""
    return f"seed {plan.seed}: " + "\n".join(outcome.violations[:40]) + f"\n{json.dumps(outcome.figures)}"


def main() -> int:
    """Run one plan and print its figures as one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.scenario", description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pair", choices=PAIRS, default="full")
    parser.add_argument("--engine", choices=("stand_in", "real"), default="stand_in")
    parser.add_argument("--shared", action="store_true", help="all workers share one storage")
    parser.add_argument("--keep", type=Path, help="an empty folder that is kept")
    chosen = parser.parse_args()
    plan = Plan(chosen.jobs, chosen.workers, chosen.seed, chosen.pair, chosen.engine, apart=not chosen.shared)
    if chosen.engine == "real":
        plan = replace(plan, **SLOWLY)
    folder = chosen.keep or fresh_folder("scenario")
    try:
        outcome = run(plan, folder, say=sys.stderr)
    finally:
        if chosen.keep is None:
            remove(folder)
    for said in outcome.violations:
        print(said, file=sys.stderr)
    print(json.dumps(outcome.figures))
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
