"""Each operation is torchvision's on every image: equal to 1e-6, and to the bit where it only moves or selects."""

import math

import pytest
import torch
from torchvision.transforms.v2 import functional

from retort.images.operations import FAMILIES, NUMBER, OPERATIONS, apply

N = 24


def affine(image, *, shear=(0.0, 0.0), translate=(0, 0), corner=False):
    center = [0, 0] if corner else None
    degrees = [math.degrees(math.atan(slope)) for slope in shear]
    return functional.affine(image, 0.0, list(translate), 1.0, degrees, center=center)


REFERENCE = {
    "identity": lambda image, _: image,
    "shear_x": lambda image, slope: affine(image, shear=(slope, 0.0), corner=True),
    "shear_y": lambda image, slope: affine(image, shear=(0.0, slope), corner=True),
    "translate_x": lambda image, pixels: affine(image, translate=(int(pixels), 0)),
    "translate_y": lambda image, pixels: affine(image, translate=(0, int(pixels))),
    "rotate": functional.rotate,
    "brightness": lambda image, change: functional.adjust_brightness(image, 1 + change),
    "color": lambda image, change: functional.adjust_saturation(image, 1 + change),
    "contrast": lambda image, change: functional.adjust_contrast(image, 1 + change),
    "sharpness": lambda image, change: functional.adjust_sharpness(image, 1 + change),
    "posterize": lambda image, bits: functional.posterize(image, int(bits)),
    "solarize": functional.solarize,
    "autocontrast": lambda image, _: functional.autocontrast(image),
    "equalize": lambda image, _: functional.equalize(image),
    "invert": lambda image, _: functional.invert(image),
}
TO_THE_BIT = {
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "posterize",
    "solarize",
    "invert",
}


def strengths(name, generator):
    drawn = torch.rand(N, generator=generator, dtype=torch.float64)
    if name.startswith("translate"):
        return (drawn * 41 - 20).trunc()
    if name == "rotate":
        return drawn * 270 - 135
    if name == "posterize":
        return (drawn * 9).floor()
    return drawn if name == "solarize" else drawn * 1.98 - 0.99


def pictures(height, width, generator):
    """Half of them random, half smooth: a ramp of its own slope and offset in each channel, one of them flat."""
    noise = torch.randint(256, (N // 2, 3, height, width), generator=generator) / 255
    slopes, offsets = torch.rand(2, N // 2, 3, 1, 1, generator=generator) / 2
    slopes[0] = 0
    ramps = offsets + slopes * torch.linspace(0, 1, height)[:, None] * torch.linspace(0, 1, width)
    return torch.cat([noise, ramps])


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_torchvisions(name):
    for size in [(32, 32), (8, 8), (33, 20), (2, 2)]:
        generator = torch.Generator().manual_seed(NUMBER[name])
        images, strength = pictures(*size, generator), strengths(name, generator)
        wanted = torch.stack([REFERENCE[name](x, s) for x, s in zip(images, strength.tolist(), strict=True)])
        found = apply(images, torch.full((N,), NUMBER[name]), strength)
        if name in TO_THE_BIT:
            assert torch.equal(found, wanted), size
        else:
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6, msg=lambda text, size=size: f"{size}: {text}")


@pytest.fixture
def mixture():
    generator = torch.Generator().manual_seed(0)
    images = torch.cat([pictures(9, 9, generator)] * 5)
    operation = torch.arange(len(images)) % len(OPERATIONS)
    strength = torch.stack([strengths(OPERATIONS[number], generator)[i % N] for i, number in enumerate(operation)])
    return images, operation, strength


def test_computed_on_all_images_each_becomes_the_same_to_the_bit(mixture):
    """A GPU computes every family on all images, a CPU only where it is wanted."""
    images, operation, strength = mixture
    everywhere = images
    for _, change in FAMILIES:
        everywhere = change(everywhere, operation, strength)
    assert torch.equal(apply(images, operation, strength), everywhere)


def test_no_image_depends_on_its_batch_nor_is_the_batch_changed(mixture):
    before = mixture[0].clone()
    together = apply(*mixture)
    for i in range(len(OPERATIONS)):
        assert torch.equal(apply(*(tensor[i : i + 1] for tensor in mixture))[0], together[i]), OPERATIONS[i]
    assert torch.equal(mixture[0], before)


def test_every_operation_has_a_family():
    in_families = [name for names, _ in FAMILIES for name in names]
    assert sorted(["identity", *in_families]) == sorted(OPERATIONS)
