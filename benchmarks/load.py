"""One front end with a long queue and a crowd of clients, while workers go on.

    .venv/bin/python benchmarks/load.py [--seconds 300] [--jobs 10000] [--pollers 200] [--followers 500]

Over a private PostgreSQL jobs of several projects are queued. Clients in a process of their own ask for a job a second
each, and others follow event logs; meanwhile this process stands for workers that claim jobs, write records and end
them, as their shells do. No job trains anything.

`errors`: answers other than 200, streams that break off, events that are missing or come twice. `grew_mib`: the
front end's largest memory after the warm-up over its smallest. `claim_milliseconds`: a whole claim's transaction, at
the median; `claim_over_statement`: how many times as long as a transaction of one statement. `news_seconds`: from when
an event was written to when a follower had it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _servers import Server, front_end, postgresql, prepare
from sqlalchemy import insert

from retort.event import Event
from service.claims import service as workers
from service.claims.repository import Claim
from service.db import database_now, transaction
from service.jobs.models import EventRow, JobRow
from service.keys.service import create_local_key
from service.kinds import EFFECTS
from service.projects.models import ProjectRow
from service.recipes.validation import check_recipe

RECIPE = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "resnet20", "teach": {"epochs": 2}},
    "student": {"architecture": "resnet8"},
    "methods": [{"name": "kd"}],
    "training": {"epochs": 2},
}
PROJECTS = 5
RUNNING = 20
"""Jobs that run at once."""
RECORDS = 10
"""Of each job, one a second."""
WARM_UP = 0.2
"""Share of the time after which memory must stay as it is."""
LEASE_SECONDS = 60.0


def queue(count: int) -> tuple[list[str], list[list[str]]]:
    """Queue so many jobs; a key of each project, and its jobs in the order in which they will run."""
    with transaction() as session:
        keys = [create_local_key(session, "load", f"project {number}") for number in range(PROJECTS)]
        projects = [
            row.id
            for row in session.query(ProjectRow).where(ProjectRow.name.like("project %")).order_by(ProjectRow.name)
        ]
        resolved = check_recipe(projects[0], RECIPE).resolved
        assert resolved is not None
        recipe, now = resolved.model_dump(mode="json"), time.time()
        made = [(f"job_{number:08d}", projects[number % PROJECTS], now - count + number) for number in range(count)]
        common = {"spec": recipe, "latest": {}, "max_attempts": 5, "next_event": 2, "body_digest": "0" * 64}
        rows = [{"id": job, "project_id": owner, "created_at": at, **common} for job, owner, at in made]
        first = {"number": 1, "kind": "created", "attempt": 0, "body": {"text": None, "data": {}}}
        session.execute(insert(JobRow), rows)
        session.execute(insert(EventRow), [{"job_id": job, "at": at, **first} for job, _, at in made])
    return keys, [[job for job, owner, _ in made if owner == project] for project in projects]


class Work:
    """Workers as the database sees them."""

    def __init__(self) -> None:
        self.claims: list[float] = []
        """Seconds that each claim took."""
        self.statements: list[float] = []
        """Seconds that a transaction of one statement took, a moment before each claim."""
        self._running: deque[tuple[Claim, int]] = deque()

    def go_on(self, seconds: float) -> None:
        """Claim, write and end jobs for so long."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            began = time.monotonic()
            if len(self._running) < RUNNING:
                self._claim()
            if self._running:
                self._write(*self._running.popleft())
            time.sleep(max(0.0, 1 / RUNNING - (time.monotonic() - began)))

    def _claim(self) -> None:
        began = time.perf_counter()
        with transaction() as session:
            session.scalar(database_now().select())
        self.statements.append(time.perf_counter() - began)
        began = time.perf_counter()
        with transaction() as session:
            claim = workers.claim(session, f"worker {len(self.claims)}", LEASE_SECONDS)
        self.claims.append(time.perf_counter() - began)
        if claim is not None:
            self._running.append((claim, 0))

    def _write(self, claim: Claim, step: int) -> None:
        with transaction() as session:
            if step == RECORDS:
                workers.succeed(session, claim, [], EFFECTS)
                return
            event = Event(
                kind="metrics", phase="distilling", network="student", step=step, values={"loss": 1 / (1 + step)}
            )
            workers.record(session, claim, [event], None, "distilling")
        self._running.append((claim, step + 1))


class Memory:
    """The front end's memory, once a second."""

    def __init__(self, server: Server) -> None:
        self.seen: list[float] = []
        self._server = server
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopped.wait(1):
            self.seen.append(self._server.memory_mib())


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--pollers", type=int, default=200)
    parser.add_argument("--followers", type=int, default=500)
    options = parser.parse_args()
    figures: dict[str, Any] = vars(options) | {"load_before": round(os.getloadavg()[0], 2)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retort-load-")))
        url = stack.enter_context(postgresql(("retort",)))
        prepare(f"{url}/retort", folder / "data")
        keys, jobs = queue(options.jobs)
        (folder / "keys").write_text(json.dumps(keys))
        (folder / "jobs").write_text(json.dumps(jobs))
        server = stack.enter_context(front_end(folder / "retort.log"))
        files = [str(server.port), str(folder / "keys"), str(folder / "jobs")]
        numbers = [str(options.pollers), str(options.followers), str(options.seconds)]
        crowd = [sys.executable, str(Path(__file__).with_name("_crowd.py")), *files, *numbers]
        work = Work()
        with Memory(server) as memory, subprocess.Popen(crowd, stdout=subprocess.PIPE, text=True) as clients:
            work.go_on(options.seconds)
            said, _ = clients.communicate(timeout=60)
        later = memory.seen[int(WARM_UP * len(memory.seen)) :]
        figures |= json.loads(said)
        figures |= {
            "memory_mib": round(max(later), 1),
            "grew_mib": round(max(later) - min(later), 1),
            "claims": len(work.claims),
            "claim_milliseconds": round(1000 * statistics.median(work.claims), 2),
            "claim_over_statement": round(statistics.median(work.claims) / statistics.median(work.statements), 1),
            "claim_milliseconds_worst": round(1000 * max(work.claims), 1),
            "cores": len(os.sched_getaffinity(0)),
        }
    for name, value in figures.items():
        print(f"{name:25} {value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
