"""Stage maps of two networks side by side.

Imports no torch before it is needed, so that a method's file can import from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from retort.architecture import Card
from retort.method import STUDENT, TEACHER, Batch, LiveSetup, MethodError, Setup, Tap, at_least_float32

if TYPE_CHECKING:
    from torch import Tensor

    from retort.network import Network

One = TypeVar("One")
Other = TypeVar("Other")

BOTH_MAPS = frozenset({Tap(STUDENT, "maps"), Tap(TEACHER, "maps")})
BOTH_PREACTIVATIONS = frozenset({Tap(STUDENT, "preactivations"), Tap(TEACHER, "preactivations")})


class Shape(NamedTuple):
    """Size of a stage's map."""

    channels: int
    side: int
    """Positions along one side."""


def paired(student: Sequence[One], teacher: Sequence[Other], *, first: bool = False) -> tuple[tuple[One, Other], ...]:
    """Both networks' stages, the last with the last, shallow to deep; of a network with more the deepest count.

    Without each network's first one, which is the stem where there is one, unless that is wanted.
    """
    count = min(len(student), len(teacher)) - (not first)
    return tuple(zip(student[len(student) - count :], teacher[len(teacher) - count :], strict=True))


def cards(setup: Setup) -> tuple[Card, Card]:
    """The student's card and the teacher's."""
    assert setup.teacher is not None, "the recipe's validation asks for a teacher where a method needs one"
    return setup.student, setup.teacher


def check_both(setup: Setup, serves: Callable[[Card], bool], lack: str) -> None:
    """Raise MethodError with the network that does not serve, and what it lacks."""
    for role, card in zip(("student", "teacher"), cards(setup), strict=True):
        if not serves(card):
            raise MethodError(f"the {role} {card.architecture} {lack}")


def check_stages(setup: Setup) -> None:
    """Raise MethodError where a network has one stage alone, so that there is nothing to pair."""
    check_both(setup, lambda card: len(card.stages) > 1, "has one stage; 2 are needed, as the first is left out")


def check_preactivations(setup: Setup) -> None:
    """Raise MethodError where a network's maps cannot be read before their activation."""
    check_both(setup, lambda card: card.preactivations, "has no maps that can be read before their activation")


def stage_maps(
    batch: Batch, reads: Literal["maps", "preactivations"] = "maps", *, first: bool = False
) -> tuple[tuple[Tensor, Tensor], ...]:
    """The student's and the teacher's map of each pair of stages, in float32 at least."""
    student, teacher = getattr(batch.student(), reads), getattr(batch.teacher(), reads)
    return tuple(
        (at_least_float32(student_NCHW), at_least_float32(teacher_NCHW))
        for student_NCHW, teacher_NCHW in paired(student, teacher, first=first)
    )


def last_maps(batch: Batch) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's last map, in float32 at least."""
    return at_least_float32(batch.student().maps[-1]), at_least_float32(batch.teacher().maps[-1])


def same_size(a_NCHW: Tensor, b_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps, the larger one averaged to the smaller one's height and width."""
    size = min(a_NCHW.shape[2], b_NCHW.shape[2]), min(a_NCHW.shape[3], b_NCHW.shape[3])
    return averaged(a_NCHW, size), averaged(b_NCHW, size)


def averaged(map_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """A map averaged to that height and width."""
    from torch.nn.functional import adaptive_avg_pool2d

    return map_NCHW if map_NCHW.shape[2:] == size else adaptive_avg_pool2d(map_NCHW, size)


def by_stage(terms: Iterable[Tensor]) -> dict[str, Tensor]:
    """The terms of the pairs of stages by name, `stage_1` the shallowest."""
    return {f"stage_{i}": term for i, term in enumerate(terms, 1)}


def shapes(setup: LiveSetup) -> tuple[tuple[Shape, ...], tuple[Shape, ...]]:
    """Each stage's map of the student and of the teacher, as cards and images give them before any map is computed.

    A side is the image's over the stride, rounded up, as padded layers leave it; that of some bodies is off by one.
    """

    def of(card: Card, network: Network | None) -> tuple[Shape, ...]:
        assert network is not None, "the recipe's validation asks for a teacher where a method needs one"
        pixels = network.image.size or setup.image_size
        return tuple(Shape(stage.channels, -(-pixels // stage.stride)) for stage in card.stages)

    student, teacher = cards(setup)
    return of(student, setup.student_network), of(teacher, setup.teacher_network)
