"""What the API shows of methods."""

from __future__ import annotations

from service.catalogue import EntryRead


class MethodRead(EntryRead):
    """One distillation objective."""

    formula: str
    """One line, as the paper writes it."""
    reconstruction: bool
    """Whether the formula could not be read in the paper or its code and is our own best reading."""
    needs_teacher: bool
    """Whether a recipe with this method must name a teacher."""
    label_weight: float | None
    """The published weight of cross-entropy beside this method; null where none was published."""
