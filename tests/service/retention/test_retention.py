"""What is older than its project keeps it goes, with its bytes; what a job uses stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from service.artifacts.models import ArtifactRow
from service.blobs.models import BlobRow
from service.blobs.repository import sweep
from service.datasets.models import DatasetRow
from service.db import Base, reading, transaction
from service.jobs.models import EventRow, JobRow
from service.models.models import ModelRow
from service.projects.models import ProjectRow
from service.retention.service import THINGS_A_STEP, sweep_old
from service.uploads.models import UploadRow
from service.uploads.service import sweep_uploads
from tests.service.claims.conftest import Later, later
from tests.service.jobs.test_create import RESNET8, finish
from tests.service.jobs.test_uses import Things, naming, things
from tests.service.uploads.conftest import bring

__all__ = ["bring", "later", "things"]

DAY = 86_400.0
Age = Callable[[float], None]


@pytest.fixture
def wait(later: Later) -> Age:
    """Lets so many days pass."""
    return lambda days: later(days * DAY)


@pytest.fixture(autouse=True)
def new(things: Things) -> None:
    """Things of tests are as old as the test."""
    with transaction() as session, reading() as other:
        now = other.scalar(select(func.max(JobRow.created_at)))
        for table in (DatasetRow, ModelRow):
            session.execute(update(table).values(created_at=now))


def keep(client: TestClient, **days: float | None) -> None:
    (project,) = [one for one in client.get("/v1/projects").json()["items"] if one["name"] == "default"]
    answer = client.patch(
        f"/v1/projects/{project['id']}", json={f"{name}_retention_days": n for name, n in days.items()}
    )
    assert answer.status_code == 200, answer.text


def count(table: type[Base]) -> int:
    with reading() as session:
        return session.scalars(select(func.count()).select_from(table)).one()


def swept() -> int:
    return sweep_old()


def test_without_a_term_all_is_kept_for_ever(client: TestClient, things: Things, wait: Age) -> None:
    limits = client.get("/v1/usage").json()["limits"]
    assert [limits[f"{name}_retention_days"] for name in ("jobs", "datasets", "models", "uploads")] == [
        None,
        None,
        None,
        7,
    ]
    wait(10_000)
    assert swept() == 0


def test_a_term_is_the_projects_or_else_the_settings(
    client: TestClient, stranger: TestClient, recipe: dict[str, Any], things: Things, wait: Age,
    database_url: str, environment: Callable[..., None],
) -> None:  # fmt: skip
    keep(client, jobs=30)
    theirs = stranger.post("/v1/jobs", json=recipe).json()["id"]
    stranger.post(f"/v1/jobs/{theirs}/cancel")
    environment(database_url=database_url, jobs_retention_days=20, models_retention_days=50)
    assert client.get("/v1/usage").json()["limits"]["jobs_retention_days"] == 30
    assert stranger.get("/v1/usage").json()["limits"]["jobs_retention_days"] == 20
    wait(25)
    assert swept() == 1
    assert stranger.get(f"/v1/jobs/{theirs}").status_code == 404
    keep(client, jobs=None)
    assert swept() == 1
    assert client.get(f"/v1/jobs/{things['job']}").status_code == 404
    keep(client, jobs=36_500)
    for wrong in (0, -1, 40_000, "long"):
        with pytest.raises(AssertionError, match="422"):
            keep(client, jobs=wrong)  # type: ignore[arg-type]


def test_an_ended_job_goes_with_all_that_it_made(
    client: TestClient, recipe: dict[str, Any], things: Things, wait: Age
) -> None:
    with transaction() as session:  # whose bytes are the job's
        for table in (DatasetRow, ModelRow):
            session.execute(table.__table__.delete())
    waiting = client.post("/v1/jobs", json=recipe).json()["id"]
    keep(client, jobs=10)
    wait(9)
    assert swept() == 0
    wait(2)
    assert swept() == 1
    removal, request = client.get("/v1/audit").json()["items"][:2]
    told = {"method": "retention", "route": "/v1/jobs/{job_id}", "about": {"job_id": things["job"]}, "status": 204}
    assert removal | told | {"key_id": None, "project_id": request["project_id"]} == removal
    assert client.get(f"/v1/jobs/{things['job']}").status_code == 404
    assert client.get(f"/v1/jobs/{waiting}").json()["state"] == "queued"
    assert (count(JobRow), count(ArtifactRow), count(EventRow)) == (1, 0, 1)
    assert sweep(3600) == 2
    assert count(BlobRow) == 0
    assert client.get("/v1/usage").json()["used"]["stored_bytes"] == 0


@pytest.mark.parametrize("kind", ["dataset", "model", "job"])
def test_what_a_job_uses_is_kept_however_old(
    client: TestClient, recipe: dict[str, Any], things: Things, wait: Age, kind: str
) -> None:
    keep(client, jobs=10, datasets=10, models=10)
    using = client.post("/v1/jobs", json=naming(recipe, things, kind)).json()["id"]
    wait(20)
    assert swept() == 2
    assert client.get(f"/v1/{kind}s/{things[kind]}").status_code == 200
    client.post(f"/v1/jobs/{using}/cancel")
    # A job's term begins when it ends, a data set's and a model's with the end of the last job that used it.
    assert swept() == (1 if kind == "job" else 0)
    wait(11)
    assert swept() == (1 if kind == "job" else 2)
    assert client.get(f"/v1/{kind}s/{things[kind]}").status_code == 404


def test_a_use_makes_data_sets_and_models_young(
    client: TestClient, recipe: dict[str, Any], things: Things, wait: Age
) -> None:
    keep(client, datasets=10, models=10)
    for _ in range(3):
        wait(8)
        for kind in ("dataset", "model"):
            used = client.post("/v1/jobs", json=naming(recipe, things, kind)).json()["id"]
            client.post(f"/v1/jobs/{used}/cancel")
            client.delete(f"/v1/jobs/{used}")  # that it was used is known all the same
        assert swept() == 0
    wait(11)
    assert swept() == 2
    assert (count(DatasetRow), count(ModelRow)) == (0, 0)


def test_a_data_set_that_is_taken_in_stays_until_it_has_failed(
    client: TestClient, bring: Callable[..., dict[str, Any]], things: Things, wait: Age
) -> None:
    keep(client, datasets=10)
    upload = bring(b"an archive")
    made = client.post("/v1/datasets", json={"name": "own", "source": {"upload": upload["id"]}}).json()
    wait(20)
    assert swept() == 1  # the one of before
    client.post(f"/v1/jobs/{made['job_id']}/cancel")
    wait(11)
    assert swept() == 1
    assert client.get(f"/v1/jobs/{made['job_id']}").status_code == 200


def test_an_uploads_term_is_its_projects(client: TestClient, bring: Callable[..., dict[str, Any]], wait: Age) -> None:
    keep(client, uploads=2)
    upload = bring()
    kept = datetime.fromisoformat(upload["expires_at"]) - datetime.fromisoformat(upload["created_at"])
    assert kept.total_seconds() == pytest.approx(2 * DAY, abs=60)
    wait(1.9)
    assert sweep_uploads() == 0
    wait(0.2)
    assert sweep_uploads() == 1
    assert count(UploadRow) == 0


def test_many_go_in_steps_past_those_that_stay(
    client: TestClient, recipe: dict[str, Any], wait: Age, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = [client.post("/v1/jobs", json=recipe).json()["id"] for _ in range(2 * THINGS_A_STEP + 3)]
    for job_id in earlier[1:]:
        client.post(f"/v1/jobs/{job_id}/cancel")
    finish(earlier[0], RESNET8)
    client.post("/v1/jobs", json=naming(recipe, {"job": earlier[0], "dataset": "", "model": ""}, "job"))
    keep(client, jobs=1)
    wait(2)
    monkeypatch.setattr("service.retention.service.THINGS_A_SWEEP", THINGS_A_STEP + 1)
    # With the one of the fixture, without the one that is used.
    assert [swept() for _ in range(3)] == [2 * THINGS_A_STEP, 3, 0]
    assert client.get(f"/v1/jobs/{earlier[0]}").status_code == 200
    with reading() as session:
        assert session.scalars(select(ProjectRow.jobs_retention_days).where(ProjectRow.name == "default")).one() == 1
