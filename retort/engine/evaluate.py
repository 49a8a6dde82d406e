"""How good a network is on a part of the data, and the measures of neural collapse. Always in float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from retort.dataset import Split
from retort.engine.group import ALONE, Group
from retort.engine.interrupt import Interrupt
from retort.method import Outputs
from retort.network import Network

CALIBRATION_BINS = 15
"""As many as in the tables of Guo and others."""


@dataclass(frozen=True)
class Score:
    """How a network did on one part of the data."""

    correct: int
    """Images whose first guess is the label."""
    correct_in_5: int
    """Images whose label is among the first five guesses (all of them, with five classes or fewer)."""
    images: int
    loss: float
    """Mean cross-entropy, in nats per image."""
    calibration_error: float
    """Expected calibration error, in [0, 1]."""
    class_accuracies: tuple[float | None, ...]
    """(K,) share of each class's images whose first guess is the label; None for a class without images."""
    guesses_N: Tensor = field(repr=False, compare=False)
    """(N,) int64 first guess for each image, in the part's order, on the CPU."""

    @property
    def accuracy(self) -> float:
        return self.correct / self.images

    def agreement(self, other: Score) -> float:
        """Share of images for which another network's first guess on the same part is the same, in [0, 1]."""
        return float((self.guesses_N == other.guesses_N).double().mean())

    def values(self, prefix: str) -> dict[str, float]:
        """As an event's values."""
        return {
            f"{prefix}.accuracy": self.accuracy,
            f"{prefix}.top5": self.correct_in_5 / self.images,
            f"{prefix}.correct": self.correct,
            f"{prefix}.images": self.images,
            f"{prefix}.loss": self.loss,
            f"{prefix}.calibration_error": self.calibration_error,
        }


def passes(
    network: Network,
    split: Split,
    batch_size: int,
    device: torch.device,
    *wanted: str,
    interrupt: Interrupt,
    positions: Tensor | None = None,
) -> Iterator[tuple[Outputs, Tensor, Tensor]]:
    """Run over a part, or some of it, without augmentation or gradient: (outputs, labels, positions) a batch.

    The network is in eval mode meanwhile and gets its old mode back.
    """
    was_training = network.training
    network.eval()
    try:
        order = torch.arange(len(split)) if positions is None else positions.cpu()
        for indices in torch.split(order, batch_size):
            interrupt.check()
            images = split.images(indices).to(device).float() / 255
            with torch.no_grad():
                yield network.read(images, wanted), split.targets[indices].to(device), indices.to(device)
    finally:
        network.train(was_training)


def score(
    network: Network,
    split: Split,
    batch_size: int,
    device: torch.device,
    interrupt: Interrupt,
    group: Group = ALONE,
) -> Score:
    """Look once at each image of a part of the data, each process at its share; all of them get the same score.

    What is found stays on the device until the last.
    """
    count = len(split)
    share = torch.arange(count)[group.share(count)]
    in_5 = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    first, sure = [], []
    classes = 0
    for outputs, labels, _ in passes(network, split, batch_size, device, interrupt=interrupt, positions=share):
        logits = outputs.logits.float()
        classes = logits.shape[1]
        guesses = logits.topk(min(5, classes), dim=1).indices
        in_5 += (guesses == labels[:, None]).sum()
        loss += F.cross_entropy(logits, labels, reduction="sum").double()
        first.append(guesses[:, 0])
        sure.append(logits.softmax(1).amax(1))
    guesses_N, confidences_N = (group.gather(torch.cat(found), count).cpu() for found in (first, sure))
    labels_N = split.targets.cpu()
    right_N = guesses_N == labels_N
    images_K, right_K = (labels.bincount(minlength=classes).tolist() for labels in (labels_N, labels_N[right_N]))
    return Score(
        correct=int(right_N.sum()),
        correct_in_5=int(group.total(in_5, count)),
        images=count,
        loss=float(group.total(loss, count)) / count,
        calibration_error=calibration_error(confidences_N, right_N),
        class_accuracies=tuple(r / n if n else None for r, n in zip(right_K, images_K, strict=True)),
        guesses_N=guesses_N,
    )


def calibration_error(confidences_N: Tensor, right_N: Tensor) -> float:
    """Expected calibration error of Guo, Pleiss, Sun, Weinberger 2017, eq. 3 (https://arxiv.org/abs/1706.04599).

    The mean over images of |accuracy - mean confidence| of their bin, in [0, 1]: 15 bins of equal width over (0, 1],
    open below. `confidences_N` are the highest probabilities, `right_N` (bool) whether those guesses are the labels.
    float64.
    """
    bins_N = (confidences_N.double() * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
    gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.float64).index_add_(
        0, bins_N, confidences_N.double() - right_N.double()
    )
    return float(gaps.abs().sum() / len(confidences_N))


def neural_collapse(
    network: Network, split: Split, classes: int, batch_size: int, device: torch.device, interrupt: Interrupt
) -> dict[str, float]:
    """The measures of Papyan, Han, Donoho 2020 (https://arxiv.org/abs/2008.08186) on a part of the data.

    `nc1` tr(Sigma_W pinv(Sigma_B)) / K; `nc2_norms` the spread of the centred class means' norms (std over mean);
    `nc2_angles` their mean |cos + 1/(K-1)|; `nc3` the mean cosine between them and the classifier's rows, 1 when
    aligned, left out where the classifier has no rows for classes. float64.
    """
    features, labels = [], []
    for outputs, batch_labels, _ in passes(network, split, batch_size, device, "embedding", interrupt=interrupt):
        assert outputs.embedding is not None
        features.append(outputs.embedding.double().cpu())
        labels.append(batch_labels.cpu())
    features_ND, labels_N = torch.cat(features), torch.cat(labels)
    counts_K = labels_N.bincount(minlength=classes)
    present = counts_K > 0
    sums_KD = torch.zeros(classes, features_ND.shape[1], dtype=torch.float64).index_add_(0, labels_N, features_ND)
    means_KD = sums_KD / counts_K.clamp(min=1)[:, None]
    centred_KD = (means_KD - means_KD[present].mean(0))[present]
    within_ND = features_ND - means_KD[labels_N]
    within_DD = within_ND.T @ within_ND / len(features_ND)
    between_DD = centred_KD.T @ centred_KD / len(centred_KD)
    norms_K = centred_KD.norm(dim=1)
    directions_KD = F.normalize(centred_KD, dim=1)
    count = len(centred_KD)
    off_diagonal = ~torch.eye(count, dtype=torch.bool)
    measures = {
        "nc1": float((within_DD @ torch.linalg.pinv(between_DD, hermitian=True)).trace() / count),
        "nc2_norms": float(norms_K.std() / norms_K.mean()),
        "nc2_angles": float(((directions_KD @ directions_KD.T)[off_diagonal] + 1 / (count - 1)).abs().mean()),
    }
    rows_KD = classifier_rows(network)
    if rows_KD is not None and rows_KD.shape == means_KD.shape:
        rows_KD = rows_KD.detach().double().cpu()[present]
        measures["nc3"] = float((F.normalize(rows_KD - rows_KD.mean(0), dim=1) * directions_KD).sum(1).mean())
    return measures


def classifier_rows(network: Network) -> Tensor | None:
    """(K, D) the direction that each class's logit reads, or None where the classifier has none."""
    for name in ("weight", "directions_KD"):
        rows = getattr(network.classifier, name, None)
        if isinstance(rows, Tensor) and rows.ndim == 2:
            return rows
    return None
