"""User models: trained networks, as teachers and as starts."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import ValidationError
from sqlalchemy import JSON, BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from retort.spec import wrong_at
from retort.user_model import UserModel
from service.blobs import references
from service.jobs import uses
from service.products.models import ProductRow


class ModelState(StrEnum):
    """The states of a model."""

    checking = "checking"
    """The job that takes it in has not ended."""
    ready = "ready"
    """Recipes may name it; it never changes any more."""
    refused = "refused"
    """Its job ended without having taken it in."""


class ModelRow(ProductRow):
    """A trained network: a user model, or one that an earlier job made. A job of kind `check` takes it in."""

    __tablename__ = "models"
    __table_args__ = (Index("ix_models_list", "project_id", "created_at", "id"),)

    form: Mapped[str]
    """`safetensors` or `onnx`."""
    architecture: Mapped[str]
    """Name in the catalogue, or `onnx`."""
    classes: Mapped[int | None]
    """Null until its job has looked into an ONNX file, as the columns below."""
    class_names: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    expects: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """retort.user_model.Expects."""
    card: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """retort.architecture.Card of an ONNX file."""
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    """Hex, of the file."""


references.register(ModelRow)
uses.register("model", ModelRow)


def record_of(model: ModelRow) -> UserModel:
    """The record of a model for the engine. Raises ValidationError where an earlier version made another one."""
    fields = ("id", "form", "architecture", "classes", "class_names", "expects", "card")
    warnings = (model.report or {}).get("sentences", ())
    return UserModel.model_validate({name: getattr(model, name) for name in fields} | {"warnings": warnings})


def fault_of(model: ModelRow) -> str | None:
    """One sentence on the fault of a model's record, as an earlier version may have made it."""
    try:
        record = record_of(model)
    except ValidationError as error:
        return f"{wrong_at('record', error)}; add the model again"
    if record.outputs is None or record.expects is None:
        return "its record does not describe its outputs and images; add the model again"
    return None
