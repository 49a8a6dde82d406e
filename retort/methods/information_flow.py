"""Information flow: the student follows an auxiliary network layer by layer, early layers in early epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import (
    STUDENT,
    TEACHER,
    Batch,
    LiveSetup,
    Method,
    MethodError,
    NetworkSpec,
    Phase,
    Setup,
    Tap,
    at_least_float32,
)
from retort.methods.pkt import cosine_kernel, shares
from retort.outputs import Outputs
from retort.view import CLEAN

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.methods._layers import FurtherNetwork
    from retort.network import Network

EPSILON = 1e-6

Kernels = Literal["combined", "cosine", "student_t"]


@dataclass(frozen=True)
class AuxiliaryTeacher(NetworkSpec):
    """A network of as many stages as the student's, which imitates the teacher's embedding before the student learns.

    It holds everything that its training depends on, as equal ones are trained once.
    """

    architecture: str
    epochs: int
    weight: float
    kernels: Kernels

    def build(self, setup: LiveSetup) -> Network:
        return setup.build_network(self.architecture, setup.outputs)


class InformationFlow(Method):
    """Heterogeneous KD by information flow (PKTH): Jeffreys' divergence between two networks' shares of similarity
    within the batch, at the embedding and at three layers before it, whose weight decays epoch by epoch.

    A teacher of another kind is first imitated, at the embedding alone, by an auxiliary network built like the student;
    the student then learns from that. Layers are the embedding and the maps of the stages before the last one, at most
    three, flattened, the last first. The authors' networks have three convolutions and a hidden layer, and their
    auxiliary network has learned from labels before; here it starts afresh. The means run over all N^2 pairs, so terms
    are small: Adam, which the authors use, does not see that, but SGD wants a weight of thousands, as PKT has. There is
    no term of labels in the paper; without one the classifier learns nothing.
    """

    source: ClassVar[str] = (
        "Passalis, Tzelepi, Tefas: Heterogeneous Knowledge Distillation using Information Flow Modeling, CVPR 2020, "
        "https://arxiv.org/abs/2005.00727"
    )
    formula: ClassVar[str] = (
        "weight * [L_0 + intermediate_weight * intermediate_decay^epoch * sum_l L_l], L = sum over kernels of mean_ij "
        "(P - Q)(log P - log Q), P, Q rows of a kernel over their sums, kernels (1 + cos) / 2 and 1 / (1 + distance)"
    )
    couples_batch: ClassVar[bool] = True
    refuses: ClassVar[str] = (
        "an auxiliary network of another number of stages than the student's, or one that cannot read the data's images"
    )

    name: Literal["information_flow"] = "information_flow"
    weight: float = Field(default=1.0, gt=0, le=10_000_000)
    """Weight of all layers, of the auxiliary network's too, a pure number."""
    intermediate_weight: float = Field(default=100.0, ge=0, le=100_000)
    """Weight of the layers before the embedding in the first epoch, a pure number."""
    intermediate_decay: float = Field(default=0.7, gt=0, le=1)
    """Factor of that weight from epoch to epoch, a pure number."""
    kernels: Kernels = "combined"
    """Similarities that are compared: by cosine, by Student's t of the distance, or both."""
    auxiliary: str | None = None
    """Architecture of the auxiliary network, of as many stages as the student; null takes the student's own."""
    auxiliary_epochs: int = Field(default=40, ge=1, le=10_000)
    """Epochs that the auxiliary network learns before the student, at the recipe's learning rate."""

    def check(self, setup: Setup) -> None:
        architecture, student = self._auxiliary(setup).architecture, setup.student
        card = setup.cards.get(architecture)
        if card is None:
            raise MethodError(f"the auxiliary network {architecture} is not a known architecture")
        if len(card.stages) != len(student.stages):
            raise MethodError(
                f"the auxiliary network {architecture} has {len(card.stages)} stages, "
                f"the student {student.architecture} {len(student.stages)}; they are compared stage by stage"
            )
        if setup.image_size < card.smallest_image:
            raise MethodError(
                f"the auxiliary network {architecture} reads images of {card.smallest_image} pixels a side at least; "
                f"the data set's have {setup.image_size}"
            )

    def taps(self, setup: Setup) -> frozenset[Tap]:
        networks = STUDENT, self._auxiliary(setup)
        return frozenset(tap for network in networks for tap in (Tap(network, "embedding"), Tap(network, "maps")))

    def modules(self, setup: LiveSetup) -> FurtherNetwork:
        from retort.methods._layers import FurtherNetwork

        return FurtherNetwork(self._auxiliary(setup))

    def phases(self, setup: Setup) -> tuple[Phase, ...]:
        auxiliary = self._auxiliary(setup)
        taps = frozenset({Tap(auxiliary, "embedding"), Tap(TEACHER, "embedding")})
        return (Phase("auxiliary network", self.auxiliary_epochs, taps, self._imitate_teacher, trains=auxiliary),)

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`last`, of the embedding; `intermediate`, a sum over the layers before it."""
        import torch

        pairs = zip(_layers(batch.student()), _layers(_auxiliary_outputs(batch, modules)), strict=True)
        last, *before = (self.divergence(student_ND, auxiliary_ND) for student_ND, auxiliary_ND in pairs)
        terms = {"last": self.weight * last}
        if before:
            factor = self.weight * self.intermediate_weight * self.intermediate_decay ** batch.epoch.to(last.dtype)
            terms["intermediate"] = factor * torch.stack(before).sum()
        return terms

    def divergence(self, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        """Jeffreys' divergence of both networks' shares of similarity, a mean over pairs, a sum over kernels."""
        import torch

        kernels = {"cosine": _cosine_kernel, "student_t": _student_t_kernel}
        terms = []
        for name, kernel in kernels.items():
            if self.kernels in (name, "combined"):
                p_NN, q_NN = shares(kernel(teacher_ND)), shares(kernel(student_ND))
                terms.append(((p_NN - q_NN) * (p_NN.log() - q_NN.log())).mean())
        return torch.stack(terms).sum()

    def _imitate_teacher(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`last`, of the auxiliary network's embedding and the teacher's."""
        auxiliary_ND, teacher_ND = _layers(_auxiliary_outputs(batch, modules))[0], _layers(batch.teacher())[0]
        return {"last": self.weight * self.divergence(auxiliary_ND, teacher_ND)}

    def _auxiliary(self, setup: Setup) -> AuxiliaryTeacher:
        architecture = self.auxiliary or setup.student.architecture
        return AuxiliaryTeacher(architecture, self.auxiliary_epochs, self.weight, self.kernels)


def _auxiliary_outputs(batch: Batch, modules: nn.Module | None) -> Outputs:
    return batch.outputs[cast("FurtherNetwork", modules).spec, CLEAN]


def _layers(outputs: Outputs) -> list[Tensor]:
    """(N, D) each, in float32 at least: the embedding, then the maps that come before the last, deep to shallow."""
    assert outputs.embedding is not None, "it was tapped"
    return [at_least_float32(layer).flatten(1) for layer in (outputs.embedding, *outputs.maps[-2:-5:-1])]


def _cosine_kernel(layer_ND: Tensor) -> Tensor:
    """(1 + cosine) / 2; opposite layers still share a little, so that it has a logarithm."""
    return cosine_kernel(layer_ND, EPSILON).clamp(min=EPSILON)


def _student_t_kernel(layer_ND: Tensor) -> Tensor:
    """1 / (1 + distance)."""
    import torch

    # Distances do not see the mean, but rounding does.
    layer_ND = layer_ND - layer_ND.mean(0)
    squares_N = layer_ND.square().sum(1)
    squares_NN = squares_N[:, None] + squares_N - 2 * layer_ND @ layer_ND.T
    others_NN = 1 - torch.eye(len(layer_ND), dtype=layer_ND.dtype, device=layer_ND.device)
    return 1 / (1 + (squares_NN.clamp(min=0) * others_NN + EPSILON).sqrt())
