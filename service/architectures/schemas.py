"""Architectures as the API shows them."""

from __future__ import annotations

from retort.architecture import Card
from service.schemas import ResponseModel


class ArchitectureRead(ResponseModel):
    """A network that a recipe may name."""

    name: str
    family: str
    """The file of retort/architectures/ that builds it."""
    source: str
    """The family's origin: authors, title, year, link."""
    card: Card | None
    """Its measures without building it; null where they were not taken yet."""
