"""The catalogue: every entry of every registry, with its schema."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from retort.architectures import ARCHITECTURES, CARDS
from retort.compressions import COMPRESSIONS
from retort.datasets import DATASETS
from retort.exports import EXPORTS
from retort.methods import METHODS
from retort.outputs import READS
from retort.tasks import TASKS
from service.catalogue import summary
from tests.service.conftest import on_sqlite


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("/v1/tasks", TASKS),
        ("/v1/methods", METHODS),
        ("/v1/architectures", ARCHITECTURES),
        ("/v1/datasets/builtin", DATASETS),
        ("/v1/exports", EXPORTS),
        ("/v1/compressions", COMPRESSIONS),
    ],
)
@on_sqlite
def test_all_entries_are_listed(client: TestClient, path: str, known: dict[str, Any]) -> None:
    page = client.get(path).json()
    assert [item["name"] for item in page["items"]] == list(known)
    assert page["next_cursor"] is None


@on_sqlite
def test_a_method_tells_all_that_its_class_says(client: TestClient) -> None:
    for name, method in METHODS.items():
        item = client.get(f"/v1/methods/{name}").json()
        assert item["formula"] == method.formula
        assert item["source"] == method.source
        assert item["summary"] == summary(method)
        assert item["needs_teacher"] is method.needs_teacher
        assert item["label_weight"] == method.label_weight
        assert item["reconstruction"] is method.reconstruction
        assert item["parameters"] == method.model_json_schema()
        for field in item["parameters"]["properties"].values():
            assert "default" in field or "const" in field
        assert item["refuses"] == method.refuses
        assert item["tasks"] == ["classification"]
        assert item["needs"] or not method.needs_teacher


@on_sqlite
def test_a_method_tells_what_it_was_checked_against(client: TestClient) -> None:
    kd = client.get("/v1/methods/kd").json()
    (case,) = [case for case in kd["conformance"] if case["case"] == "kd__logits"]
    assert case["source"] == "HobbitLong/RepDistiller@b84f547 distiller_zoo/KD.py"
    assert 0 < case["worst_difference"] <= kd["worst_difference"] < 1e-9
    assert kd["needs"] == ["student: logits", "teacher: logits"]
    nckd = client.get("/v1/methods/nckd").json()
    assert nckd["conformance"] == []
    assert nckd["worst_difference"] is None
    assert nckd["needs"] == ["a changed student, which is what is shipped", "student: embedding"]


@on_sqlite
def test_an_architecture_shows_its_card(client: TestClient) -> None:
    listed = {item["name"]: item for item in client.get("/v1/architectures").json()["items"]}
    for name in {family.name: name for name, family in ARCHITECTURES.items()}.values():
        assert client.get(f"/v1/architectures/{name}").json() == listed[name]
    for name, family in ARCHITECTURES.items():
        item, card = listed[name], CARDS.get(name)
        assert (item["family"], item["source"]) == (family.name, family.source)
        assert item["card"] == (card.model_dump(mode="json") if card else None)


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/v1/methods/kdd", "there is no method 'kdd'; did you mean 'kd'?"),
        ("/v1/methods/zzz", "there is no method 'zzz'"),
        ("/v1/architectures/resnet9", "there is no architecture 'resnet9'; did you mean 'resnet8'?"),
    ],
)
@on_sqlite
def test_an_unknown_name_gets_the_nearest(client: TestClient, path: str, detail: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["detail"]) == (404, detail)


def test_a_summary_is_the_first_paragraph_in_one_line() -> None:
    class Entry:
        """One
        thing.

        And more.
        """

    assert summary(Entry) == "One thing."


@on_sqlite
def test_a_task_tells_its_metric_and_its_readings(client: TestClient) -> None:
    task = client.get("/v1/tasks/classification").json()
    assert (task["headline"], task["more_is_better"], task["columns"][0]) == ("accuracy", True, "accuracy")
    assert task["reads"] == list(READS.values())
    assert task["label_fields"] == ["smoothing"]
    assert {"classes", "class_names", "image_size", "train"} <= task["facts"]["properties"].keys()
    wrong = client.get("/v1/tasks/clasification")
    assert wrong.status_code == 404
    assert "did you mean 'classification'?" in wrong.json()["detail"]
