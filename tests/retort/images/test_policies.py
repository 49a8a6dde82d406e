"""Policies choose what torchvision's choose; its tables are read from the classes that it defines."""

from functools import partial

import pytest
import torch
from torchvision.transforms import v2

from retort import draws
from retort.augmentation import AutoAugmentPolicy, RandAugmentPolicy, TrivialAugmentPolicy
from retort.images.operations import NUMBER, OPERATIONS, apply
from retort.images.policies import chosen, follow

CPU = torch.device("cpu")
MANY = 20_000
SIGNED = set(OPERATIONS[1:10])


def named(torchvisions):
    """`TranslateX` as `translate_x`, `AutoContrast` as `autocontrast`."""
    return (
        torchvisions.lower()
        if torchvisions[-1] not in "XY"
        else f"{torchvisions[:-1].lower()}_{torchvisions[-1].lower()}"
    )


def ranges(transform, bins, size):
    """torchvision's strength of each operation, by magnitude."""
    space = transform._AUGMENTATION_SPACE
    found = {named(name): magnitudes(bins, *size) for name, (magnitudes, _) in space.items()}
    assert {named(name) for name, (_, signed) in space.items() if signed} == SIGNED
    whole = {"translate_x", "translate_y", "posterize"}
    # A little added: in float32 half of 32 pixels falls short of 16, and would be cut to 15.
    return {
        name: torch.zeros(bins) if values is None else (values + 1e-4).trunc() if name in whole else values
        for name, values in found.items()
    }


def drawing(samples):
    return partial(draws.uniform, 0, "test", 0, samples)


def everything(policy, size=(32, 24)):
    """Operation, strength of each of many images, a pair a step."""
    return list(chosen(policy, drawing(torch.arange(MANY)), size, CPU))


def assert_even(counts):
    share = 1 / len(counts)
    assert ((counts / counts.sum() - share).abs() < 5 * (share / counts.sum()) ** 0.5).all()


@pytest.mark.parametrize("magnitude", [0, 1, 9, 10, 17, 30])
def test_randaugment_draws_evenly_at_torchvisions_strengths(magnitude):
    steps = everything(RandAugmentPolicy(operations=3, magnitude=magnitude))
    wanted = ranges(v2.RandAugment(), 31, (32, 24))
    assert len(steps) == 3
    for operation, strength in steps:
        assert_even(torch.bincount(operation, minlength=14))
        for name, values in wanted.items():
            found = strength[operation == NUMBER[name]]
            torch.testing.assert_close(found.abs(), values[magnitude].double().expand_as(found), rtol=0, atol=1e-5)
            if name in SIGNED and values[magnitude]:
                assert_even(torch.stack([(found < 0).sum(), (found > 0).sum()]))
    assert (steps[0][0] == steps[1][0]).float().mean() == pytest.approx(1 / 14, abs=0.01)


def test_trivialaugment_draws_operation_strength_and_sign_evenly():
    ((operation, strength),) = everything(TrivialAugmentPolicy())
    assert_even(torch.bincount(operation, minlength=14))
    for name, values in ranges(v2.TrivialAugmentWide(), 31, (32, 24)).items():
        found = strength[operation == NUMBER[name]]
        distances = (found.abs()[:, None] - values).abs()
        assert distances.min(1).values.max() < 1e-5, name
        if len(values.unique()) == 31:
            assert_even(torch.bincount(distances.argmin(1), minlength=31))
        if name in SIGNED:
            assert_even(torch.stack([(found < 0).sum(), (found > 0).sum()]))


@pytest.mark.parametrize("data", ["cifar10", "imagenet"])
def test_autoaugment_does_torchvisions_pairs_with_their_probabilities(data):
    transform = v2.AutoAugment(v2.AutoAugmentPolicy(data))
    values = ranges(transform, 10, (32, 24))
    first, second = everything(AutoAugmentPolicy(learned_on=data))
    assert len(transform._policies) == 25
    for number, pair in enumerate(transform._policies):
        # Every draw but the first is 0: what can happen does, with a minus where it has a sign.
        chances = torch.zeros(1, 5)
        chances[0, 0] = (number + 0.5) / 25
        steps = chosen(AutoAugmentPolicy(learned_on=data), lambda count, chances=chances: chances, (32, 24), CPU)
        for (operation, strength), (name, probability, magnitude) in zip(steps, pair, strict=True):
            name = named(name) if probability else "identity"
            assert OPERATIONS[operation] == name
            wanted = 0 if magnitude is None or not probability else float(values[name][magnitude])
            assert strength.item() == pytest.approx(-wanted if name in SIGNED else wanted, abs=1e-5)
    for step, (operation, _) in enumerate((first, second)):
        expected = torch.zeros(len(OPERATIONS))
        for pair in transform._policies:
            name, probability, _ = pair[step]
            expected[NUMBER[named(name)]] += probability / 25
            expected[0] += (1 - probability) / 25
        found = torch.bincount(operation, minlength=len(OPERATIONS)) / MANY
        assert (found - expected).abs().max() < 5 * (0.25 / MANY) ** 0.5


@pytest.mark.parametrize(
    "policy",
    [RandAugmentPolicy(), AutoAugmentPolicy(), AutoAugmentPolicy(learned_on="imagenet"), TrivialAugmentPolicy()],
)
def test_images_are_changed_as_chosen_each_for_itself(policy):
    images = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    samples = torch.arange(100, 140)
    together = follow(policy, images, drawing(samples))
    by_hand = images
    for operation, strength in chosen(policy, drawing(samples), (16, 16), CPU):
        by_hand = apply(by_hand, operation, strength)
    assert torch.equal(together, by_hand)
    assert not torch.equal(together, images)
    assert 0 <= together.min() <= together.max() <= 1
    for some in (samples[:7], samples[7:8], samples[8:]):
        assert torch.equal(follow(policy, images[some - 100], drawing(some)), together[some - 100])
