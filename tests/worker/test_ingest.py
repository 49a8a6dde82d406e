"""From a user's archive to a student, over HTTP and with the real engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.jobs.models import State
from tests.retort.ingestion.packing import gz, tar
from tests.retort.ingestion.test_ingestion import garden
from tests.service.conftest import client as client
from tests.service.conftest import key as key
from tests.service.conftest import on_sqlite
from tests.service.uploads.conftest import bring as bring
from tests.worker.plays import kinds, wait_for_state
from worker.agent import Agent


@pytest.mark.slow
@on_sqlite
def test_a_network_is_trained_on_a_users_archive(client: TestClient, bring: Callable[..., dict[str, Any]]) -> None:
    upload = bring(gz(tar({**garden(20), ".DS_Store": b""})), name="garden.tgz")
    spec = {"name": "garden", "source": {"upload": upload["id"]}, "image_size": 16}
    made = client.post("/v1/datasets", json=spec).json()
    agent = Agent()
    agent.start()
    try:
        wait_for_state(made["job_id"], State.succeeded, 300)
        assert kinds(made["job_id"])[-3:] == ["warning", "report", "succeeded"]
        dataset = client.get(made["links"]["self"]).json()
        assert (dataset["state"], dataset["facts"]["class_names"]) == ("ready", ["aster", "poppy"])
        assert dataset["report"]["stray"]["files"] == [".DS_Store"]
        recipe = {
            "dataset": {"name": "stored", "dataset": made["id"]},
            "student": {"architecture": "resnet8"},
            "training": {"epochs": 1, "batch_size": 16, "augmentation": {"crop_padding": 1}},
            "exports": [{"name": "safetensors"}],
        }
        job_id = client.post("/v1/jobs", json=recipe).json()["id"]
        wait_for_state(job_id, State.succeeded, 300)
    finally:
        agent.stop()
        assert agent.join(60)
    described = client.get(f"/v1/jobs/{job_id}/artifacts/student.json").json()
    assert (described["class_names"], described["test"]["images"]) == (["aster", "poppy"], 4)
    assert described["decoding"] == dataset["facts"]["decoding"] == {"background": [255, 255, 255], "white": None}
