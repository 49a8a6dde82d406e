"""All SQL that is about users' data sets alone."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import update
from sqlalchemy.orm import Session

from retort.ingest import ARCHIVE, REPORT
from service.blobs.models import BlobRow
from service.blobs.service import read_json
from service.claims.repository import Claim
from service.datasets.models import DatasetRow


def note_result(session: Session, claim: Claim, blobs: Mapping[str, str]) -> None:
    """Store what a job of kind `ingest` found in its data set's row, in the transaction that ends the job; `blobs` are
    ids by the name of its files. There is no such row when it was deleted."""
    found = read_json(session, blobs[REPORT])
    archive = session.get_one(BlobRow, blobs[ARCHIVE])
    made = {"blob_id": archive.id, "digest": archive.sha256, "size": archive.size}
    changed = update(DatasetRow).where(DatasetRow.job_id == claim.job_id)
    session.execute(changed.values(**made, facts=found["facts"], report=found["report"]))
