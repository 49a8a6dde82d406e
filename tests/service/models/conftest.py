"""Networks to bring, and a worker that does jobs here with the real engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from starlette.testclient import TestClient

from retort import draws
from retort.architectures import ARCHITECTURES
from retort.engine.__main__ import carry_out
from retort.engine.event_log import EventLog
from retort.engine.interrupt import FINISHED, Interrupt
from retort.order import Order, Paths
from service.blobs.repository import write_blob
from service.claims import service as workers
from service.claims.service import NewArtifact, Trouble
from service.db import transaction
from service.jobs.models import State
from service.kinds import EFFECTS
from tests.service.uploads.conftest import begin, complete, put
from worker.inputs import InputCache
from worker.workspace import Workspace

DIGITS = [str(number) for number in range(10)]
EXPECTS = {"size": 8, "channel_order": "rgb", "range": [0, 1], "mean": [0.3] * 3, "std": [0.4] * 3}


def tensors(prefix: str = "", classes: int = 10) -> dict[str, torch.Tensor]:
    """The weights of a fresh resnet8."""
    with draws.seeded(1, "initialisation"):
        body = ARCHITECTURES["resnet8"].build("resnet8", classes).body
    return {prefix + name: tensor.contiguous() for name, tensor in body.state_dict().items()}


def bring(client: TestClient, content: bytes) -> str:
    """A complete upload of those bytes; its id."""
    upload = begin(client, content, kind="model", name="teacher.safetensors")
    for number in range(1, upload["parts"] + 1):
        assert put(client, upload, number, content).status_code == 200
    assert complete(client, upload).status_code == 200
    return str(upload["id"])


def asked(upload: str, /, **change: Any) -> dict[str, Any]:
    known = {"name": "mine", "upload": upload, "form": "safetensors", "architecture": "resnet8"}
    whole = {**known, "class_names": DIGITS, "expects": EXPECTS, **change}
    return {name: value for name, value in whole.items() if value is not None}


@pytest.fixture
def work(tmp_path: Path) -> Callable[[], State]:
    """Does the next job as a worker would, and says how it ended."""

    def run() -> State:
        with transaction() as session:
            claim = workers.claim(session, "worker_1", 600)
        assert claim is not None
        workspace = Workspace.of(tmp_path, claim)
        workspace.prepare(claim, InputCache(tmp_path / "cache", 10**9), lambda: None)
        log = workspace.directory / "log"
        with log.open("wb") as out:
            paths = Paths(
                directory=workspace.directory,
                checkpoints=workspace.checkpoints,
                weights=workspace.weights,
                data_roots=workspace.fetched(),
            )
            order = Order(kind=claim.kind, spec=claim.spec, paths=paths)
            code = carry_out(order, EventLog(out.fileno()), Interrupt())
        said = [json.loads(line) for line in log.read_text().splitlines()]
        if code != FINISHED:
            trouble = Trouble("spec", "impossible", said[-1]["text"])
            with transaction() as session:
                return workers.fail(session, claim, trouble)
        files = []
        for shipped, path in workspace.shipped():
            with path.open("rb") as file:
                files.append(NewArtifact(shipped.name, shipped.network, shipped.media_type, write_blob(file)))
        with transaction() as session:
            return workers.succeed(session, claim, files, EFFECTS)

    return run


@pytest.fixture
def ready(client: TestClient, work: Callable[[], State]) -> dict[str, Any]:
    """A model that was taken in."""
    answer = client.post("/v1/models", json=asked(bring(client, save(tensors()))))
    assert answer.status_code == 202, answer.text
    assert work() is State.succeeded
    return dict(client.get(f"/v1/models/{answer.json()['id']}").json())
