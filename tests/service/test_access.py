"""Who may do what: every endpoint of the OpenAPI page, tried with every kind of wrong key."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from service.access.scopes import PROJECT_SCOPES, Scope
from service.app import create_app
from service.artifacts.repository import add_artifact
from service.blobs.repository import commit_blob, write_blob
from service.db import database_now, transaction
from service.jobs.models import JobRow
from service.keys.models import KeyRow
from service.keys.service import create_local_key
from service.models.models import ModelRow
from tests.service.conftest import RECIPE

OPEN = {"/healthz", "/readyz", "/metrics"}
"""What needs no key, besides /openapi.json and /docs, which the page does not list."""
EVERYBODYS = {"catalogue"}
"""Tags of operations whose answer belongs to no project."""
BODIES: dict[str, Any] = {
    "POST /v1/jobs": RECIPE,
    "POST /v1/jobs/validate": RECIPE,
    "POST /v1/jobs/estimate": RECIPE,
    "POST /v1/datasets": {"name": "new", "source": {"folder": "/"}},
    "POST /v1/uploads": {"kind": "dataset", "name": "new.tar", "size": 1, "sha256": "0" * 64},
    "POST /v1/models": {"name": "new", "upload": "upload_0", "form": "onnx"},
    "POST /v1/models/{model_id}/check": {"dataset": {"name": "digits"}},
    "POST /v1/keys": {"name": "new"},
    "POST /v1/projects": {"name": "new"},
    "PATCH /v1/projects/{project_id}": {"max_running": 1},
}
"""A body that would do, for each operation that reads one."""


@dataclass(frozen=True)
class Operation:
    """One method of one address."""

    method: str
    path: str
    tags: tuple[str, ...]
    security: list[dict[str, list[str]]] = field(hash=False)
    reads_body: bool

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def scope(self) -> str:
        (bearer,) = self.security
        (scope,) = bearer["bearer"]
        return scope


def operations() -> Iterator[Operation]:
    for path, methods in create_app().openapi()["paths"].items():
        for method, said in methods.items():
            tags, security = tuple(said["tags"]), said.get("security", [])
            yield Operation(method.upper(), path, tags, security, "requestBody" in said)


ALL = list(operations())
CLOSED = [operation for operation in ALL if operation.path not in OPEN]
PROJECTS = [operation for operation in CLOSED if operation.scope != "admin"]
"""What a project's own keys may do."""


@pytest.fixture
def database_url(sqlite_database: str) -> str:
    """What is shown here depends on no kind of database."""
    return sqlite_database


@pytest.fixture
def app(database: str, environment: Callable[..., None]) -> Iterator[TestClient]:
    environment(data_roots="/")
    with TestClient(create_app(), raise_server_exceptions=False) as app:
        yield app


@pytest.fixture
def parts(key: str, app: TestClient) -> dict[str, str]:
    """What the parameters of paths may name: things of the project `default`."""
    job = app.post("/v1/jobs", json=RECIPE, headers=bearer(key)).json()["id"]
    upload = app.post("/v1/uploads", json=BODIES["POST /v1/uploads"], headers=bearer(key)).json()["id"]
    dataset = app.post("/v1/datasets", json=BODIES["POST /v1/datasets"], headers=bearer(key)).json()["id"]
    written = write_blob(io.BytesIO(b"weights"))
    with transaction() as session:
        blob = commit_blob(session, written)
        add_artifact(session, job, name="student.onnx", network="student", media_type="a/b", blob_id=blob)
        model = ModelRow(
            id="model_0", project_id=session.get_one(JobRow, job).project_id, name="m", form="onnx",
            architecture="onnx", blob_id=blob, size=7, sha256="0", job_id=job, created_at=0.0,
        )  # fmt: skip
        session.add(model)
    return {
        "job_id": job,
        "model_id": "model_0",
        "name": "student.onnx",
        "upload_id": upload,
        "dataset_id": dataset,
        "number": "7777777",
    }


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ask(app: TestClient, operation: Operation, headers: dict[str, str], parts: dict[str, str] | None = None) -> Any:
    path = operation.path if parts is None else operation.path.format(**parts)
    content = {"json": BODIES[str(operation)]} if operation.reads_body and str(operation) in BODIES else {}
    return app.request(operation.method, path, headers=headers, **content)  # type: ignore[arg-type]


def answers(app: TestClient, key: str | None, among: list[Operation] = CLOSED) -> dict[int, list[str]]:
    """The operations by what they answer to that key."""
    found: dict[int, list[str]] = {}
    for operation in among:
        answer = ask(app, operation, bearer(key) if key is not None else {})
        found.setdefault(answer.status_code, []).append(str(operation))
    return found


def key_with(*scopes: Scope, **values: Any) -> str:
    with transaction() as session:
        text = create_local_key(session, "tried", scopes=scopes)
        if values:
            session.execute(update(KeyRow).where(KeyRow.name == "tried").values(values))
    return text


def test_every_operation_names_one_scope() -> None:
    assert {operation.path for operation in ALL if not operation.security} == OPEN
    assert {operation.scope for operation in CLOSED} <= {*PROJECT_SCOPES, "admin"}
    changing = {str(one) for one in PROJECTS if one.method not in ("GET", "HEAD") and one.scope == "jobs:read"}
    assert changing == {"POST /v1/jobs/validate"}, "reading is all that jobs:read allows"


def test_without_a_key_every_door_is_shut(app: TestClient) -> None:
    assert answers(app, None) == {401: [str(one) for one in CLOSED]}


@pytest.mark.parametrize("shown", ["rt_short", "", "rt_aaaaaaaa_" + "a" * 32, "rt_aaaaaaaa_" + "A" * 32])
def test_a_key_that_is_none_opens_nothing(app: TestClient, database: str, shown: str) -> None:
    assert answers(app, shown) == {401: [str(one) for one in CLOSED]}


def test_a_key_shown_in_another_way_opens_nothing(app: TestClient, key: str) -> None:
    for header in (f"Basic {key}", key, f"Bearer  {key} {key}", "Bearer"):
        assert {ask(app, one, {"Authorization": header}).status_code for one in CLOSED} == {401}


def test_an_ended_key_opens_nothing(app: TestClient, database: str) -> None:
    for over in ({"expires_at": database_now()}, {"revoked_at": database_now()}):
        assert answers(app, key_with("admin", **over)) == {401: [str(one) for one in CLOSED]}


def test_a_key_without_the_scope_is_refused_before_anything_is_looked_at(app: TestClient, database: str) -> None:
    for scope in ("admin", *PROJECT_SCOPES):
        others = [one for one in PROJECT_SCOPES if one != scope]
        asked = [operation for operation in CLOSED if operation.scope == scope]
        expected = {403: [str(one) for one in asked]} if asked else {}
        assert answers(app, key_with(*others), asked) == expected


def test_an_admin_passes_everywhere(app: TestClient, key: str, parts: dict[str, str]) -> None:
    made_up = {"key_id": "key_none", "project_id": "project_none"}
    wrong = {}
    for operation in CLOSED:
        status = ask(app, operation, bearer(key), made_up | parts).status_code
        if status in (401, 403) or status >= 500:
            wrong[str(operation)] = status
    assert not wrong


def test_another_projects_things_do_not_exist(app: TestClient, stranger_key: str, parts: dict[str, str]) -> None:
    """404 for what is named, nothing of it in lists; an operation whose path names something new belongs in `parts`."""
    wrong = {}
    for operation in PROJECTS:
        if EVERYBODYS.intersection(operation.tags):
            continue
        answer = ask(app, operation, bearer(stranger_key), parts)
        told = [part for part in parts.values() if part in answer.text]
        # What a body names of others does not exist either.
        answered = answer.is_success or answer.status_code == 422
        right = answer.status_code == 404 if "{" in operation.path else answered and not told
        if not right:
            wrong[str(operation)] = (answer.status_code, answer.text)
    assert not wrong


def test_a_cursor_of_another_projects_list_shows_nothing_of_it(app: TestClient, key: str, stranger_key: str) -> None:
    for _ in range(3):
        app.post("/v1/jobs", json=RECIPE, headers=bearer(key))
    cursor = app.get("/v1/jobs", params={"limit": 1}, headers=bearer(key)).json()["next_cursor"]
    answer = app.get("/v1/jobs", params={"cursor": cursor}, headers=bearer(stranger_key))
    assert answer.json() == {"items": [], "next_cursor": None}


def test_lists_show_the_own_project_alone(app: TestClient, key: str, stranger_key: str, parts: dict[str, str]) -> None:
    assert app.get("/v1/jobs", headers=bearer(stranger_key)).json()["items"] == []
    (own,) = app.get("/v1/projects", headers=bearer(stranger_key)).json()["items"]
    assert own["name"] == "elsewhere"
    assert len(app.get("/v1/jobs?kind=distill", headers=bearer(key)).json()["items"]) == 1
