"""Creating and validating jobs: what is stored, and one clear sentence for each way to be wrong."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from retort.architectures import CARDS
from retort.recipe import Recipe
from service.artifacts.repository import add_artifact
from service.blobs.repository import commit_blob, write_blob
from service.db import database_now, reading, transaction
from service.jobs.models import JobRow, JobTagRow, State
from tests.service.conftest import bearing, on_sqlite

Environment = Callable[..., None]


def count(table: type) -> int:
    with reading() as session:
        return session.scalars(select(func.count()).select_from(table)).one()


def test_a_job_is_stored_as_it_was_resolved(client: TestClient, recipe: dict[str, Any]) -> None:
    answer = client.post("/v1/jobs", json={**recipe, "name": "first", "tags": ["b", "a"], "priority": 3})
    job = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert (job["name"], job["tags"], job["priority"]) == ("first", ["b", "a"], 3)
    assert (job["state"], job["wanted"], job["terminal"], job["attempt"]) == ("queued", "run", False, 0)
    assert job["kind"] == "distill"
    assert (job["started_at"], job["ended_at"], job["error"], job["progress"], job["phase"]) == (None,) * 5
    (student,) = job["spec"]["students"]
    assert student["methods"] == [{"name": "kd", "temperature": 4.0, "weight": 0.9, "teacher_top": None}]
    assert student["labels"]["weight"] == 0.1
    assert job["spec"]["training"]["optimizer"]["learning_rate"] == 0.05
    assert "student" not in job["spec"]
    assert Recipe.model_validate(job["spec"]).model_dump(mode="json") == job["spec"]
    assert client.get(answer.headers["Location"]).json()["spec"] == job["spec"]
    (event,) = client.get(job["links"]["events"]).json()["items"]
    assert (event["number"], event["kind"], event["attempt"]) == (1, "created", 0)
    assert count(JobTagRow) == 2


def test_ids_sort_by_time(client: TestClient, recipe: dict[str, Any]) -> None:
    ids = [client.post("/v1/jobs", json=recipe).json()["id"] for _ in range(3)]
    assert ids == sorted(ids)
    assert {len(each) for each in ids} == {len("job_") + 26}


def test_a_stored_recipe_stays_readable_when_fields_have_changed(client: TestClient, recipe: dict[str, Any]) -> None:
    job_id = client.post("/v1/jobs", json=recipe).json()["id"]
    old = {"recipe_version": 1, "students": [{"name": "student", "methods": [{"name": "gone", "field": 1}]}]}
    with transaction() as session:
        session.execute(update(JobRow).values(spec=old))
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["spec"], job["tags"]) == (old, [])
    assert client.get("/v1/jobs").json()["items"][0]["id"] == job_id


# Bad input

WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown field": ({"trainin": {}}, "/trainin", "the body has no field 'trainin'; did you mean 'training'?"),
    "unknown field of a method": (
        {"methods": [{"name": "kd", "temperatur": 1}]},
        "/methods/0/temperatur",
        "methods[0] has no field 'temperatur'; did you mean 'temperature'?",
    ),
    "temperature": (
        {"methods": [{"name": "kd", "temperature": -1}]},
        "/methods/0/temperature",
        "methods[0].temperature is -1; wanted more than 0",
    ),
    "method": (
        {"methods": [{"name": "kdd"}]},
        "/methods/0/name",
        "methods[0].name is 'kdd', which does not exist; did you mean 'kd'?",
    ),
    "data set": (
        {"dataset": {"name": "digit"}},
        "/dataset/name",
        "dataset.name is 'digit', which does not exist; did you mean 'digits'?",
    ),
    "export": (
        {"exports": [{"name": "onxx"}]},
        "/exports/0/name",
        "exports[0].name is 'onxx', which does not exist; did you mean 'onnx'?",
    ),
    "architecture": (
        {"student": {"architecture": "resnet9"}},
        "/student/architecture",
        "student.architecture: no architecture 'resnet9'; did you mean 'resnet8'?",
    ),
    "epochs": ({"training": {"epochs": 0}}, "/training/epochs", "training.epochs is 0; wanted at least 1"),
    "warm-up": (
        {"training": {"epochs": 5, "warmup_epochs": 5}},
        "/training/warmup_epochs",
        "training: warmup_epochs is 5; it must be less than epochs, which is 5",
    ),
    "names": (
        {"student": None, "methods": None, "students": [{"architecture": "resnet8"}] * 2},
        "/students",
        "two students are named 'student'; names must differ",
    ),
    "in a list of students": (
        {
            "student": None,
            "methods": None,
            "students": [{"architecture": "resnet8", "methods": [{"name": "kd", "temperature": -1}]}],
        },
        "/students/0/methods/0/temperature",
        "students[0].methods[0].temperature is -1; wanted more than 0",
    ),
    "no teacher": (
        {"teacher": None},
        "/teacher",
        "method kd of student 'student' needs a teacher; teacher is null",
    ),
    "nothing to train by": (
        {"teacher": None, "methods": [], "student": {"architecture": "resnet8", "labels": {"weight": 0}}},
        "/student/labels/weight",
        "student 'student' has no methods and a label weight of 0: nothing would train it",
    ),
    "missing data set": ({"dataset": None}, "/dataset", "dataset is null; wanted an object"),
    "a folder where none is allowed": (
        {"dataset": {"name": "image_folder", "path": "/etc"}},
        "/dataset",
        "the folder '/etc' is not allowed: this server allows no local folders; "
        "its operator names them in RETORT_DATA_ROOTS",
    ),
    "weights of no job": (
        {"student": {"architecture": "resnet8", "weights": {"job": "job_0", "network": "student"}}},
        "/student/weights/job",
        "there is no job 'job_0'",
    ),
    "weights of no form": (
        {"student": {"architecture": "resnet8", "weights": "mine"}},
        "/student/weights",
        "student.weights is 'mine'; wanted 'published' or an object",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
@on_sqlite
def test_bad_input_is_refused_in_one_sentence(client: TestClient, recipe: dict[str, Any], wrong: str) -> None:
    change, pointer, detail = WRONG[wrong]
    body = {
        name: value
        for name, value in {**recipe, **change}.items()
        if value is not None or name in ("teacher", "dataset")
    }
    answer = client.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)
    assert [(e["pointer"], e["detail"]) for e in answer.json()["errors"]] == [(pointer, detail)]
    assert count(JobRow) == 0
    validated = client.post("/v1/jobs/validate", json=body)
    assert validated.status_code == 200
    assert validated.json()["valid"] is False
    assert validated.json()["problems"] == answer.json()["errors"]
    assert validated.json()["resolved"] is None


def test_a_folder_outside_the_allowed_roots(
    client: TestClient, database_url: str, environment: Environment, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    root = tmp_path / "photos"
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for i in range(4):
            (root / label / f"{i}.jpg").write_bytes(b"\xff\xd8")
    (root / "way-out").symlink_to("/etc")
    environment(database_url=database_url, data_roots=root)
    for path in ("/etc", f"{root}/../..", f"{root}/way-out", f"{root}s"):
        answer = client.post("/v1/jobs", json={**recipe, "dataset": {"name": "image_folder", "path": path}})
        assert answer.status_code == 422
        assert answer.json()["detail"] == (
            f"the folder {path!r} lies outside the folders that this server allows: {root}"
        )
    for path in (f"{root}/nothing", f"{root}/{'x' * 300}"):
        answer = client.post("/v1/jobs", json={**recipe, "dataset": {"name": "image_folder", "path": path}})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/dataset")
    (root / "way-out").unlink()
    good = {**recipe, "dataset": {"name": "image_folder", "path": str(root), "image_size": 8}}
    facts = client.post("/v1/jobs/validate", json=good).json()["facts"]
    assert (facts["class_names"], facts["train"]) == (["cat", "dog"], 4)


def test_a_pair_that_a_method_cannot_serve(client: TestClient, recipe: dict[str, Any]) -> None:
    headless = next(name for name, card in CARDS.items() if card.head == "other")
    body = {**recipe, "student": {"architecture": headless}, "methods": [{"name": "kd"}, {"name": "nckd"}]}
    body["dataset"] = {"name": "digits"}
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    errors = {error["pointer"]: error["detail"] for error in answer.json()["errors"]}
    assert errors["/methods/1"] == (
        f"nckd: the student {headless} has no linear classifier on an embedding, which class prototypes need"
    )


def test_label_weights_that_disagree(client: TestClient, recipe: dict[str, Any]) -> None:
    answer = client.post("/v1/jobs", json={**recipe, "methods": [{"name": "kd"}, {"name": "r2kd"}]})
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "/student/labels/weight"
    assert error["detail"] == (
        "the methods of student 'student' were published with different label weights (kd 0.1, r2kd 1); "
        "give labels.weight as a number"
    )


@on_sqlite
def test_many_wrong_students_cost_nothing(client: TestClient, recipe: dict[str, Any]) -> None:
    """Each name that does not exist is compared with a thousand that do, so a long list is refused by its length."""
    body = {"dataset": recipe["dataset"], "students": [{"architecture": f"resnet{i}x"} for i in range(2000)]}
    began = time.process_time()
    for address in ("/v1/jobs", "/v1/jobs/validate"):
        answer = client.post(address, json=body).json()
        (error,) = answer["errors"] if "errors" in answer else answer["problems"]
        assert (error["pointer"], error["detail"]) == (
            "/students",
            "students is a list of 2000; wanted at most 64 entries",
        )
    assert time.process_time() - began < 2


@on_sqlite
def test_validate_lists_as_many_problems_as_a_refusal(client: TestClient, recipe: dict[str, Any]) -> None:
    body = {**recipe, **{f"x{i}": i for i in range(1000)}}
    assert len(client.post("/v1/jobs/validate", json=body).json()["problems"]) == 100


# Validate


def test_validate_resolves_warns_and_queues_nothing(client: TestClient, recipe: dict[str, Any]) -> None:
    body = {**recipe, "student": {"architecture": "resnet56"}, "baseline": True}
    answer = client.post("/v1/jobs/validate", json=body)
    said = answer.json()
    assert (answer.status_code, said["valid"], said["problems"]) == (200, True, [])
    (warning,) = said["warnings"]
    assert warning.startswith("student 'student' (resnet56, ")
    assert "is larger than its teacher (resnet20, " in warning
    assert said["sharing"] == [["student", "baseline"]]
    assert [student["name"] for student in said["resolved"]["students"]] == ["student", "baseline"]
    assert (said["facts"]["classes"], said["facts"]["test"]) == (10, 360)
    assert count(JobRow) == 0
    assert client.post("/v1/jobs", json=body).json()["spec"] == said["resolved"]


@on_sqlite
def test_validate_says_all_that_is_wrong(client: TestClient, recipe: dict[str, Any]) -> None:
    body = {
        **recipe,
        "methods": [{"name": "kd", "temperature": -1}, {"name": "nckdd"}],
        "training": {"epochs": 0, "batch_size": "many"},
        "colour": "red",
    }
    problems = client.post("/v1/jobs/validate", json=body).json()["problems"]
    assert {problem["pointer"] for problem in problems} == {
        "/methods/0/temperature",
        "/methods/1/name",
        "/training/epochs",
        "/training/batch_size",
        "/colour",
    }


def test_a_protocol_is_stored_as_what_it_sets(client: TestClient, recipe: dict[str, Any]) -> None:
    teacher = {"architecture": "resnet20", "teach": {}}
    body = {**recipe, "protocol": "cifar100", "teacher": teacher, "training": {"epochs": 250}}
    resolved = client.post("/v1/jobs/validate", json=body).json()["resolved"]
    assert "protocol" not in resolved
    assert (resolved["training"]["epochs"], resolved["evaluation"]["ship"]) == (250, "last")
    assert resolved["teacher"]["teach"]["epochs"] == 240
    assert resolved["training"]["schedule"] == {"name": "steps", "milestones": [150, 180, 210], "factor": 0.1}
    assert client.post("/v1/jobs", json=body).json()["spec"] == resolved
    named = {"small": "torchvision.mobilenet_v2", "other": "resnet8"}
    two = [{"name": name, "architecture": architecture} for name, architecture in named.items()]
    mixed = {"dataset": recipe["dataset"], "protocol": "cifar100", "students": two}
    (problem,) = client.post("/v1/jobs/validate", json=mixed).json()["problems"]
    assert problem["pointer"] == "/training/optimizer/learning_rate"
    assert "torchvision.mobilenet_v2 at 0.01, resnet8 at 0.05; give" in problem["detail"]


def test_validate_tells_problems_of_meaning_together(client: TestClient, recipe: dict[str, Any]) -> None:
    body = {
        **recipe,
        "dataset": {"name": "image_folder", "path": "/etc"},
        "methods": [{"name": "kd"}, {"name": "r2kd"}],
        "teacher": {"architecture": "resnet20", "weights": {"job": "job_0", "network": "teacher"}},
    }
    problems = client.post("/v1/jobs/validate", json=body).json()["problems"]
    assert {problem["pointer"] for problem in problems} == {
        "/dataset",
        "/student/labels/weight",
        "/teacher/weights/job",
    }


def test_validate_of_what_is_not_json_is_an_error(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    assert client.post("/v1/jobs/validate", content=b"{", headers=headers).status_code == 400
    assert client.post("/v1/jobs/validate", json=[]).json()["problems"][0]["detail"] == (
        "the body is a list of 0; wanted an object"
    )


# Idempotency


def test_a_repeated_create_gives_the_same_job(client: TestClient, recipe: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "one"}
    first = client.post("/v1/jobs", json=recipe, headers=headers)
    other_spelling = json.dumps(dict(reversed(recipe.items())), indent=3)
    again = client.post("/v1/jobs", content=other_spelling, headers={**headers, "Content-Type": "application/json"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert count(JobRow) == 1
    assert len(client.get(first.json()["links"]["events"]).json()["items"]) == 1


def test_a_repeated_create_with_another_body_is_refused(client: TestClient, recipe: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "one"}
    first = client.post("/v1/jobs", json=recipe, headers=headers).json()
    answer = client.post("/v1/jobs", json={**recipe, "name": "other"}, headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (
        422,
        f"the idempotency key 'one' has made job {first['id']} of another body; wanted a new key",
    )
    assert answer.json()["errors"][0]["parameter"] == "Idempotency-Key"
    assert count(JobRow) == 1


def test_a_repeated_create_gives_the_job_though_the_data_have_gone(
    client: TestClient, database_url: str, environment: Environment, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "photos" / label / f"{i}.jpg").write_bytes(b"\xff\xd8")
    environment(database_url=database_url, data_roots=tmp_path)
    path = str(tmp_path / "photos")
    body = {**recipe, "dataset": {"name": "image_folder", "path": path, "image_size": 32}}
    first = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "one"})
    assert first.status_code == 201
    environment(database_url=database_url, data_roots="")
    again = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "one"})
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    assert client.post("/v1/jobs", json=body).status_code == 422


def test_keys_of_projects_do_not_meet(client: TestClient, stranger: TestClient, recipe: dict[str, Any]) -> None:
    made = [c.post("/v1/jobs", json=recipe, headers={"Idempotency-Key": "one"}) for c in (client, stranger)]
    assert [answer.status_code for answer in made] == [201, 201]
    assert made[0].json()["id"] != made[1].json()["id"]


def test_creates_at_once_with_one_key_give_one_job(key: str, recipe: dict[str, Any]) -> None:
    def create(_: int) -> Any:
        return bearing(key).post("/v1/jobs", json=recipe, headers={"Idempotency-Key": "one"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(create, range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert count(JobRow) == 1


@pytest.mark.parametrize("idempotency_key", ["", "x" * 201])
@on_sqlite
def test_an_idempotency_key_has_a_length(client: TestClient, recipe: dict[str, Any], idempotency_key: str) -> None:
    answer = client.post("/v1/jobs", json=recipe, headers={"Idempotency-Key": idempotency_key})
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "Idempotency-Key")


# Weights of earlier jobs


def finish(
    job_id: str, description: dict[str, Any] | None, suffixes: tuple[str, ...] = ("safetensors", "json")
) -> None:
    """Let a job have succeeded and have left a network `student`."""
    with transaction() as session:
        session.execute(
            update(JobRow).where(JobRow.id == job_id).values(state=State.succeeded, ended_at=database_now())
        )
    for suffix in suffixes if description else ():
        content = json.dumps(description).encode() if suffix == "json" else b"weights"
        written = write_blob(io.BytesIO(content))
        with transaction() as session:
            blob_id = commit_blob(session, written)
            add_artifact(
                session, job_id, name=f"student.{suffix}", network="student", media_type="x/y", blob_id=blob_id
            )


RESNET8 = {"architecture": "resnet8", "classes": 10, "class_names": [*"0123456789"]}


def test_a_student_may_start_from_an_earlier_jobs_network(client: TestClient, recipe: dict[str, Any]) -> None:
    earlier = client.post("/v1/jobs", json=recipe).json()["id"]
    recipe["student"]["weights"] = {"job": earlier, "network": "student"}
    answer = client.post("/v1/jobs", json=recipe)
    assert answer.json()["errors"] == [
        {
            "pointer": "/student/weights/job",
            "detail": f"job {earlier} is queued; its networks can be used once it has succeeded",
        }
    ]
    finish(earlier, RESNET8)
    answer = client.post("/v1/jobs", json=recipe)
    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"]["students"][0]["weights"] == {"job": earlier, "network": "student"}


@pytest.mark.parametrize(
    ("description", "suffixes", "network", "pointer", "detail"),
    [
        (
            RESNET8, ("safetensors", "json"), "studnet", "/network",
            "job {} left no weights of a network 'studnet'; did you mean 'student'?",
        ),
        (
            RESNET8, ("onnx", "json"), "student", "/network",
            "job {} left no weights of a network 'student'; its exports hold no safetensors",
        ),
        (
            {**RESNET8, "architecture": "resnet20"}, ("safetensors", "json"), "student", "",
            "network 'student' of job {} is a resnet20; resnet8 is wanted here",
        ),
        (
            {**RESNET8, "classes": 5, "class_names": [*"01234"]}, ("safetensors", "json"), "student", "",
            "network 'student' of job {} gives 5 classes; the data set has 10",
        ),
        (
            {**RESNET8, "wrapper": {"method": "nckd", "fields": {}}}, ("safetensors", "json"), "student", "",
            "the head of network 'student' of job {} was replaced by the method nckd; a network as its architecture "
            "gives it is wanted here",
        ),
    ],
)  # fmt: skip
def test_networks_that_do_not_fit(
    client: TestClient, recipe: dict[str, Any], description: dict[str, Any], suffixes: tuple[str, ...],
    network: str, pointer: str, detail: str,
) -> None:  # fmt: skip
    earlier = client.post("/v1/jobs", json=recipe).json()["id"]
    finish(earlier, description, suffixes)
    recipe["student"]["weights"] = {"job": earlier, "network": network}
    answer = client.post("/v1/jobs", json={**recipe, "baseline": True})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": f"/student/weights{pointer}", "detail": detail.format(earlier)}]


def test_another_projects_job_reads_like_an_unknown_one(
    client: TestClient, stranger: TestClient, recipe: dict[str, Any]
) -> None:
    theirs = stranger.post("/v1/jobs", json=recipe).json()["id"]
    finish(theirs, RESNET8)
    recipe["student"]["weights"] = {"job": theirs, "network": "student"}
    answer = client.post("/v1/jobs", json=recipe)
    assert answer.json()["detail"] == f"there is no job '{theirs}'"
