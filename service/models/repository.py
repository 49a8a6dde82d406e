"""All SQL that is about models alone."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import update
from sqlalchemy.orm import Session

from retort.check import REPORT
from service.blobs.service import read_json
from service.claims.repository import Claim
from service.models.models import ModelRow


def note_result(session: Session, claim: Claim, blobs: Mapping[str, str]) -> None:
    """Store what the job of kind `check` that takes a model in found in the model's row, in the transaction that ends
    the job; other jobs of that kind change nothing. `blobs` are ids by the name of the job's files."""
    if claim.spec["dataset"] is not None:
        return
    report = read_json(session, blobs[REPORT])
    known = {name: report["model"][name] for name in ("classes", "class_names", "expects", "card")}
    changed = update(ModelRow).where(ModelRow.job_id == claim.job_id)
    session.execute(changed.values(**known, report={k: v for k, v in report.items() if k != "model"}))
