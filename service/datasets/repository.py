"""All SQL that is about users' data sets alone."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import update
from sqlalchemy.orm import Session

from retort.ingest import ARCHIVE, REPORT
from retort.spec import wrong_at
from retort.tasks import AnyFacts
from service.blobs.models import BlobRow
from service.claims.records import InvalidRecord, read_report
from service.claims.repository import Claim
from service.datasets.models import DatasetRow

FACTS: TypeAdapter[AnyFacts] = TypeAdapter(AnyFacts)


def note_result(session: Session, claim: Claim, blobs: Mapping[str, str]) -> None:
    """Store what a job of kind `ingest` found in its data set's row, in the transaction that ends the job; `blobs` are
    ids by the name of its files. There is no such row when it was deleted. Raises InvalidRecord where the job did not
    leave that."""
    found = read_report(session, blobs, REPORT)
    if ARCHIVE not in blobs or not isinstance(found.get("report"), dict):
        raise InvalidRecord(f"the engine left no {ARCHIVE}, or no report in {REPORT}")
    try:
        FACTS.validate_python(found.get("facts"))
    except ValidationError as error:
        raise InvalidRecord(wrong_at(f"facts in {REPORT}", error)) from None
    archive = session.get_one(BlobRow, blobs[ARCHIVE])
    made = {"blob_id": archive.id, "digest": archive.sha256, "size": archive.size}
    changed = update(DatasetRow).where(DatasetRow.job_id == claim.job_id)
    session.execute(changed.values(**made, facts=found["facts"], report=found["report"]))
