"""The views that retort/view.py describes, made on the device a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial, singledispatch
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from retort import draws
from retort.augmentation import (
    Augmentation,
    AutoAugmentPolicy,
    BatchCutMix,
    BatchMixup,
    BatchMixupOrCutMix,
    Erasing,
    Mix,
    RandAugmentPolicy,
    ResizedCrop,
)
from retort.draws import DrawPoint
from retort.images.policies import Draw, follow
from retort.view import (
    CLEAN,
    AutoAugment,
    Clean,
    CutMix,
    CutMixPick,
    Cutout,
    Mixing,
    Mixup,
    RandAugment,
    View,
    ViewBatch,
)


@dataclass(frozen=True)
class DrawContext:
    """The place of a batch in the training, and the data's mean colour: all that its draws depend on."""

    data_seed: int
    epoch: int
    step: int
    indices: Tensor
    """(N,) int64 positions of the batch's images in the training split."""
    fill: Tensor
    """(1, 3, 1, 1) the data's mean colour in [0, 1]."""
    teacher: Callable[[Tensor], Tensor] | None = None
    """(N, K) the teacher's logits of (N, 3, H, W) images, for views that depend on them."""

    def drawing(self, purpose: str) -> Draw:
        """Gives (N, count) draws of each image's own."""
        return partial(draws.uniform, self.data_seed, purpose, self.epoch, self.indices)


Range = tuple[float, float]

TRIES = 10
"""Boxes that are drawn for an image, of which the first that fits is taken."""


class Boxes(NamedTuple):
    """A box in each image, in whole pixels: (N, 1) float32 each."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def make_views(
    pixels: Tensor, views: Iterable[View], augmentation: Augmentation, fill: Tensor, point: DrawPoint
) -> dict[View, ViewBatch]:
    """The views of (N, 3, H, W) uint8 images, each made of the clean one; `fill` (1, 3, 1, 1) is the data's colour."""
    context = DrawContext(point.data_seed, point.epoch, point.step, point.indices, fill, point.teacher)
    augmented = augment(pixels, augmentation, context).contiguous(memory_format=torch.channels_last)
    clean = mix(augmented, augmentation.mix, context)
    return {view: clean if view == CLEAN else make(view, clean.inputs, context) for view in views}


def augment(pixels: Tensor, augmentation: Augmentation, draw_context: DrawContext) -> Tensor:
    """(N, 3, H, W) uint8 to float32 in [0, 1], changed by all of the augmentation but its `mix`, each image for
    itself."""
    images = _cropped(pixels, augmentation, draw_context)
    if augmentation.policy is not None:
        images = follow(augmentation.policy, images, draw_context.drawing("augmentation policy"))
    if augmentation.erasing is not None:
        images = _erased(images, augmentation.erasing, draw_context)
    if augmentation.cutout is not None:
        images = _cut_out(images, augmentation.cutout, draw_context, "augmentation cutout")
    return images


def mix(images: Tensor, wanted: Mix | None, draw_context: DrawContext) -> ViewBatch:
    """The clean view of (N, 3, H, W) augmented images: they themselves, or mixed; the larger share is their own."""
    if wanted is None:
        return ViewBatch(images)
    draw = draws.shared(draw_context.data_seed, "augmentation mix", draw_context.epoch, draw_context.step)
    if draw.random() >= wanted.probability:
        return ViewBatch(images, _mixed(_partners(draw, images), 1.0))
    if isinstance(wanted, BatchMixupOrCutMix):
        cuts = draw.random() < wanted.switch_probability
        wanted = BatchCutMix(alpha=wanted.cutmix_alpha) if cuts else BatchMixup(alpha=wanted.mixup_alpha)
    blend = _mixup if isinstance(wanted, BatchMixup) else _cutmix
    return blend(wanted.alpha, images, draw, larger_own=True)


def _cropped(pixels: Tensor, augmentation: Augmentation, draw_context: DrawContext) -> Tensor:
    padding = augmentation.crop_padding
    if not padding and not augmentation.flip and augmentation.resized_crop is None:
        return pixels.float() / 255
    count, _, height, width = pixels.shape
    chances = draw_context.drawing("crop and flip")(3)
    flipped = (chances[:, 2:] < 0.5) & augmentation.flip
    if augmentation.resized_crop is not None:
        return _resized(pixels, augmentation.resized_crop, flipped, draw_context)
    rows = torch.arange(height, device=pixels.device).expand(count, -1)
    columns = torch.arange(width, device=pixels.device).expand(count, -1)
    columns = torch.where(flipped, columns.flip(1), columns)
    if padding:
        pixels = F.pad(pixels, (padding,) * 4)
        offsets = (chances[:, :2] * (2 * padding + 1)).long()
        rows, columns = rows + offsets[:, :1], columns + offsets[:, 1:]
    images = torch.arange(count, device=pixels.device)[:, None, None]
    cropped = pixels.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2).float() / 255


def _resized(pixels: Tensor, crop: ResizedCrop, flipped: Tensor, draw_context: DrawContext) -> Tensor:
    """A box of each image, scaled to its size by bilinear interpolation within the box, mirrored where (N, 1) is
    true."""
    height, width = pixels.shape[-2:]
    boxes, found = draw_boxes(
        draw_context.drawing("resized crop"), (height, width), (height, width), crop.area, crop.ratio
    )
    # Where none fitted, the middle: as much of it as the range of shapes allows.
    narrowest, widest = crop.ratio
    high, wide = round(height * min(1, 1 / narrowest)), round(width * min(1, widest))
    middle = ((height - high) // 2, (width - wide) // 2, high, wide)
    top, left, high_N, wide_N = (torch.where(found, box, other) for box, other in zip(boxes, middle, strict=True))
    rows = (torch.arange(height, device=pixels.device) + 0.5) * high_N / height - 0.5
    columns = (torch.arange(width, device=pixels.device) + 0.5) * wide_N / width - 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    y = top + torch.minimum(rows.clamp(min=0), high_N - 1)
    x = left + torch.minimum(columns.clamp(min=0), wide_N - 1)
    # A grid counts from -1 to 1.
    x, y = 2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], 3)
    return F.grid_sample(pixels.float() / 255, grid, padding_mode="border", align_corners=True)


def draw_boxes(
    draw: Draw, within: tuple[int, int], most: tuple[int, int], area: Range, ratio: Range
) -> tuple[Boxes, Tensor]:
    """A box in each image and (N, 1) bool, whether one was found that is no larger than `most`, height and width.

    `area` is a range of shares of the image's, `ratio` one of width over height.
    """
    chances = draw(2 * TRIES + 2)
    height, width = within
    areas = height * width * (area[0] + chances[:, :TRIES] * (area[1] - area[0]))
    least, largest = math.log(ratio[0]), math.log(ratio[1])
    ratios = (least + chances[:, TRIES : 2 * TRIES] * (largest - least)).exp()
    widths, heights = (areas * ratios).sqrt().round(), (areas / ratios).sqrt().round()
    fits = (heights >= 1) & (widths >= 1) & (heights <= most[0]) & (widths <= most[1])
    first = fits.byte().argmax(1, keepdim=True)
    high, wide = heights.gather(1, first), widths.gather(1, first)
    top = (chances[:, -2:-1] * (height - high + 1)).floor()
    left = (chances[:, -1:] * (width - wide + 1)).floor()
    return Boxes(top, left, high, wide), fits.any(1, keepdim=True)


def _erased(images: Tensor, erasing: Erasing, draw_context: DrawContext) -> Tensor:
    count, channels, height, width = images.shape
    upright = (1 / erasing.ratio[1], 1 / erasing.ratio[0])
    most = (height - 1, width - 1)
    boxes, found = draw_boxes(draw_context.drawing("erasing"), (height, width), most, erasing.area, upright)
    happens = found & (draw_context.drawing("whether to erase")(1) < erasing.probability)
    covered = _covered(images, *boxes) & happens[:, :, None, None]
    if erasing.fill == "mean":
        return torch.where(covered, draw_context.fill, images)
    noise = draws.octets(
        draw_context.data_seed, "erasing", draw_context.epoch, draw_context.indices, channels * height * width
    )
    return torch.where(covered, noise.view(count, channels, height, width) / 255, images)


def _cut_out(images: Tensor, share: float, draw_context: DrawContext, purpose: str) -> Tensor:
    """A square of the mean colour at a place of its own in each image; its centre may lie at the border."""
    height, width = images.shape[-2:]
    side = max(1, round(share * height))
    chances = draw_context.drawing(purpose)(2)
    middle_y, middle_x = (chances[:, :1] * height).floor(), (chances[:, 1:] * width).floor()
    covered = _covered(images, middle_y - side / 2, middle_x - side / 2, side, side)
    return torch.where(covered, draw_context.fill, images)


def _covered(images: Tensor, top: Tensor, left: Tensor, high: Tensor | int, wide: Tensor | int) -> Tensor:
    """(N, 1, H, W) bool: true within the boxes, which are given by (N, 1) each."""
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    in_rows = (rows >= top) & (rows < top + high)
    in_columns = (columns >= left) & (columns < left + wide)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


@singledispatch
def make(view: View, clean: Tensor, draw_context: DrawContext) -> ViewBatch:
    """The view of (N, 3, H, W) clean images."""
    raise TypeError(f"no way is known to make the view {view!r}")


@make.register
def _(view: Clean, clean: Tensor, draw_context: DrawContext) -> ViewBatch:
    return ViewBatch(clean)


@make.register
def _(view: Mixup, clean: Tensor, draw_context: DrawContext) -> ViewBatch:
    return _mixup(
        view.alpha, clean, draws.shared(draw_context.data_seed, repr(view), draw_context.epoch, draw_context.step)
    )


@make.register
def _(view: CutMix, clean: Tensor, draw_context: DrawContext) -> ViewBatch:
    return _cutmix(
        view.alpha, clean, draws.shared(draw_context.data_seed, repr(view), draw_context.epoch, draw_context.step)
    )


@make.register
def _(view: CutMixPick, clean: Tensor, draw_context: DrawContext) -> ViewBatch:
    assert draw_context.teacher is not None, "the recipe's validation asks for a teacher where a method needs one"
    purposes = [f"{view!r} {run}" for run in range(view.runs)]
    runs = [
        _cutmix(view.alpha, clean, draws.shared(draw_context.data_seed, purpose, draw_context.epoch, draw_context.step))
        for purpose in purposes
    ]
    candidates = torch.cat([made.inputs for made in runs])
    p = draw_context.teacher(candidates).float().softmax(1)
    picked = torch.special.entr(p).sum(1).topk(len(clean)).indices

    def of_runs(read: Callable[[Mixing], Tensor]) -> Tensor:
        return torch.cat([read(made.mixed) for made in runs if made.mixed is not None])[picked]

    mixed = Mixing(of_runs(lambda m: m.image), of_runs(lambda m: m.partner), of_runs(lambda m: m.weight))
    return ViewBatch(candidates[picked], mixed)


@make.register
def _(view: RandAugment, clean: Tensor, draw_context: DrawContext) -> ViewBatch:
    policy = RandAugmentPolicy(operations=view.operations, magnitude=view.magnitude)
    return ViewBatch(follow(policy, clean, draw_context.drawing(repr(view))))


@make.register
def _(view: AutoAugment, clean: Tensor, draw_context: DrawContext) -> ViewBatch:
    return ViewBatch(follow(AutoAugmentPolicy(learned_on=view.policy), clean, draw_context.drawing(repr(view))))


@make.register
def _(view: Cutout, clean: Tensor, draw_context: DrawContext) -> ViewBatch:
    return ViewBatch(_cut_out(clean, view.share, draw_context, repr(view)))


def _mixup(alpha: float, clean: Tensor, draw: np.random.Generator, *, larger_own: bool = False) -> ViewBatch:
    weight, partner = float(draw.beta(alpha, alpha)), _partners(draw, clean)
    if larger_own:
        # Partners are drawn evenly: with the roles exchanged it is the same mixture, in another place.
        weight = max(weight, 1 - weight)
    return ViewBatch(weight * clean + (1 - weight) * clean[partner], _mixed(partner, weight))


def _cutmix(alpha: float, clean: Tensor, draw: np.random.Generator, *, larger_own: bool = False) -> ViewBatch:
    weight, partner = float(draw.beta(alpha, alpha)), _partners(draw, clean)
    height, width = clean.shape[-2:]
    side = (1 - weight) ** 0.5
    middle_y, middle_x = int(draw.integers(height)), int(draw.integers(width))
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    top, bottom = max(middle_y - half_height, 0), min(middle_y + half_height, height)
    left, right = max(middle_x - half_width, 0), min(middle_x + half_width, width)
    # A box cut off at the border covers less than was drawn.
    share = (bottom - top) * (right - left) / (height * width)
    context, inside = (clean[partner], clean) if larger_own and share > 0.5 else (clean.clone(), clean[partner])
    context[:, :, top:bottom, left:right] = inside[:, :, top:bottom, left:right]
    return ViewBatch(context, _mixed(partner, max(share, 1 - share) if larger_own else 1 - share))


def _partners(draw: np.random.Generator, images: Tensor) -> Tensor:
    """(N,) an order of the batch in which no image is its own partner, but for a batch of one."""
    order = draw.permutation(len(images))
    partner = np.empty_like(order)
    partner[order] = np.roll(order, 1)
    return torch.as_tensor(partner, dtype=torch.int64, device=images.device)


def _mixed(partner: Tensor, weight: float) -> Mixing:
    """The same share of each image in the order of the batch."""
    image = torch.arange(len(partner), device=partner.device)
    return Mixing(image, partner, torch.full((len(partner),), weight, device=partner.device))
