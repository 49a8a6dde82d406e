"""Networks that users brought. Whether one can be used is told by its row and its job's."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from retort.user_model import UserModel
from service.db import Base
from service.jobs.models import TERMINAL, Job


class ModelState(StrEnum):
    """Where a model stands."""

    checking = "checking"
    """The job that takes it in has not ended."""
    ready = "ready"
    """Recipes may name it; it never changes any more."""
    refused = "refused"
    """Its job ended without having taken it in."""


class Model(Base):
    """A trained network that a user brought, or that an earlier job made."""

    __tablename__ = "models"
    __table_args__ = (Index("ix_models_list", "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    """`model_` and 26 characters that sort by the time of creation."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    form: Mapped[str]
    """`safetensors` or `onnx`."""
    architecture: Mapped[str]
    """Name in the catalogue, or `onnx`."""
    classes: Mapped[int | None]
    """Null while nobody has looked into an ONNX file, as what follows."""
    class_names: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    expects: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """retort.user_model.Expects."""
    card: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """retort.architecture.Card of an ONNX file."""
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    """Hex, of the file."""
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"), index=True)
    """The job of kind `check` that takes it in; null once that was deleted."""
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """What that job found; null until it has succeeded."""
    created_at: Mapped[float]
    used_at: Mapped[float | None]
    """When a job was last made that uses it, to the hour."""


def state_of(model: Model, job: Job | None) -> ModelState:
    """Where a model stands, by its row and its job's."""
    if model.report is not None:
        return ModelState.ready
    return ModelState.refused if job is None or job.state in TERMINAL else ModelState.checking


def trouble_of(model: Model, job: Job | None) -> str | None:
    """One sentence why it cannot be used, if it cannot."""
    match state_of(model, job):
        case ModelState.ready:
            return None
        case ModelState.checking:
            return f"it is still being checked by job {model.job_id}"
    if job is None:
        return "its job was deleted before it was taken in"
    return job.error["detail"] if job.error is not None else f"its job {job.id} was {job.state.value}"


def record_of(model: Model) -> UserModel:
    """What the engine needs to know of it."""
    fields = ("id", "form", "architecture", "classes", "class_names", "expects", "card")
    return UserModel.model_validate({name: getattr(model, name) for name in fields})
