"""The front end as a whole: its documentation, its errors, its size."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from retort.check import Check
from retort.ingest import Ingest
from retort.methods import METHODS
from retort.protocols import PROTOCOLS
from retort.recipe import Recipe
from service.app import create_app
from service.db import POOL_SIZE
from service.jobs.models import TERMINAL, State
from service.keys.schemas import KeyCreate
from service.models.schemas import ModelCreate
from service.projects.schemas import ProjectChange, ProjectCreate
from service.uploads.schemas import UploadCreate
from tests.conftest import wait_until
from tests.service.conftest import HANG_SECONDS, Server, bearing, on_sqlite

Start = Callable[..., Server]
MIB = 1 << 20


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    return create_app().openapi()


def operations(openapi: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


OPEN = {"/healthz", "/readyz", "/metrics"}


def test_every_endpoint_is_documented_with_its_problems(openapi: dict[str, Any]) -> None:
    for method, path, operation in operations(openapi):
        assert operation["description"], path
        if path not in OPEN:
            assert {"401", "403", "503"} <= set(operation["responses"]), path
        if "{" in path:
            assert "404" in operation["responses"], path
        if "requestBody" in operation:
            assert {"400", "413", "415", "422"} <= set(operation["responses"]), (method, path)
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                schema = response["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}, (path, status)


def test_every_reference_leads_somewhere(openapi: dict[str, Any]) -> None:
    found = {part.split('"')[0] for part in json.dumps(openapi).split('"#/components/schemas/')[1:]}
    assert found <= set(openapi["components"]["schemas"])
    assert not [name for name in openapi["components"]["schemas"] if "ValidationError" in name]


def test_the_recipe_is_the_body_with_units_and_every_method(openapi: dict[str, Any]) -> None:
    body = openapi["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Recipe"}
    schemas = openapi["components"]["schemas"]
    assert set(schemas["Student"]["properties"]["methods"]["items"]["discriminator"]["mapping"]) == set(METHODS)
    assert "pure number" in schemas["KD"]["properties"]["temperature"]["description"]
    protocol = schemas["Recipe"]["properties"]["protocol"]
    assert set(protocol["anyOf"][0]["enum"]) == set(PROTOCOLS)
    assert "published settings" in protocol["description"]
    policy = schemas["Augmentation"]["properties"]["policy"]["anyOf"][0]
    assert set(policy["discriminator"]["mapping"]) == {"randaugment", "autoaugment", "trivialaugment"}


def test_final_states_are_marked(openapi: dict[str, Any]) -> None:
    state = openapi["components"]["schemas"]["State"]
    assert set(state["enum"]) == {state.value for state in State}
    assert set(state["x-terminal-states"]) == {state.value for state in TERMINAL}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"])
@on_sqlite
def test_what_needs_no_key(client: TestClient, path: str) -> None:
    with TestClient(create_app()) as client:
        assert client.get(path).status_code == 200


@on_sqlite
def test_every_other_address_needs_a_key(openapi: dict[str, Any], client: TestClient) -> None:
    client = TestClient(create_app())
    for method, path, _ in operations(openapi):
        if path in OPEN:
            continue
        answer = client.request(method, path, content=b"not even JSON")
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="retort"'
        if method != "head":
            assert answer.json()["detail"] == (
                "the request bears no key; wanted the header 'Authorization: Bearer rt_...'"
            )


@pytest.mark.parametrize("shown", ["rt_aaaaaaaa_" + "a" * 32, "rt_short", "☃", "", "rt_" + "a" * 5000])
@on_sqlite
def test_an_unknown_key_is_refused(client: TestClient, shown: str) -> None:
    answer = client.get("/v1/jobs", headers={"Authorization": f"Bearer {shown}".encode()})
    assert (answer.status_code, answer.json()["title"]) == (401, "Unauthorized")


@on_sqlite
def test_a_problem_has_all_that_rfc_9457_asks(client: TestClient) -> None:
    answer = client.get("/v1/jobs/job_nope")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == {
        "type": "urn:retort:problem:not-found",
        "title": "Not found",
        "status": 404,
        "detail": "there is no job 'job_nope'",
        "instance": "/v1/jobs/job_nope",
        "request_id": answer.headers["X-Request-ID"],
    }


@on_sqlite
def test_an_unknown_address(client: TestClient) -> None:
    answer = client.get("/v2/jobs")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "there is no address '/v2/jobs'; /openapi.json lists all"


@on_sqlite
def test_a_wrong_method_gets_the_right_ones(client: TestClient) -> None:
    answer = client.put("/v1/jobs/job_x")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "DELETE, GET")
    assert answer.json()["detail"] == "PUT does not go with the address '/v1/jobs/job_x'; wanted DELETE, GET"


def test_a_nul_in_the_address_is_refused_on_both_databases(client: TestClient) -> None:
    for address in ("/v1/jobs/a%00b", "/v1/jobs?name=a%00b"):
        answer = client.get(address)
        assert answer.status_code == 400
        assert answer.json()["detail"] == "the address holds a NUL character (%00); no name has one"


@on_sqlite
def test_a_failure_of_ours_shows_no_trace(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("service.methods.service.every", fail)
    answer = client.get("/v1/methods")
    request_id = answer.headers["X-Request-ID"]
    assert answer.status_code == 500
    assert answer.json()["detail"] == f"the service failed; its log has the reason under {request_id}"
    assert "secret detail" not in answer.text
    assert request_id in caplog.text
    assert "secret detail" in caplog.text


def test_without_a_database_the_answer_has_when_to_ask_again(environment: Callable[..., None]) -> None:
    environment(database_url="postgresql+psycopg://nobody@127.0.0.1:1/none")
    client = bearing("rt_aaaaaaaa_" + "a" * 32)
    answer = client.get("/v1/jobs")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json()["detail"] == "the database does not answer; ask again in 5 seconds"


# Bodies


def post(client: TestClient, content: bytes, content_type: str = "application/json") -> httpx2.Response:
    return client.post("/v1/jobs", content=content, headers={"Content-Type": content_type})


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"epochs: 3", "the body is not JSON: expected value at line 1, column 1"),
        (b'{"name": "a",\n "tags": [1,]}', "the body is not JSON: trailing comma at line 2, column 13"),
        (b'{"name": "a"} and more', "the body is not JSON: trailing characters at line 1, column 15"),
        (b"", "the body is empty; wanted JSON"),
        (b'{"priority": NaN}', "the body is not JSON: expected value at line 1, column 1."),
        (b'{"priority": Infinity}', "the body is not JSON: expected value at line 1, column 1."),
        (b"[" * 10_000, "the body is not JSON: recursion limit exceeded at line 1, column 20."),
        (b'{"a":' * 10_000, "the body is not JSON: recursion limit exceeded at line 1, column .*"),
        (b"\xff\xfe{\x00}\x00", "the body is not JSON: expected value at line 1, column 1"),
        (b'{"name": "\\ud800"}', "the body is not JSON: unexpected end of hex escape at line 1, column 1."),
        (b'{"name": "a", "n\\u0061me": "b"}', "an object of the body has the field 'name' more than once"),
        (b"[" + b"[]," * 20_000 + b"1]", "the body holds more than 20,000 values; no recipe needs as many"),
    ],
)
@on_sqlite
def test_what_is_not_json(client: TestClient, body: bytes, detail: str) -> None:
    answer = post(client, body)
    assert answer.status_code == 400
    assert re.fullmatch(detail, answer.json()["detail"])


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        (b'{"priority": 1e400}', "/priority", "priority: the number does not fit a 64-bit float; wanted a smaller one"),
        (
            b'{"tags": [%d]}' % 2**64,
            "/tags/0",
            "tags[0]: the whole number does not fit 64 bits; wanted a smaller one",
        ),
        (b'{"name": "a\\u0000b"}', "/name", "name: 'a\\x00b' holds a NUL character; no text may"),
        (b'{"a\\u0000": 1}', "", "the body: the name of a field holds a NUL character; none may"),
        (b'{"%s": 1}' % (b"a" * 201), "", "the body: the name of a field has 201 characters; at most 200 are read"),
        (
            b"[" * 33 + b"]" * 33,
            "/0" * 32,
            f"{'[0]' * 32}: it lies within 32 objects and lists; no more may lie within each other",
        ),
        (b"[]", "", "the body is a list of 0; wanted an object"),
        (b"null", "", "the body is null; wanted an object"),
    ],
)
@on_sqlite
def test_json_that_cannot_be_stored(client: TestClient, body: bytes, pointer: str, detail: str) -> None:
    answer = post(client, body)
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


@on_sqlite
def test_a_wrong_content_type_is_refused(client: TestClient) -> None:
    answer = post(client, b"a=1", "application/x-www-form-urlencoded")
    assert answer.status_code == 415
    assert answer.json()["detail"] == (
        "the body's Content-Type is 'application/x-www-form-urlencoded'; wanted 'application/json'"
    )
    answer = client.post("/v1/jobs", content=b"{}")
    assert (answer.status_code, answer.json()["detail"]) == (
        415,
        "the body has no Content-Type; wanted 'application/json'",
    )
    answer = client.post("/v1/jobs", json={}, headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["detail"]) == (415, "the body's Content-Encoding is 'gzip'; wanted none")


@on_sqlite
def test_many_wrong_fields_get_one_bounded_answer(client: TestClient, recipe: dict[str, Any]) -> None:
    answer = client.post("/v1/jobs", json={**recipe, **{f"x{i}": i for i in range(1000)}})
    assert answer.status_code == 422
    assert answer.json()["detail"].endswith("(and 999 more wrong fields)")
    assert len(answer.json()["errors"]) == 100


def arrays(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lists of a JSON schema, each with its place."""
    if isinstance(schema, dict):
        if schema.get("type") == "array":
            yield place, schema
        for name, inner in schema.items():
            yield from arrays(inner, f"{place}/{name}")
    elif isinstance(schema, list):
        for number, inner in enumerate(schema):
            yield from arrays(inner, f"{place}/{number}")


def test_every_list_that_may_be_sent_has_a_largest_length() -> None:
    models = (Recipe, Ingest, Check, ModelCreate, UploadCreate, KeyCreate, ProjectCreate, ProjectChange)
    found = [one for model in models for one in arrays(model.model_json_schema(), model.__name__)]
    assert len(found) > 10
    assert [place for place, schema in found if "maxItems" not in schema] == []


@on_sqlite
def test_a_wrong_value_of_any_length_is_not_repeated(client: TestClient, recipe: dict[str, Any]) -> None:
    long = "x" * 1_000_000
    for change in (
        {"students": [{"architecture": long}]},
        {"task": long},
        {"name": long},
        {"methods": [{"name": long}]},
    ):
        answer = client.post("/v1/jobs", json={**recipe, **change})
        assert answer.status_code == 422
        assert len(answer.text) < 10_000


# A real process


def authorised(server: Server, key: str) -> httpx2.Client:
    return httpx2.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=HANG_SECONDS)


@on_sqlite
def test_eleven_megabytes_of_json(start: Start, key: str) -> None:
    body = json.dumps({"name": "x" * 11_000_000}).encode()
    with authorised(start(), key) as client:
        announced = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        assert announced.status_code == 413
        assert announced.json()["detail"] == f"the body has {len(body):,} bytes; at most 10,000,000 bytes are read"
        pieces = (body[i : i + MIB] for i in range(0, len(body), MIB))
        unannounced = client.post("/v1/jobs", content=pieces, headers={"Content-Type": "application/json"})
        assert unannounced.request.headers["Transfer-Encoding"] == "chunked"
        assert unannounced.status_code == 413
        assert unannounced.json()["detail"] == "the body has more; at most 10,000,000 bytes are read"
        assert client.get("/v1/jobs").json()["items"] == []


@on_sqlite
def test_the_process_is_small_and_has_no_torch(start: Start, key: str, recipe: dict[str, Any]) -> None:
    server = start()
    assert 0 < server.memory_mib() < 120
    with authorised(server, key) as client:
        for path in ("/openapi.json", "/v1/methods", "/v1/architectures", "/v1/jobs", "/readyz"):
            assert client.get(path).status_code == 200
        assert client.post("/v1/jobs", json=recipe).status_code == 201
    assert 0 < server.memory_mib() < 160
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    libraries = {line.split("/")[-1] for line in maps.splitlines()}
    assert not [name for name in libraries if "torch" in name]


@on_sqlite
def test_a_slow_body_holds_no_connection(start: Start, key: str, recipe: dict[str, Any]) -> None:
    """More slow senders than the pool has connections; a quick one is served meanwhile."""
    body, senders, quick_was_served = json.dumps(recipe).encode(), POOL_SIZE + 4, Event()

    def slowly() -> Iterator[bytes]:
        yield body[:10]
        quick_was_served.wait(HANG_SECONDS)
        yield body[10:]

    def in_progress() -> float:
        found = re.search(r"^retort_http_requests_in_progress (\S+)$", client.get("/metrics").text, re.MULTILINE)
        assert found
        return float(found[1])

    server = start(patience_seconds=HANG_SECONDS)
    with authorised(server, key) as client, ThreadPoolExecutor(senders) as pool:
        headers = {"Content-Type": "application/json"}
        slow = [pool.submit(client.post, "/v1/jobs", content=slowly(), headers=headers) for _ in range(senders)]
        try:
            wait_until(lambda: in_progress() > senders, "all slow senders have begun", HANG_SECONDS)
            assert client.get("/v1/jobs").json()["items"] == []
        finally:
            quick_was_served.set()
        assert {answer.result().status_code for answer in slow} == {201}
