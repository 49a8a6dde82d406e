"""Models over HTTP: brought, taken in by the real engine, named in recipes, checked, removed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save
from starlette.testclient import TestClient

from service.blobs.repository import sweep
from service.jobs.models import State
from tests.retort.engine.test_user_models import small_onnx
from tests.service.conftest import on_sqlite
from tests.service.models.conftest import DIGITS, EXPECTS, asked, bring, tensors

Work = Callable[[], State]


def detail(answer: Any, pointer: str) -> str:
    assert answer.status_code == 422, answer.text
    found = {error["pointer"]: error["detail"] for error in answer.json()["errors"]}
    assert pointer in found, found
    return str(found[pointer])


def recipe(model: str, **change: Any) -> dict[str, Any]:
    plain = {
        "dataset": {"name": "digits", "label_share": 0.1},
        "teacher": {"model": model},
        "student": {"architecture": "resnet8"},
        "methods": [{"name": "kd"}],
        "training": {"epochs": 1, "threads": 1},
        "exports": [{"name": "safetensors"}],
    }
    return {**plain, **change}


def test_a_network_is_brought_taken_in_and_teaches(client: TestClient, stranger: TestClient, work: Work) -> None:
    upload = bring(client, save(tensors("module.")))
    answer = client.post("/v1/models", json=asked(upload), headers={"Idempotency-Key": "one"})
    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert answer.headers["Location"] == f"/v1/models/{made['id']}"
    assert (made["state"], made["expects"]["size"], made["classes"]) == ("checking", 8, 10)
    again = client.post("/v1/models", json=asked(upload), headers={"Idempotency-Key": "one"})
    assert (again.json()["id"], again.headers["Idempotent-Replayed"]) == (made["id"], "true")
    early = client.post("/v1/jobs", json=recipe(made["id"]))
    assert "is still being checked by job" in detail(early, "/teacher/model")
    busy = client.delete(f"/v1/models/{made['id']}")
    assert busy.status_code == 409
    assert made["job_id"] in busy.json()["detail"]

    assert work() is State.succeeded
    model = client.get(f"/v1/models/{made['id']}").json()
    assert (model["state"], model["error"]) == ("ready", None)
    assert [layer["shape"][0] for layer in model["report"]["layers"]] == [16, 16, 32, 64]
    assert [item["id"] for item in client.get("/v1/models").json()["items"]] == [made["id"]]

    job = client.post("/v1/jobs", json=recipe(made["id"]))
    assert job.status_code == 201, job.text
    assert job.json()["spec"]["teacher"]["architecture"] == "resnet8"
    assert client.delete(f"/v1/models/{made['id']}").status_code == 409
    assert work() is State.succeeded
    assert client.delete(f"/v1/models/{made['id']}").status_code == 204
    assert client.get("/v1/models").json()["items"] == []

    assert stranger.get(f"/v1/models/{made['id']}").status_code == 404
    assert "there is no upload" in detail(stranger.post("/v1/models", json=asked(upload)), "/upload")
    foreign = stranger.post("/v1/jobs/validate", json=recipe(made["id"])).json()
    assert foreign["problems"][0]["detail"] == f"there is no model {made['id']!r}"


@on_sqlite
def test_what_does_not_fit_is_refused_by_its_job(client: TestClient, work: Work) -> None:
    broken = tensors()
    del broken["conv1.weight"]
    made = client.post("/v1/models", json=asked(bring(client, save(broken)))).json()
    assert work() is State.failed
    model = client.get(f"/v1/models/{made['id']}").json()
    assert (model["state"], model["error"]) == (
        "refused",
        "the weights do not fit resnet8: conv1.weight is missing",
    )
    answer = client.post("/v1/jobs", json=recipe(made["id"]))
    assert "cannot be used: the weights do not fit" in detail(answer, "/teacher/model")
    assert client.post(f"/v1/models/{made['id']}/check", json={"dataset": {"name": "digits"}}).status_code == 409


@on_sqlite
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            save(tensors(classes=7)),
            "the classifier of the file gives 7 outputs (fc.bias has the shape [7]); wanted 10, as its record says",
        ),
        (
            save(tensors() | {"fc.bias": torch.full((10,), float("nan"))}),
            "the weights are not finite numbers (NaN or infinite) in fc.bias",
        ),
    ],
)  # fmt: skip
def test_what_cannot_teach_is_told_by_what_is_wrong(client: TestClient, work: Work, content: bytes, says: str) -> None:
    made = client.post("/v1/models", json=asked(bring(client, content))).json()
    assert work() is State.failed
    model = client.get(f"/v1/models/{made['id']}").json()
    assert (model["state"], model["error"]) == ("refused", says)


@on_sqlite
def test_an_onnx_file_is_taken_in_as_it_is(client: TestClient, work: Work) -> None:
    weight = numpy_helper.from_array(numpy.ones((3, 10), numpy.float32), "w")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])
    content = small_onnx(weight=weight, outputs=[output]).SerializeToString()
    body = asked(bring(client, content), form="onnx", architecture=None)
    made = client.post("/v1/models", json=body).json()
    assert work() is State.succeeded
    model = client.get(f"/v1/models/{made['id']}").json()
    assert (model["state"], model["architecture"], model["classes"]) == ("ready", "onnx", 10)


@on_sqlite
def test_what_is_odd_about_a_teacher_is_said_wherever_it_is_named(client: TestClient, work: Work) -> None:
    weight = numpy_helper.from_array(numpy.ones((3, 10), numpy.float32), "w")
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "C", "H", "W"])
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 10])
    odd = small_onnx(weight=weight, inputs=[image], outputs=[output])
    odd.graph.node.append(helper.make_node("Softmax", ["y"], ["z"], axis=1))
    expects = {**EXPECTS, "size": 64}
    body = asked(bring(client, odd.SerializeToString()), form="onnx", architecture=None, expects=expects)
    model = client.post("/v1/models", json=body).json()["id"]
    assert work() is State.succeeded
    said = [
        "student 'student' (resnet8, 78,042 parameters) is larger than its teacher (onnx, 30)",
        f"the teacher ({model}): it ends with Softmax: the tensor before it is read as logits",
        f"the teacher ({model}): its input does not say the order of its axes; images are given as (N, 3, S, S)",
        "the teacher expects images of 64 pixels a side, and the data set's have 8: trained networks recognise little "
        "in enlarged images; give the data set image_size 64 if it has that field (the student may still see less)",
    ]
    assert client.post("/v1/jobs/validate", json=recipe(model)).json()["warnings"] == said
    assert client.post("/v1/jobs/estimate", json=recipe(model)).json()["warnings"] == said
    job = client.post("/v1/jobs", json=recipe(model), headers={"Idempotency-Key": "one"}).json()
    assert job["warnings"] == said
    again = client.post("/v1/jobs", json=recipe(model), headers={"Idempotency-Key": "one"}).json()
    assert (again["id"], again["warnings"]) == (job["id"], said)


@on_sqlite
def test_a_check_on_data_of_another_number_of_classes_is_refused_at_once(
    client: TestClient, ready: dict[str, Any]
) -> None:
    answer = client.post(f"/v1/models/{ready['id']}/check", json={"dataset": {"name": "cifar100"}})
    assert detail(answer, "/dataset") == f"{ready['id']} gives 10 classes, the data set has 100"
    assert client.get("/v1/jobs", params={"state": "queued"}).json()["items"] == []


@on_sqlite
def test_a_file_that_is_none_is_refused_at_once(client: TestClient) -> None:
    hostile = struct.pack("<Q", 2 * 10**9) + b"{}" * 40
    answer = client.post("/v1/models", json=asked(bring(client, hostile)))
    assert "the header has 2,000,000,000 bytes by its own account" in detail(answer, "/upload")


@on_sqlite
@pytest.mark.parametrize(
    ("change", "pointer", "says"),
    [
        ({"architecture": None}, "/architecture", "architecture is missing"),
        ({"architecture": "resnet9"}, "/architecture", "did you mean"),
        ({"class_names": None}, "/class_names", "class_names are missing"),
        ({"class_names": ["a", "b"], "classes": 3}, "/classes", "classes is 3, but there are 2"),
        ({"expects": {**EXPECTS, "std": None}}, "/expects/std", "expects.std is missing, and the file does not say it"),
        ({"expects": {}}, "/expects/channel_order", "wanted rgb, bgr or grey"),
        (
            {"expects": {**EXPECTS, "range": [255, 0]}},
            "/expects/range",
            "range is [255.0, 0.0]; wanted the darkest value first",
        ),
        ({"form": None}, "/form", "form is missing"),
        ({"upload": None}, "/upload", "neither upload nor job is given"),
        ({"upload": "upload_0"}, "/upload", "there is no upload"),
        ({"sort": 1}, "/sort", "no field"),
    ],
)
def test_what_is_missing_is_asked_for(client: TestClient, change: dict[str, Any], pointer: str, says: str) -> None:
    body = asked(bring(client, save(tensors())), **change)
    if (expects := body.get("expects")) is not None:
        body["expects"] = {name: value for name, value in expects.items() if value is not None}
    assert says in detail(client.post("/v1/models", json=body), pointer)


@on_sqlite
def test_what_the_file_says_need_not_be_said(client: TestClient) -> None:
    told = {"pretrained_cfg": '{"input_size": [3, 8, 8], "mean": [0.1, 0.1, 0.1], "std": [1, 1, 1]}'}
    body = asked(bring(client, save(tensors(), told)), expects=None)
    model = client.post("/v1/models", json=body).json()
    assert model["expects"] == {"size": 8, "channel_order": "rgb", "range": [0, 1], "mean": [0.1] * 3, "std": [1] * 3}


@on_sqlite
def test_a_check_tells_how_good_it_is(client: TestClient, ready: dict[str, Any], work: Work) -> None:
    answer = client.post(f"/v1/models/{ready['id']}/check", json={"dataset": {"name": "digits"}, "images": 50})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["kind"], answer.headers["Location"]) == ("check", f"/v1/jobs/{job['id']}")
    assert work() is State.succeeded
    report = client.get(f"/v1/jobs/{job['id']}/artifacts/report.json").json()
    assert report["images"] == 50
    assert 0 <= report["accuracy"] <= 1
    missing = client.post(f"/v1/models/{ready['id']}/check", json={})
    assert detail(missing, "/dataset") == "dataset is missing"


@on_sqlite
def test_recipes_are_told_about_classes_and_architectures(client: TestClient, ready: dict[str, Any]) -> None:
    def validated(**change: Any) -> dict[str, Any]:
        return dict(client.post("/v1/jobs/validate", json=recipe(ready["id"], **change)).json())

    assert validated()["warnings"] == []
    other = validated(teacher={"model": ready["id"], "architecture": "resnet20"})
    assert other["problems"][0]["detail"] == f"{ready['id']} is a resnet8; the recipe says resnet20"
    twice = client.post("/v1/jobs", json=recipe("", teacher={"model": ready["id"], "weights": "published"}))
    assert "both model and weights are given" in detail(twice, "/teacher/weights")
    nothing = client.post("/v1/jobs", json=recipe("", teacher={"weights": "published"}))
    assert "architecture is missing" in detail(nothing, "/teacher/architecture")
    student = validated(student={"model": ready["id"]})
    assert student["resolved"]["students"][0]["architecture"] == "resnet8"


@on_sqlite
def test_classes_in_another_order_are_a_warning(client: TestClient, work: Work) -> None:
    body = asked(bring(client, save(tensors())), class_names=DIGITS[::-1])
    model = client.post("/v1/models", json=body).json()
    assert work() is State.succeeded
    (warning,) = client.post("/v1/jobs/validate", json=recipe(model["id"])).json()["warnings"]
    assert "in another order (output 0 is '9', the data set's class 0 is '0')" in warning


@on_sqlite
def test_a_network_of_a_job_becomes_a_model(client: TestClient, work: Work) -> None:
    small = recipe("", teacher=None, methods=[])
    job = client.post("/v1/jobs", json=small).json()
    assert work() is State.succeeded
    body = {"name": "of a job", "job": job["id"], "network": "student"}
    model = client.post("/v1/models", json=body)
    assert model.status_code == 202, model.text
    assert model.json()["class_names"] == DIGITS
    assert work() is State.succeeded
    assert client.get(f"/v1/models/{model.json()['id']}").json()["state"] == "ready"
    sweep(0)
    client.delete(f"/v1/jobs/{job['id']}")
    assert client.post("/v1/jobs", json=recipe(model.json()["id"])).status_code == 201
    assert work() is State.succeeded


@on_sqlite
def test_an_estimate_runs_some_steps_of_the_recipe(client: TestClient, ready: dict[str, Any], work: Work) -> None:
    answer = client.post("/v1/jobs/estimate", json=recipe(ready["id"]))
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["kind"], job["spec"]["recipe"]["teacher"]["architecture"]) == ("estimate", "resnet8")
    assert work() is State.succeeded
    report = client.get(f"/v1/jobs/{job['id']}/artifacts/report.json").json()
    assert [section["phase"] for section in report["sections"]] == ["distilling"]
    assert report["total_seconds"]["mean"] > 0
    wrong = client.post("/v1/jobs/estimate", json=recipe("model_0"))
    assert detail(wrong, "/teacher/model") == "there is no model 'model_0'"
