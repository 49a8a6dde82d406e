"""What jobs use stays while they have not ended, and what is gone no new job can name, whoever comes first."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

import service.recipes.service
from retort.recipe import Recipe
from retort.validation import disk_bytes
from service.artifacts.models import ArtifactRow
from service.datasets.models import DatasetRow
from service.db import reading, transaction
from service.jobs.models import JobRow
from service.models.models import ModelRow
from service.uploads.service import sweep_uploads
from tests.service.conftest import bearing
from tests.service.jobs.test_create import RESNET8, finish
from tests.service.uploads.conftest import bring

__all__ = ["bring"]

Things = dict[str, str]
EXPECTS = {"size": 8, "channel_order": "rgb", "range": [0, 1], "mean": [0.3] * 3, "std": [0.4] * 3}
DIGITS = [str(digit) for digit in range(10)]
FACTS = {
    "classes": 10, "class_names": DIGITS, "image_size": 32, "train": 80, "validation": 10, "test": 10,
    "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2],
}  # fmt: skip


@pytest.fixture
def things(client: TestClient, recipe: dict[str, Any]) -> Things:
    """A data set, a model, and a job that left a network, by kind."""
    job_id = client.post("/v1/jobs", json=recipe).json()["id"]
    finish(job_id, RESNET8)
    with reading() as session:
        artifact = session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job_id)).first()
        project_id = session.get_one(JobRow, job_id).project_id
    assert artifact is not None
    held = {"project_id": project_id, "name": "own", "blob_id": artifact.blob_id, "created_at": 0.0}
    with transaction() as session:
        session.add(
            DatasetRow(
                id="dataset_1", source={"upload": "upload_1"}, digest="d", report={}, size=700, facts=FACTS, **held
            )
        )
        session.add(
            ModelRow(id="model_1", form="safetensors", architecture="resnet20", classes=10, expects=EXPECTS, size=40,
                  sha256="s", report={}, **held)
        )  # fmt: skip
    return {"dataset": "dataset_1", "model": "model_1", "job": job_id}


def naming(recipe: dict[str, Any], things: Things, kind: str) -> dict[str, Any]:
    """The recipe with one of the things in it."""
    student = {"architecture": "resnet8", "weights": {"job": things["job"], "network": "student"}}
    changes: dict[str, dict[str, Any]] = {
        "dataset": {"dataset": {"name": "stored", "dataset": things["dataset"]}},
        "model": {"teacher": {"model": things["model"]}},
        "job": {"student": student},
    }
    return {**recipe, **changes[kind]}


def address(things: Things, kind: str) -> str:
    return f"/v1/{kind}s/{things[kind]}"


def used_by(client: TestClient, things: Things, kind: str) -> list[str]:
    """The jobs that a refusal to delete the thing names; none when it was deleted."""
    answer = client.delete(address(things, kind))
    if answer.status_code == 204:
        return []
    assert answer.status_code == 409, answer.text
    before, _, rest = answer.json()["detail"].partition(" is used by jobs that have not ended (")
    assert before == f"{'data set' if kind == 'dataset' else kind} {things[kind]}"
    names, _, after = rest.partition(")")
    assert after == ", so cancel them first"
    return names.split(", ")


@pytest.mark.parametrize("kind", ["dataset", "model", "job"])
def test_what_a_job_uses_is_not_deleted_before_it_has_ended(
    client: TestClient, recipe: dict[str, Any], things: Things, kind: str
) -> None:
    named = naming(recipe, things, kind)
    queued = client.post("/v1/jobs", json=named).json()["id"]
    paused = client.post("/v1/jobs", json={**named, "name": "paused"}).json()["id"]
    client.post(f"/v1/jobs/{paused}/pause")
    estimate = client.post("/v1/jobs/estimate", json=named).json()["id"]
    client.post("/v1/jobs", json={**recipe, "name": f"like {things[kind]}"})  # which uses nothing
    running = [estimate, paused, queued]
    if kind == "model":
        running.append(client.post("/v1/models/model_1/check", json={"dataset": {"name": "digits"}}).json()["id"])
    while running:
        assert used_by(client, things, kind) == sorted(running)
        client.post(f"/v1/jobs/{running.pop()}/cancel")
    assert used_by(client, things, kind) == []
    assert client.get(address(things, kind)).status_code == 404


@pytest.mark.parametrize(
    ("kind", "pointer"), [("dataset", "/dataset"), ("model", "/teacher/model"), ("job", "/student/weights/job")]
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/estimate"])
def test_what_is_deleted_after_it_was_looked_at_is_told_at_once(
    client: TestClient, key: str, recipe: dict[str, Any], things: Things, kind: str, pointer: str, path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real = service.recipes.service.check_recipe

    def check_and_look(project_id: str, body: Any) -> Any:
        found = real(project_id, body)
        assert used_by(bearing(key), things, kind) == []
        return found

    monkeypatch.setattr("service.recipes.service.check_recipe", check_and_look)
    answer = client.post(path, json=naming(recipe, things, kind))
    assert answer.status_code == 422, answer.text
    words = "data set" if kind == "dataset" else kind
    assert answer.json()["errors"] == [{"pointer": pointer, "detail": f"{words} {things[kind]} was deleted"}]


def test_of_who_makes_a_job_and_who_deletes_one_comes_first(key: str, recipe: dict[str, Any], things: Things) -> None:
    named = naming(recipe, things, "dataset")
    row = {"source": {}, "digest": "d", "report": {}, "size": 7, "facts": FACTS, "name": "own", "created_at": 0.0}
    with reading() as session:
        row["project_id"] = session.scalars(select(DatasetRow.project_id)).one()
    with ThreadPoolExecutor(2) as pool:
        for number in range(2, 8):
            mine = {"dataset": f"dataset_{number}", "job": ""}
            with transaction() as session:
                session.add(DatasetRow(id=mine["dataset"], **row))
            named = naming(recipe, {**things, **mine}, "dataset")
            asked: list[Callable[[], Any]] = [
                lambda named=named: bearing(key).post("/v1/jobs", json=named),
                lambda mine=mine: bearing(key).delete(address(mine, "dataset")),
            ]
            made, deleted = [done.result().status_code for done in [pool.submit(ask) for ask in asked]]
            assert (made, deleted) in {(201, 409), (422, 204)}


def test_an_upload_stays_while_its_data_set_is_taken_in(
    client: TestClient, bring: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = bring(b"an archive")
    made = client.post("/v1/datasets", json={"name": "own", "source": {"upload": upload["id"]}}).json()
    assert used_by(client, {"upload": upload["id"]}, "upload") == [made["job_id"]]
    client.post(f"/v1/jobs/{made['job_id']}/pause")
    monkeypatch.setattr("service.db.clock_offset_seconds", 30 * 86_400)
    assert sweep_uploads() == 0
    client.post(f"/v1/jobs/{made['job_id']}/cancel")
    assert sweep_uploads() == 1


def test_a_workers_disk_must_hold_what_is_fetched(client: TestClient, recipe: dict[str, Any], things: Things) -> None:
    named = {**naming(recipe, things, "dataset"), **{"teacher": {"model": things["model"]}}}
    job, estimate = (client.post(path, json=named).json() for path in ("/v1/jobs", "/v1/jobs/estimate"))
    with reading() as session:
        needs = [session.get_one(JobRow, made["id"]).needs_disk_bytes for made in (job, estimate)]
    assert needs == [disk_bytes(Recipe.model_validate(job["spec"])) + 740, 740]


def test_it_is_known_to_the_hour_when_something_was_used_last(
    client: TestClient, recipe: dict[str, Any], things: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for hours in (0.0, 0.9, 1.8):
        monkeypatch.setattr("service.db.clock_offset_seconds", hours * 3600)
        assert client.post("/v1/jobs", json=naming(recipe, things, "dataset")).status_code == 201
        with reading() as session:
            seen.append(session.get_one(DatasetRow, "dataset_1").used_at)
    assert seen[0] == seen[1]
    assert seen[2] == pytest.approx(seen[0] + 1.8 * 3600, abs=60)
