"""Methods as the API shows them."""

from __future__ import annotations

from service.catalogue import EntryRead
from service.schemas import ResponseModel


class Conformance(ResponseModel):
    """A value of a published implementation that this method was checked against, in float64, gradients too."""

    case: str
    source: str
    """Repository, commit and file that the value was computed with; `formula` where none of them has it."""
    worst_difference: float
    """Largest difference of a value or a gradient, as a share of that tensor's largest entry, rounded up."""


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
    tasks: tuple[str, ...]
    """The tasks that it serves, by what it reads."""
    needs: tuple[str, ...]
    """The things it reads, trains and changes with its defaults, for a pair of CIFAR ResNets."""
    refuses: str
    """The pairs that it refuses, in a few words; empty where it serves every pair with a teacher."""
    conformance: tuple[Conformance, ...]
    """The published values that it agrees with; none where no implementation could be reached."""
    worst_difference: float | None
    """The largest of those differences."""
