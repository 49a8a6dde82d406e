"""What the API shows of architectures."""

from __future__ import annotations

from retort.architecture import Card
from service.schemas import ResponseModel


class ArchitectureRead(ResponseModel):
    """A network that a recipe may name."""

    name: str
    family: str
    """The file of retort/architectures/ that builds it."""
    source: str
    """Where the family comes from: authors, title, year, link."""
    card: Card | None
    """What is known of it without building it; null where it was not measured yet."""
