"""User models: trained networks, as teachers and as starts."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

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
    """The record of a model for the engine."""
    fields = ("id", "form", "architecture", "classes", "class_names", "expects", "card")
    return UserModel.model_validate({name: getattr(model, name) for name in fields})
