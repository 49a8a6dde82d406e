"""Records as earlier versions, hostile engines and hostile files made them: no later request fails by them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from sqlalchemy import insert
from starlette.testclient import TestClient

from service.artifacts.repository import add_artifact
from service.blobs.repository import commit_blob, write_blob
from service.claims.records import InvalidRecord
from service.claims.service import NewArtifact, succeed
from service.datasets.models import DatasetRow
from service.db import transaction
from service.jobs.models import JobRow
from service.kinds import EFFECTS
from service.models.models import ModelRow
from tests.service.conftest import RECIPE, application, on_sqlite
from tests.service.datasets.taking import FACTS, REPORT, take
from tests.service.models.conftest import asked, bring

EXPECTS = {"size": 8, "channel_order": "rgb", "range": [0, 1], "mean": [0.3] * 3, "std": [0.4] * 3}
ODD_MODELS: dict[str, dict[str, Any]] = {
    "model_oneclass": {"classes": 1},
    "model_noclass": {"classes": None},
    "model_ofnone": {"classes": 0, "class_names": []},
    "model_nameless": {"class_names": ["", "b"]},
    "model_numbered": {"class_names": [1, {"a": 2}]},
    "model_blind": {"expects": None},
    "model_formless": {"expects": {}},
    "model_oflist": {"expects": {**EXPECTS, "size": [8], "mean": "grey"}},
    "model_carded": {"card": {"family": 3}},
    "model_reported": {"report": {"sentences": 7}},
    "model_unreported": {"report": {}},
    "model_long": {"report": {"sentences": ["x" * 100_000]}},
}
ODD_DATASETS: dict[str, dict[str, Any]] = {
    "dataset_none": {"facts": None},
    "dataset_empty": {"facts": {}},
    "dataset_one": {"facts": {**FACTS, "classes": 1, "class_names": ["a"]}},
    "dataset_short": {"facts": {**FACTS, "classes": 9}},
    "dataset_listed": {"facts": [FACTS]},
    "dataset_lost": {"blob_id": None, "size": None, "digest": None},
    "dataset_reported": {"report": {"warnings": 1}},
}
ODD_DESCRIPTIONS: dict[str, Any] = {
    "listed": [],
    "empty": {},
    "wrapped": {"retort": 1, "wrapper": 3, "architecture": ["resnet8"]},
    "null": None,
    "broken": b"\xff{",
}


@pytest.fixture
def odd(client: TestClient) -> dict[str, list[str]]:
    """Ids of odd records of each kind, by the name of the path parameter."""
    job = client.post("/v1/jobs", json=RECIPE).json()["id"]
    texts = {
        f"{name}.json": v if isinstance(v, bytes) else json.dumps(v).encode() for name, v in ODD_DESCRIPTIONS.items()
    }
    texts |= {f"{name}.safetensors": b"weights" for name in ODD_DESCRIPTIONS}
    files = {name: write_blob(io.BytesIO(text)) for name, text in texts.items()}
    with transaction() as session:
        blobs = {name: commit_blob(session, draft) for name, draft in files.items()}
        for name, blob in blobs.items():
            network = name.partition(".")[0]
            add_artifact(session, job, name=name, network=network, media_type="application/json", blob_id=blob)
        project = session.get_one(JobRow, job).project_id
        shared = {
            "project_id": project,
            "job_id": None,
            "blob_id": blobs["empty.json"],
            "size": 7,
            "created_at": 1e9,
            "used_at": None,
        }
        plain = {
            **shared,
            "form": "onnx",
            "architecture": "onnx",
            "classes": 10,
            "class_names": None,
            "expects": EXPECTS,
        }
        plain |= {"card": None, "sha256": "0" * 64, "report": {"sentences": []}}
        session.execute(insert(ModelRow), [{**plain, "id": i, "name": i, **odd} for i, odd in ODD_MODELS.items()])
        plain = {**shared, "source": {"upload": None, "folder": "/a"}, "facts": FACTS, "digest": "0", "report": REPORT}
        session.execute(insert(DatasetRow), [{**plain, "id": i, "name": i, **odd} for i, odd in ODD_DATASETS.items()])
        row = session.get_one(JobRow, job)
        row.state = "succeeded"
        row.ended_at = 1e9
    return {"model_id": [*ODD_MODELS], "dataset_id": [*ODD_DATASETS], "job_id": [job], "name": ["listed.json"]}


def bodies(path: str, odd: dict[str, list[str]]) -> list[Any]:
    """Bodies for a POST that name each odd record."""
    (job,) = odd["job_id"]
    datasets = [{"name": "stored", "dataset": dataset} for dataset in odd["dataset_id"]]
    if path in ("/v1/jobs/validate", "/v1/jobs/estimate", "/v1/jobs"):
        named: list[dict[str, Any]] = [{"model": model} for model in odd["model_id"]]
        named += [{"architecture": "resnet8", "weights": {"job": job, "network": name}} for name in ODD_DESCRIPTIONS]
        recipes = [{**RECIPE, "teacher": teacher} for teacher in named]
        if path.endswith("/validate"):
            recipes += [{**RECIPE, "teacher": None, "methods": [], "student": student} for student in named]
        return [*recipes, *({**RECIPE, "dataset": dataset} for dataset in datasets)]
    if path == "/v1/models":
        return [{"name": "again", "job": job, "network": network} for network in ODD_DESCRIPTIONS]
    return [{"dataset": dataset} for dataset in (*datasets, {"name": "digits"})] if path.endswith("/check") else [{}]


@on_sqlite
def test_no_endpoint_fails_by_a_record(client: TestClient, odd: dict[str, list[str]]) -> None:
    deletions = []
    for path, methods in application().openapi()["paths"].items():
        addresses = [path]
        for name in odd:
            addresses = [one.replace(f"{{{name}}}", value) for one in addresses for value in odd[name]]
        addresses = [one for one in dict.fromkeys(addresses) if "{" not in one and one != "/readyz"]
        for method in methods:
            if method == "delete":
                deletions += addresses
                continue
            for address in addresses:
                for body in bodies(path, odd) if method == "post" else [None]:
                    answer = client.request(method, address, json=body)
                    assert answer.status_code < 500, (method, address, body, answer.text)
    assert len(deletions) == sum(map(len, (ODD_MODELS, ODD_DATASETS))) + 1
    for address in deletions:
        assert client.delete(address).status_code < 500, address


@on_sqlite
def test_an_odd_record_is_said_to_be_one(client: TestClient, odd: dict[str, list[str]]) -> None:
    model = client.get("/v1/models/model_oneclass").json()
    assert (model["state"], model["classes"]) == ("refused", 1)
    assert (
        model["error"]
        == "the record is wrong at /classes: Input should be greater than or equal to 2; add the model again"
    )
    found = client.post("/v1/jobs/validate", json={**RECIPE, "teacher": {"model": "model_oneclass"}}).json()
    assert found["problems"][0]["detail"] == f"model model_oneclass cannot be used: {model['error']}"
    dataset = client.get("/v1/datasets/dataset_empty").json()
    assert dataset["state"] == "failed"
    assert dataset["error"].startswith("the record is wrong at ")
    assert client.get("/v1/models/model_nameless").json()["error"].startswith("the record is wrong at /class_names/0")


GOOD: dict[str, Any] = {
    "model": {
        "id": "model_1",
        "form": "onnx",
        "architecture": "onnx",
        "classes": 2,
        "class_names": None,
        "expects": EXPECTS,
    },
    "sentences": [],
}


REPORTS = [
    b"{",
    b"[]",
    b'{"sentences": []}',
    b'{"model": {}, "sentences": []}',
    b'{"model": null, "sentences": "a"}',
    json.dumps({**GOOD, "outputs": float("nan")}).encode(),
    json.dumps({**GOOD, "layers": ["\ud800"]}).encode(),
    json.dumps({**GOOD, "model": {**GOOD["model"], "classes": 1}}).encode(),
]


@on_sqlite
def test_a_report_that_is_none_makes_no_record(client: TestClient) -> None:
    made = client.post("/v1/models", json=asked(bring(client, b"onnx"), form="onnx", architecture=None)).json()
    taken = take(made["job_id"])
    for content in (*REPORTS, None):
        draft = write_blob(io.BytesIO(content or b""))
        name = "other.json" if content is None else "report.json"
        with pytest.raises(InvalidRecord), transaction() as session:
            succeed(session, taken, [NewArtifact(name, None, "application/json", draft)], EFFECTS)
    assert client.get(f"/v1/models/{made['id']}").json()["state"] == "checking"


NAMES = {"class_names": ["a", "b"]}
METADATA: list[tuple[dict[str, Any], str]] = [
    ({**NAMES, "architecture": []}, "/architecture"),
    ({"class_names": "ab"}, "/class_names"),
    ({"class_names": ["a"]}, "/class_names"),
    ({"class_names": ["a", ""]}, "/class_names"),
    ({"class_names": ["a", "b\0"]}, "/class_names"),
    ({"class_names": ["a", "\ud800"]}, "/class_names"),
    ({**NAMES, "input": {"size": [1], "mean": {}, "std": 3}}, "/expects"),
    ({**NAMES, "input": [3]}, "/expects"),
]


@on_sqlite
def test_odd_metadata_are_refused_at_once(client: TestClient) -> None:
    for metadata, pointer in METADATA:
        texts = {"retort": json.dumps({"architecture": "resnet8", **metadata})}
        header = json.dumps({"__metadata__": texts}).encode()
        upload = bring(client, len(header).to_bytes(8, "little") + header)
        answer = client.post("/v1/models", json=asked(upload, architecture=None, class_names=None, expects=None))
        assert answer.status_code == 422, (metadata, answer.text)
        assert any(error["pointer"].startswith(pointer) for error in answer.json()["errors"]), (metadata, answer.text)
