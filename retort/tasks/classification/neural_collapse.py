"""Neural collapse: how far the embeddings of a classifier's training images have become their class means."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from retort.network import Network


def neural_collapse(network: Network, embeddings: Iterable[tuple[Tensor, Tensor]], classes: int) -> dict[str, float]:
    """The measures of Papyan, Han, Donoho 2020 (https://arxiv.org/abs/2008.08186) on some (embedding, class) batches.

    `nc1` tr(Sigma_W pinv(Sigma_B)) / K; `nc2_norms` the spread of the centred class means' norms (std over mean);
    `nc2_angles` their mean |cos + 1/(K-1)|; `nc3` the mean cosine between them and the classifier's rows, 1 when
    aligned, left out where the classifier has no rows for classes. float64. None at all where the class means are one,
    as those of a dead network are, or not finite.
    """
    features, labels = [], []
    for batch_ND, labels_N in embeddings:
        features.append(batch_ND.double().cpu())
        labels.append(labels_N.cpu())
    features_ND, labels_N = torch.cat(features), torch.cat(labels)
    counts_K = labels_N.bincount(minlength=classes)
    present = counts_K > 0
    sums_KD = torch.zeros(classes, features_ND.shape[1], dtype=torch.float64).index_add_(0, labels_N, features_ND)
    means_KD = sums_KD / counts_K.clamp(min=1)[:, None]
    centred_KD = (means_KD - means_KD[present].mean(0))[present]
    if not 0 < float(centred_KD.norm()) < math.inf:
        return {}
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
