"""The metrics of classification against other people's code and by hand, and its label term."""

import math

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, log_loss, recall_score, top_k_accuracy_score
from torch import nn
from torch.nn import functional as F

from retort.engine.evaluate import score
from retort.engine.interrupt import Interrupt
from retort.method import STUDENT, Batch
from retort.network import Layout, Network
from retort.outputs import Outputs
from retort.tasks import TASKS
from retort.tasks.classification.losses import cross_entropy
from retort.tasks.classification.metrics import CALIBRATION_BINS, calibration_error
from retort.view import CLEAN, Mixing

CPU = torch.device("cpu")
CLASSIFICATION = TASKS["classification"]
CLASSES, WITHOUT_IMAGES = 9, 3


class RandomPart:
    """Images of 2 x 2 pixels, of all classes but one."""

    def __init__(self, images):
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(256, (images, 3, 2, 2), dtype=torch.uint8, generator=generator)
        labels = torch.randint(CLASSES - 1, (images,), generator=generator)
        self.targets = labels + (labels >= WITHOUT_IMAGES)

    def __len__(self):
        return len(self.targets)

    def inputs(self, indices):
        return self.pixels[indices]


def network(seed):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES))
    nn.init.normal_(body[1].weight, std=2)
    return Network(body, Layout(stages=("0",), classifier="1"))


PART = RandomPart(500)


def scored(seed, batch_size=64):
    return score(CLASSIFICATION, network(seed), PART, batch_size, CPU, Interrupt())


def agreement(one, other):
    return CLASSIFICATION.compare(one, other)["agreement"]


def probabilities(seed):
    with torch.no_grad():
        return network(seed)(PART.pixels.float() / 255).softmax(1).double().numpy()


def test_scores_are_those_of_scikit_learn():
    found, said, labels = scored(1), probabilities(1), PART.targets.numpy()
    said /= said.sum(1, keepdims=True)
    guesses = said.argmax(1)
    assert found.metrics["correct"] == accuracy_score(labels, guesses, normalize=False)
    assert found.metrics["top5"] * 500 == top_k_accuracy_score(
        labels, said, k=5, normalize=False, labels=range(CLASSES)
    )
    assert found.metrics["loss"] == pytest.approx(log_loss(labels, said, labels=range(CLASSES)))
    recalls = recall_score(labels, guesses, labels=range(CLASSES), average=None, zero_division=np.nan)
    assert found.details["class_accuracies"][WITHOUT_IMAGES] is None
    assert [math.nan if share is None else share for share in found.details["class_accuracies"]] == pytest.approx(
        recalls.tolist(), nan_ok=True
    )
    assert found.predictions.tolist() == guesses.tolist()


def test_calibration_error_is_that_of_scikit_learns_bins():
    said = probabilities(1)
    sure, right = said.max(1), said.argmax(1) == PART.targets.numpy()
    shares, means = calibration_curve(right, sure, n_bins=CALIBRATION_BINS)
    images, _ = np.histogram(sure, bins=CALIBRATION_BINS, range=(0, 1))
    wanted = (images[images > 0] * abs(shares - means)).sum() / len(sure)
    assert wanted > 0.1
    assert scored(1).metrics["calibration_error"] == pytest.approx(wanted)


def test_calibration_error_by_hand():
    # Two bins: (0.6, 0.667] with one of two right, (0.933, 1] with one of one right.
    sure = torch.tensor([0.61, 0.65, 1.0])
    assert calibration_error(sure, torch.tensor([True, False, True])) == pytest.approx((0.61 + 0.65 - 1) / 3)
    # 0.6 is the end of the bin below: over- and underconfidence in two bins do not make up for each other.
    sure = torch.tensor([9 / 15, 0.61], dtype=torch.float64)
    assert calibration_error(sure, torch.tensor([True, False])) == pytest.approx((0.4 + 0.61) / 2)


@pytest.mark.parametrize("batch_size", [1, 7, 500, 1000])
def test_batches_do_not_matter(batch_size):
    found, wanted = scored(1, batch_size), scored(1)
    assert found.predictions.equal(wanted.predictions)
    assert [found.metrics[name] for name in ("correct", "top5")] == [
        wanted.metrics[name] for name in ("correct", "top5")
    ]
    assert found.values("test") == pytest.approx(wanted.values("test"))


def test_agreement_counts_equal_guesses_right_or_wrong():
    one, other = scored(1), scored(2)
    same = (probabilities(1).argmax(1) == probabilities(2).argmax(1)).mean()
    assert 0 < same < 1
    assert agreement(one, other) == agreement(other, one) == pytest.approx(same)
    assert agreement(one, one) == 1


N, K = 6, 5


def batch(logits, labels, mixed=None):
    nothing = torch.tensor(0)
    made = {} if mixed is None else {CLEAN: mixed}
    outputs = {(STUDENT, CLEAN): Outputs(logits)}
    return Batch(outputs, labels, torch.arange(N), nothing, nothing, nothing, nothing, made)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_cross_entropy_of_mixed_images_counts_both_labels_by_their_shares(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(N, K, generator=generator)
    labels, partner = torch.arange(N) % K, torch.arange(N).roll(2)
    weight = 0.5 + torch.rand(N, generator=generator) / 2
    found = cross_entropy(logits, batch(logits, labels, Mixing(torch.arange(N), partner, weight)), smoothing)
    soft = weight[:, None] * F.one_hot(labels, K) + (1 - weight)[:, None] * F.one_hot(labels[partner], K)
    torch.testing.assert_close(found, F.cross_entropy(logits, soft, label_smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_unmixed_images_have_one_label(smoothing):
    logits, labels = torch.randn(N, K, generator=torch.Generator().manual_seed(0)), torch.arange(N) % K
    whole = Mixing(torch.arange(N), torch.arange(N).roll(1), torch.ones(N))
    wanted = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert torch.equal(cross_entropy(logits, batch(logits, labels), smoothing), wanted)
    torch.testing.assert_close(cross_entropy(logits, batch(logits, labels, whole), smoothing), wanted)
