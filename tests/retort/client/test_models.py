"""User models through the client."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from retort.client import ConflictError, InvalidError, Retort

EXPECTS = {"size": 32, "channel_order": "bgr", "range": [0, 255], "mean": [104, 117, 123], "std": [1, 1, 1]}


def test_a_model_is_created_and_waits_for_a_worker(client: Retort, tmp_path: Path) -> None:
    file = tmp_path / "teacher.safetensors"
    save_file({"fc.weight": torch.zeros(2, 64)}, file)
    upload = client.uploads.upload(file, kind="model")
    with pytest.raises(InvalidError, match="architecture is missing"):
        client.models.create("mine", upload=upload.id, form="safetensors", classes=2, expects=EXPECTS)
    made = client.models.create(
        "mine",
        upload=upload.id,
        form="safetensors",
        architecture="resnet8",
        class_names=["a", "b"],
        expects=EXPECTS,
    )
    assert (made.state, made.classes, made.class_names) == ("checking", 2, ["a", "b"])
    assert made.expects is not None
    assert made.expects["channel_order"] == "bgr"
    assert client.models.get(made.id).sha256 == upload.sha256
    assert made.id in [model.id for model in client.models.list()]
    assert made.job_id is not None
    assert client.jobs.get(made.job_id).kind == "check"
    with pytest.raises(ConflictError, match=made.job_id):
        client.models.delete(made.id)
    with pytest.raises(ConflictError, match="still being checked"):
        client.models.check(made.id, {"name": "digits"})
    client.jobs.cancel(made.job_id)
    assert client.models.get(made.id).error == f"its job {made.job_id} was cancelled"
    client.models.delete(made.id)
    assert made.id not in [model.id for model in client.models.list()]
