"""All SQL that is about models alone."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError
from sqlalchemy import update
from sqlalchemy.orm import Session

from retort.check import REPORT
from retort.spec import wrong_at
from retort.user_model import ONNX, UserModel
from service.claims.records import InvalidRecord, read_report
from service.claims.repository import Claim
from service.models.models import ModelRow

FOUND = ("classes", "class_names", "expects", "card")
"""Fields of a model that its check may find."""


def note_result(session: Session, claim: Claim, blobs: Mapping[str, str]) -> None:
    """Store what the job of kind `check` that takes a model in found in the model's row, in the transaction that ends
    the job; other jobs of that kind change nothing. `blobs` are ids by the name of the job's files.

    Raises InvalidRecord where the job did not leave that.
    """
    if claim.spec["dataset"] is not None:
        return
    report = read_report(session, blobs, REPORT)
    found = report.get("model")
    known = {name: found.get(name) for name in FOUND} if isinstance(found, dict) else {}
    try:
        shown = {"id": "model_0", "form": ONNX, "architecture": ONNX, "warnings": report.get("sentences")}
        record = UserModel.model_validate({**shown, **known})
    except ValidationError as error:
        raise InvalidRecord(wrong_at(f"model in {REPORT}", error)) from None
    if record.outputs is None or record.expects is None:
        raise InvalidRecord(f"model in {REPORT} does not describe its outputs and images")
    changed = update(ModelRow).where(ModelRow.job_id == claim.job_id)
    session.execute(changed.values(**known, report={k: v for k, v in report.items() if k != "model"}))
