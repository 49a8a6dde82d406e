"""Networks that a user brings, good and bad, over HTTP and with a real worker: each gets the answer that fits.

`tests/service/models` tries the same one by one, with the engine in its own process.
"""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save
from starlette.testclient import TestClient

from service.jobs.models import State
from tests.retort.engine.test_user_models import absent, small_onnx
from tests.service.conftest import client as client
from tests.service.conftest import key as key
from tests.service.models.conftest import DIGITS, EXPECTS, asked, bring, tensors
from tests.worker.plays import wait_for_state
from worker.agent import Agent


def without(name: str) -> bytes:
    return save({key: tensor for key, tensor in tensors().items() if key != name})


def onnx_file() -> bytes:
    weight = numpy_helper.from_array(numpy.ones((3, 10), numpy.float32), "w")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])
    return small_onnx(weight=weight, outputs=[output]).SerializeToString()


ONNX = {"form": "onnx", "architecture": None}
BROUGHT: dict[str, tuple[bytes, dict[str, Any], str | None]] = {
    "prefixes": (save(tensors("module.")), {}, None),
    "permuted": (save(tensors()), {"class_names": DIGITS[::-1]}, None),
    "onnx": (onnx_file(), ONNX, None),
    "missing": (without("conv1.weight"), {}, "the weights do not fit resnet8: conv1.weight is missing"),
    "classes": (
        save(tensors(classes=7)),
        {},
        "the classifier of the file gives 7 outputs (fc.bias has the shape [7]); wanted 10, as its record says",
    ),
    "nan": (
        save(tensors() | {"fc.bias": torch.full((10,), float("nan"))}),
        {},
        "the weights are not finite numbers (NaN or infinite) in fc.bias",
    ),
    "hostile": (
        absent(1, 3, 13000, 13000).SerializeToString(),
        ONNX,
        "the tensor 'k' has the shape (1, 3, 13000, 13000), and the ONNX file has 15 bytes of it",
    ),
}


@pytest.mark.long
def test_each_network_gets_the_answer_that_fits(client: TestClient) -> None:
    made = {}
    for name, (content, change, _) in BROUGHT.items():
        answer = client.post("/v1/models", json=asked(bring(client, content), name=name, **change))
        assert answer.status_code == 202, answer.text
        made[name] = answer.json()
    agent = Agent()
    agent.start()
    try:
        for name, (_, _, error) in BROUGHT.items():
            wait_for_state(made[name]["job_id"], State.failed if error else State.succeeded, 300)
            model = client.get(f"/v1/models/{made[name]['id']}").json()
            assert (model["state"], model["error"]) == ("refused" if error else "ready", error), name
        checks = {}
        for name in ("prefixes", "permuted", "onnx"):
            body = {"dataset": {"name": "digits"}, "images": 100}
            checks[name] = client.post(f"/v1/models/{made[name]['id']}/check", json=body).json()["id"]
        reports = {}
        for name, job_id in checks.items():
            wait_for_state(job_id, State.succeeded, 300)
            reports[name] = client.get(f"/v1/jobs/{job_id}/artifacts/report.json").json()
    finally:
        agent.stop()
        assert agent.join(60)
    assert reports["prefixes"]["images"] == 100
    assert "in another order (output 0 is '9', the data set's class 0 is '0')" in reports["permuted"]["sentences"][0]
    assert (reports["onnx"]["model"]["classes"], reports["onnx"]["model"]["expects"]) == (10, EXPECTS)
