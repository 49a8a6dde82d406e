"""Data sets of users over HTTP: made by a job, named by recipes, deleted; and another project's do not exist."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from retort.ingest import ARCHIVE
from service.blobs.models import BlobRow
from service.blobs.repository import sweep, write_blob
from service.claims.records import InvalidRecord
from service.claims.service import NewArtifact, Trouble, fail, succeed
from service.db import reading, transaction
from service.jobs.models import JobRow
from service.kinds import EFFECTS
from tests.service.conftest import on_sqlite
from tests.service.datasets.taking import FACTS, REPORT, finish, take
from tests.service.uploads.conftest import begin

Environment = Callable[..., None]


@pytest.fixture
def root(database_url: str, database: str, environment: Environment, tmp_path: Path) -> Path:
    """A folder that the service allows."""
    folder = tmp_path / "data"
    (folder / "flowers").mkdir(parents=True)
    environment(database_url=database_url, data_roots=str(folder))
    return folder


@pytest.fixture
def spec(root: Path) -> dict[str, Any]:
    return {"name": "flowers", "source": {"folder": str(root / "flowers")}}


def make(client: TestClient, spec: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer = client.post(
        "/v1/datasets", json=spec, headers={name.replace("_", "-"): said for name, said in headers.items()}
    )
    assert answer.status_code == 202, answer.text
    return answer.json()


def ready(client: TestClient, spec: dict[str, Any], archive: bytes = b"archive") -> dict[str, Any]:
    made = make(client, spec)
    finish(take(), archive)
    return client.get(made["links"]["self"]).json()


def naming(recipe: dict[str, Any], dataset_id: str, **fields: Any) -> dict[str, Any]:
    return {**recipe, "dataset": {"name": "stored", "dataset": dataset_id, **fields}}


def blobs() -> int:
    with reading() as session:
        return session.scalars(select(func.count()).select_from(BlobRow)).one()


def test_a_data_set_is_made_by_a_job(client: TestClient, spec: dict[str, Any]) -> None:
    answer = client.post("/v1/datasets", json=spec)
    made = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/v1/datasets/{made['id']}")
    assert made["id"].startswith("dataset_")
    assert (made["name"], made["state"], made["digest"], made["facts"]) == ("flowers", "ingesting", None, None)
    assert made["error"] == f"it is still being taken in by job {made['job_id']}"
    job = client.get(made["links"]["job"]).json()
    assert (job["kind"], job["name"], job["state"], job["id"]) == ("ingest", "flowers", "queued", made["job_id"])
    assert job["spec"]["source"] == {"upload": None, "folder": spec["source"]["folder"]}
    assert job["spec"]["limits"] == {"broken": 0, "missing": 0, "files": 1_500_000}
    assert job["spec"]["deadline"] == {"seconds": 21600.0, "then": "fail"}
    taken = take()
    assert (taken.kind, taken.job_id) == ("ingest", job["id"])
    assert client.get(made["links"]["self"]).json()["state"] == "ingesting"
    finish(taken)
    done = client.get(made["links"]["self"]).json()
    assert (done["state"], done["error"], done["size"]) == ("ready", None, 7)
    assert done["digest"] == hashlib.sha256(b"archive").hexdigest()
    assert (done["facts"], done["report"]) == (FACTS, REPORT)
    names = {artifact["name"] for artifact in client.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"]}
    assert names == {"dataset.tar", "report.json", "thumbnails.jpg"}
    assert client.get(f"/v1/jobs/{job['id']}/artifacts/dataset.tar").content == b"archive"


def test_thumbnails_are_reached_from_the_data_set(client: TestClient, spec: dict[str, Any]) -> None:
    made = make(client, spec)
    assert made["links"]["thumbnails"] is None
    finish(take())
    done = client.get(made["links"]["self"]).json()
    assert done["links"]["thumbnails"] == f"/v1/jobs/{made['job_id']}/artifacts/thumbnails.jpg"
    sheet = client.get(done["links"]["thumbnails"])
    assert (sheet.content, sheet.headers["Content-Type"]) == (b"a sheet", "image/jpeg")
    client.delete(done["links"]["job"])
    assert client.get(made["links"]["self"]).json()["links"]["thumbnails"] is None


@on_sqlite
def test_a_data_set_of_before_there_were_thumbnails_has_none(client: TestClient, spec: dict[str, Any]) -> None:
    made = make(client, spec)
    finish(take(), report={"warnings": []})
    assert client.get(made["links"]["self"]).json()["links"]["thumbnails"] is None


def test_a_job_that_does_not_succeed_leaves_a_data_set_that_says_why(client: TestClient, spec: dict[str, Any]) -> None:
    failed, cancelled, deleted = (make(client, spec) for _ in range(3))
    for made in (cancelled, deleted):
        client.post(f"/v1/jobs/{made['job_id']}/cancel")
    with transaction() as session:
        fail(session, take_this(failed["job_id"]), Trouble("spec", "impossible", "3 of 9 images cannot be read"))
    assert client.delete(f"/v1/jobs/{deleted['job_id']}").status_code == 204
    told = [client.get(made["links"]["self"]).json() for made in (failed, cancelled, deleted)]
    assert [one["state"] for one in told] == ["failed"] * 3
    assert [one["error"] for one in told] == [
        f"its job {failed['job_id']} failed: 3 of 9 images cannot be read",
        f"its job {cancelled['job_id']} was cancelled",
        "its job was deleted before it was taken in",
    ]
    assert (told[2]["job_id"], told[2]["links"]["job"]) == (None, None)
    for made in (failed, cancelled, deleted):
        assert client.delete(made["links"]["self"]).status_code == 204


def take_this(job_id: str) -> Any:
    taken = take()
    assert taken.job_id == job_id
    return taken


def test_lists_are_paged_newest_first(client: TestClient, spec: dict[str, Any]) -> None:
    made = [make(client, {**spec, "name": str(i)})["id"] for i in range(3)]
    first = client.get("/v1/datasets?limit=2").json()
    second = client.get(f"/v1/datasets?limit=2&cursor={first['next_cursor']}").json()
    assert [one["id"] for one in first["items"] + second["items"]] == made[::-1]
    assert second["next_cursor"] is None
    assert "report" not in first["items"][0]
    assert {one["kind"] for one in client.get("/v1/jobs?kind=ingest").json()["items"]} == {"ingest"}
    assert client.get("/v1/jobs?kind=distill").json()["items"] == []


def test_the_built_in_ones_stay_where_they_were(client: TestClient) -> None:
    names = [entry["name"] for entry in client.get("/v1/datasets/builtin").json()["items"]]
    assert {"digits", "image_folder", "stored"} <= set(names)


# Idempotency


def test_a_repeated_create_gives_the_same_data_set(client: TestClient, spec: dict[str, Any], root: Path) -> None:
    first = make(client, spec, Idempotency_Key="k")
    (root / "flowers").rmdir()  # what was right when it was sent
    again = client.post("/v1/datasets", json=spec, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.headers["Idempotent-Replayed"], again.json()) == (202, "true", first)
    other = client.post("/v1/datasets", json={**spec, "name": "other"}, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["errors"][0]["parameter"]) == (422, "Idempotency-Key")
    assert len(client.get("/v1/jobs").json()["items"]) == 1


def test_a_key_that_made_a_recipes_job_makes_no_data_set(
    client: TestClient, spec: dict[str, Any], recipe: dict[str, Any]
) -> None:
    job_id = client.post("/v1/jobs", json=recipe, headers={"Idempotency-Key": "k"}).json()["id"]
    answer = client.post("/v1/datasets", json=spec, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 422
    assert f"'k' has made job {job_id} of another body" in answer.json()["detail"]


def test_a_key_whose_data_set_was_deleted_is_told_so(client: TestClient, spec: dict[str, Any]) -> None:
    made = make(client, spec, Idempotency_Key="k")
    finish(take())
    client.delete(made["links"]["self"])
    answer = client.post("/v1/datasets", json=spec, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 422
    assert answer.json()["detail"] == "the data set that the idempotency key 'k' made was deleted; wanted a new key"


# Wrong input


@pytest.mark.parametrize(
    ("change", "pointer", "said"),
    [
        ({"name": ""}, "/name", "name is ''; wanted at least 1 characters"),
        ({"source": {}}, "/source", "source: neither upload nor folder is given; wanted one of them"),
        (
            {"source": {"upload": "upload_1", "folder": "/x"}},
            "/source",
            "source: both upload and folder are given; wanted one of them",
        ),
        ({"source": {"folder": "/etc"}}, "/source/folder", "the folder '/etc' lies outside the folders that this"),
        ({"source": {"upload": "../x"}}, "/source/upload", "source.upload is '../x'; wanted text that matches"),
        ({"splits": {"test_share": 0.5}}, "/splits/test_share", "splits.test_share is 0.5; wanted less than 0.5"),
        ({"limits": {"files": 1_500_001}}, "/limits/files", "1,500,001 files are more than the 1,500,000 that"),
        ({"layout": "guess"}, "/layout", "layout is 'guess'; wanted"),
        ({"encoding": "utf-7"}, "/encoding", "encoding is 'utf-7'; wanted"),
        ({"encoding": "rot13"}, "/encoding", "encoding is 'rot13'; wanted"),
        ({"classes": ["one"]}, "", "classes has one name; wanted at least two, each once, or none"),
        (
            {"splits": {"names": {"train": ["a"], "test": ["a"]}}},
            "/splits/names",
            "splits.names: the name 'a' stands twice",
        ),
        ({"limits": {"broken": -1}}, "/limits/broken", "limits.broken is -1; wanted at least 0"),
        ({"background": [0, 0, 256]}, "/background/2", "background[2] is 256; wanted at most 255"),
        ({"size": 224}, "/size", "the body has no field 'size'"),
        ({"deadline": {"seconds": 0}}, "/deadline/seconds", "deadline.seconds is 0; wanted more than 0"),
    ],
)  # fmt: skip
@on_sqlite
def test_bad_input_is_refused_in_one_sentence(
    client: TestClient, spec: dict[str, Any], change: dict[str, Any], pointer: str, said: str
) -> None:
    answer = client.post("/v1/datasets", json={**spec, **change})
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert error["detail"].startswith(said)
    assert client.get("/v1/jobs").json()["items"] == []


@on_sqlite
def test_a_folder_that_is_none_is_told(client: TestClient, root: Path) -> None:
    missing = str(root / "missing")
    answer = client.post("/v1/datasets", json={"name": "x", "source": {"folder": missing}})
    assert answer.json()["detail"] == f"{missing!r} is not a folder"


# Recipes


def test_a_recipe_may_name_it_once_it_is_ready(
    client: TestClient, spec: dict[str, Any], recipe: dict[str, Any]
) -> None:
    made = make(client, spec)
    early = client.post("/v1/jobs/validate", json=naming(recipe, made["id"])).json()
    assert [problem["detail"] for problem in early["problems"]] == [
        f"data set {made['id']} cannot be used: it is still being taken in by job {made['job_id']}"
    ]
    finish(take())
    told = client.post("/v1/jobs/validate", json=naming(recipe, made["id"])).json()
    assert (told["valid"], told["facts"]) == (True, FACTS)
    other = client.post("/v1/jobs/validate", json=naming(recipe, made["id"], image_size=64)).json()
    assert (other["facts"]["image_size"], other["facts"]["mean"]) == (64, None)
    assert client.post("/v1/jobs", json=naming(recipe, made["id"])).status_code == 201


def test_one_that_does_not_exist_or_failed_is_told(
    client: TestClient, spec: dict[str, Any], recipe: dict[str, Any]
) -> None:
    answer = client.post("/v1/jobs", json=naming(recipe, "dataset_1"))
    assert (answer.status_code, answer.json()["detail"]) == (422, "there is no data set 'dataset_1'")
    assert answer.json()["errors"][0]["pointer"] == "/dataset"
    made = make(client, spec)
    client.post(f"/v1/jobs/{made['job_id']}/cancel")
    answer = client.post("/v1/jobs", json=naming(recipe, made["id"]))
    assert answer.json()["detail"] == f"data set {made['id']} cannot be used: its job {made['job_id']} was cancelled"


# Other projects


def test_another_projects_data_set_does_not_exist(
    client: TestClient, stranger: TestClient, spec: dict[str, Any], recipe: dict[str, Any]
) -> None:
    mine = ready(client, spec)
    address = mine["links"]["self"]
    unknown = stranger.get("/v1/datasets/dataset_1").json()
    for answer in (stranger.get(address), stranger.delete(address)):
        assert answer.status_code == 404
        assert answer.json()["detail"] == unknown["detail"].replace("dataset_1", mine["id"])
    assert stranger.get("/v1/datasets").json()["items"] == []
    told = stranger.post("/v1/jobs/validate", json=naming(recipe, mine["id"])).json()
    assert [problem["detail"] for problem in told["problems"]] == [f"there is no data set {mine['id']!r}"]
    assert stranger.get(mine["links"]["job"]).status_code == 404
    theirs = make(stranger, spec, Idempotency_Key="k")
    assert make(client, spec, Idempotency_Key="k")["id"] != theirs["id"]


# Delete


def test_what_is_made_or_used_is_not_deleted(client: TestClient, spec: dict[str, Any], recipe: dict[str, Any]) -> None:
    made = make(client, spec)
    answer = client.delete(made["links"]["self"])
    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        f"data set {made['id']} is being taken in by job {made['job_id']}, so cancel that first",
    )
    finish(take())
    job_id = client.post("/v1/jobs", json=naming(recipe, made["id"])).json()["id"]
    client.post("/v1/jobs", json=recipe)  # which uses another
    answer = client.delete(made["links"]["self"])
    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        f"data set {made['id']} is used by jobs that have not ended ({job_id}), so cancel them first",
    )
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert client.delete(made["links"]["self"]).status_code == 204
    assert client.get(made["links"]["self"]).status_code == 404


def test_its_bytes_go_with_it_and_are_swept_no_sooner(client: TestClient, spec: dict[str, Any]) -> None:
    one, same = ready(client, spec, b"shared"), ready(client, spec, b"shared")
    assert one["digest"] == same["digest"]
    for made in (one, same):
        assert client.delete(made["links"]["job"]).status_code == 204
    sweep(0)
    assert blobs() == 1  # the archive of both; the reports went with the jobs
    used = client.get("/v1/usage").json()["used"]["stored_bytes"]
    assert used == len(b"shared")
    client.delete(one["links"]["self"])
    assert blobs() == 1
    client.delete(same["links"]["self"])
    assert blobs() == 0


def test_a_deleted_data_sets_archive_is_no_artifact_of_its_job_any_more(
    client: TestClient, spec: dict[str, Any]
) -> None:
    made = ready(client, spec)
    client.delete(made["links"]["self"])
    names = [artifact["name"] for artifact in client.get(f"/v1/jobs/{made['job_id']}/artifacts").json()["items"]]
    assert names == ["report.json", "thumbnails.jpg"]


# Uploads


def test_an_upload_becomes_a_data_set(client: TestClient, bring: Callable[..., dict[str, Any]]) -> None:
    upload = bring(b"an archive", name="flowers.tar")
    made = make(client, {"name": "flowers", "source": {"upload": upload["id"]}})
    assert made["source"] == {"upload": upload["id"], "folder": None}
    with reading() as session:
        job = session.get_one(JobRow, made["job_id"])
    assert job.needs_disk_bytes == 3 * len(b"an archive")
    finish(take())
    assert client.delete(f"/v1/uploads/{upload['id']}").status_code == 204
    assert client.get(made["links"]["self"]).json()["state"] == "ready"


def test_a_layout_that_was_not_clear_is_settled_with_the_same_upload(
    client: TestClient, bring: Callable[..., dict[str, Any]]
) -> None:
    upload = bring(b"an archive", name="flowers.tar")
    spec = {"name": "flowers", "source": {"upload": upload["id"]}}
    failed = make(client, spec)
    with transaction() as session:
        fail(
            session, take_this(failed["job_id"]), Trouble("spec", "impossible", "the classes may be ...; `layout` ...")
        )
    assert "`layout`" in client.get(failed["links"]["self"]).json()["error"]
    settled = {"layout": "inner_folders", "encoding": "GBK", "classes": ["poppy", "aster"],
               "splits": {"names": {"test": ["fold5"]}}, "columns": {"label": "2"}, "lists": ["l.csv"]}  # fmt: skip
    made = make(client, {**spec, **settled})
    assert (made["source"], made["state"]) == (failed["source"], "ingesting")
    stored = client.get(made["links"]["job"]).json()["spec"]
    assert stored["encoding"] == "gbk"
    assert stored["classes"] == ["poppy", "aster"]
    assert stored["splits"]["names"] == {"train": [], "validation": [], "test": ["fold5"]}
    finish(take_this(made["job_id"]))
    assert client.get(made["links"]["self"]).json()["state"] == "ready"


def test_an_upload_that_is_none_unfinished_a_models_or_anothers_is_told(
    client: TestClient, stranger: TestClient, bring: Callable[..., dict[str, Any]]
) -> None:
    ids = [
        "upload_1",
        begin(client, b"begun")["id"],
        bring(b"a model", kind="model")["id"],
        bring(b"theirs", by=stranger)["id"],
    ]
    for upload_id in ids:
        answer = client.post("/v1/datasets", json={"name": "flowers", "source": {"upload": upload_id}})
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["pointer"] == "/source/upload"
        assert upload_id in error["detail"]
    theirs, none = (
        client.post("/v1/datasets", json={"name": "x", "source": {"upload": each}}).json()["detail"].replace(each, "")
        for each in (ids[3], ids[0])
    )
    assert theirs == none
    assert client.get("/v1/jobs").json()["items"] == []


@on_sqlite
def test_a_report_of_another_form_than_it_must_have_is_not_stored(client: TestClient, spec: dict[str, Any]) -> None:
    """Lists of data sets would answer 500 with it."""
    made = make(client, spec)
    taken = take()
    good = {"facts": FACTS, "report": REPORT}
    wrong: dict[str, dict[str, bytes]] = {
        "no report.json": {ARCHIVE: b"archive"},
        f"no {ARCHIVE}": {"report.json": json.dumps(good).encode()},
        "cannot be read": {ARCHIVE: b"", "report.json": b"[" * 100_000},
        "holds a NUL": {ARCHIVE: b"", "report.json": json.dumps({**good, "report": {"layout": "a\0"}}).encode()},
        "hex escape": {ARCHIVE: b"", "report.json": b'{"facts": {}, "report": {"layout": "\\ud800"}}'},
        "not a JSON object": {ARCHIVE: b"", "report.json": b"[]"},
        "classes": {ARCHIVE: b"", "report.json": json.dumps({**good, "facts": {**FACTS, "classes": "two"}}).encode()},
    }
    for words, files in wrong.items():
        artifacts = [NewArtifact(name, None, "a/b", write_blob(io.BytesIO(content))) for name, content in files.items()]
        with pytest.raises(InvalidRecord, match=words), transaction() as session:
            succeed(session, taken, artifacts, EFFECTS)
    assert client.get(made["links"]["self"]).json()["state"] == "ingesting"
    finish(taken)
    assert client.get("/v1/datasets").json()["items"][0]["state"] == "ready"
