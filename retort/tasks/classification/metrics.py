"""The metrics of classification, always in float32 or wider."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from retort.outputs import Outputs
from retort.task import Gatherer, Score

CALIBRATION_BINS = 15
"""As many as in the tables of Guo and others."""


class ClassificationMeter:
    """Measures `accuracy`, `top5` (all five guesses, with five classes or fewer), `correct`, `images`, `loss` and
    `calibration_error`.

    `loss` is the mean cross-entropy in nats per image. The predictions are the (N,) int64 first guesses; the detail
    `class_accuracies` is each class's share of images whose first guess is right, None for a class without images.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._in_5 = torch.zeros((), dtype=torch.int64, device=device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._guesses: list[Tensor] = []
        self._confidences: list[Tensor] = []
        self._classes = 0

    def reset(self) -> None:
        self._in_5.zero_()
        self._loss.zero_()
        self._guesses, self._confidences = [], []
        self._classes = 0

    def add(self, outputs: Outputs, targets: Tensor) -> None:
        logits = outputs.logits.float()
        self._classes = logits.shape[1]
        guesses = logits.topk(min(5, self._classes), dim=1).indices
        self._in_5 += (guesses == targets[:, None]).sum()
        self._loss += F.cross_entropy(logits, targets, reduction="sum").double()
        self._guesses.append(guesses[:, 0])
        self._confidences.append(logits.softmax(1).amax(1))

    def result(self, targets: Tensor, group: Gatherer) -> Score:
        count = len(targets)
        guesses_N, confidences_N = (
            group.gather(torch.cat(found), count).cpu() for found in (self._guesses, self._confidences)
        )
        targets_N = targets.cpu()
        right_N = guesses_N == targets_N
        images_K, right_K = (
            some.bincount(minlength=self._classes).tolist() for some in (targets_N, targets_N[right_N])
        )
        correct = int(right_N.sum())
        return Score(
            {
                "accuracy": correct / count,
                "top5": int(group.total(self._in_5, count)) / count,
                "correct": correct,
                "images": count,
                "loss": float(group.total(self._loss, count)) / count,
                "calibration_error": calibration_error(confidences_N, right_N),
            },
            {"class_accuracies": [r / n if n else None for r, n in zip(right_K, images_K, strict=True)]},
            guesses_N,
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
