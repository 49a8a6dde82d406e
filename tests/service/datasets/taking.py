"""Data sets as a worker would make them, without one."""

from __future__ import annotations

import io
import json
from typing import Any

from service.blobs.repository import write_blob
from service.claims.repository import Claim
from service.claims.service import NewArtifact, claim, hand_back, succeed
from service.db import transaction
from service.kinds import EFFECTS

FACTS: dict[str, Any] = {
    "classes": 2, "class_names": ["aster", "poppy"], "image_size": 32, "train": 80, "validation": 10, "test": 10,
    "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "decoding": {"background": [255, 255, 255], "white": None},
}  # fmt: skip
REPORT = {"layout": "folders of classes", "thumbnails": {"artifact": "thumbnails.jpg"}, "warnings": []}


def take(job_id: str | None = None) -> Claim:
    """The best job, as a worker gets it; or the one of that id, where other tests' jobs wait beside it."""
    passed_over: list[Claim] = []
    with transaction() as session:
        while (taken := claim(session, "worker-1", 60)) is not None and job_id not in (None, taken.job_id):
            passed_over.append(taken)
        for other in passed_over:
            hand_back(session, other)
    assert taken is not None
    return taken


def finish(taken: Claim, archive: bytes = b"archive", report: dict[str, Any] | None = None) -> None:
    """End a job of kind `ingest` with what its engine leaves."""
    told = json.dumps({"facts": FACTS, "report": REPORT if report is None else report}).encode()
    files = [
        NewArtifact("thumbnails.jpg", None, "image/jpeg", write_blob(io.BytesIO(b"a sheet"))),
        NewArtifact("dataset.tar", None, "application/x-tar", write_blob(io.BytesIO(archive))),
        NewArtifact("report.json", None, "application/json", write_blob(io.BytesIO(told))),
    ]
    with transaction() as session:
        succeed(session, taken, files, EFFECTS)
