"""What is measured of a network on a part of the data, against other people's code and by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, log_loss, recall_score, top_k_accuracy_score
from torch import nn

from retort.engine.evaluate import CALIBRATION_BINS, calibration_error, score
from retort.engine.interrupt import Interrupt
from retort.network import Layout, Network

CPU = torch.device("cpu")
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
    return score(network(seed), PART, batch_size, CPU, Interrupt())


def probabilities(seed):
    with torch.no_grad():
        return network(seed)(PART.pixels.float() / 255).softmax(1).double().numpy()


def test_scores_are_those_of_scikit_learn():
    found, said, labels = scored(1), probabilities(1), PART.targets.numpy()
    said /= said.sum(1, keepdims=True)
    guesses = said.argmax(1)
    assert found.correct == accuracy_score(labels, guesses, normalize=False)
    assert found.correct_in_5 == top_k_accuracy_score(labels, said, k=5, normalize=False, labels=range(CLASSES))
    assert found.loss == pytest.approx(log_loss(labels, said, labels=range(CLASSES)))
    recalls = recall_score(labels, guesses, labels=range(CLASSES), average=None, zero_division=np.nan)
    assert found.class_accuracies[WITHOUT_IMAGES] is None
    assert [math.nan if share is None else share for share in found.class_accuracies] == pytest.approx(
        recalls.tolist(), nan_ok=True
    )
    assert found.guesses_N.tolist() == guesses.tolist()


def test_calibration_error_is_that_of_scikit_learns_bins():
    said = probabilities(1)
    sure, right = said.max(1), said.argmax(1) == PART.targets.numpy()
    shares, means = calibration_curve(right, sure, n_bins=CALIBRATION_BINS)
    images, _ = np.histogram(sure, bins=CALIBRATION_BINS, range=(0, 1))
    wanted = (images[images > 0] * abs(shares - means)).sum() / len(sure)
    assert wanted > 0.1
    assert scored(1).calibration_error == pytest.approx(wanted)


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
    assert found.guesses_N.equal(wanted.guesses_N)
    assert (found.correct, found.correct_in_5) == (wanted.correct, wanted.correct_in_5)
    assert found.values("test") == pytest.approx(wanted.values("test"))


def test_agreement_counts_equal_guesses_right_or_wrong():
    one, other = scored(1), scored(2)
    same = (probabilities(1).argmax(1) == probabilities(2).argmax(1)).mean()
    assert 0 < same < 1
    assert one.agreement(other) == other.agreement(one) == pytest.approx(same)
    assert one.agreement(one) == 1
