"""The views that worker/view.py describes, made on the device a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from worker import draws
from worker.method import Mixed
from worker.recipe import Augmentation
from worker.view import AutoAugment, Clean, CutMix, CutMixPick, Cutout, Mixup, RandAugment, View


@dataclass(frozen=True)
class Made:
    """A view of a batch: (N, 3, H, W) float32 RGB in [0, 1], and how it was mixed, if it was."""

    images: Tensor
    mixed: Mixed | None = None


@dataclass(frozen=True)
class Moment:
    """Where in the training a batch stands: all that its draws depend on."""

    data_seed: int
    epoch: int
    step: int
    indices: Tensor
    """(N,) int64 positions of the batch's images in the training part."""
    fill: Tensor
    """(1, 3, 1, 1) the data's mean colour in [0, 1]."""
    teacher: Callable[[Tensor], Tensor] | None = None
    """(N, K) the teacher's logits of (N, 3, H, W) images, for views that depend on them."""


def augment(pixels: Tensor, augmentation: Augmentation, moment: Moment) -> Tensor:
    """(N, 3, H, W) uint8 to float32 in [0, 1], cropped and flipped as the recipe says, each image for itself."""
    padding = augmentation.crop_padding
    if not padding and not augmentation.flip:
        return pixels.float() / 255
    count, _, height, width = pixels.shape
    chances = draws.uniform(moment.data_seed, "crop and flip", moment.epoch, moment.indices, 3)
    rows = torch.arange(height, device=pixels.device).expand(count, -1)
    columns = torch.arange(width, device=pixels.device).expand(count, -1)
    if augmentation.flip:
        columns = torch.where(chances[:, 2:] < 0.5, columns.flip(1), columns)
    if padding:
        pixels = F.pad(pixels, (padding,) * 4)
        offsets = (chances[:, :2] * (2 * padding + 1)).long()
        rows, columns = rows + offsets[:, :1], columns + offsets[:, 1:]
    images = torch.arange(count, device=pixels.device)[:, None, None]
    cropped = pixels.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2).float() / 255


@singledispatch
def make(view: View, clean: Tensor, moment: Moment) -> Made:
    """The view of (N, 3, H, W) clean images."""
    raise TypeError(f"no way is known to make the view {view!r}")


@make.register
def _(view: Clean, clean: Tensor, moment: Moment) -> Made:
    return Made(clean)


@make.register
def _(view: Mixup, clean: Tensor, moment: Moment) -> Made:
    draw = draws.shared(moment.data_seed, repr(view), moment.epoch, moment.step)
    weight, partner = float(draw.beta(view.alpha, view.alpha)), _partners(draw, clean)
    return Made(weight * clean + (1 - weight) * clean[partner], _mixed(partner, weight))


@make.register
def _(view: CutMix, clean: Tensor, moment: Moment) -> Made:
    return _cutmix(view.alpha, clean, draws.shared(moment.data_seed, repr(view), moment.epoch, moment.step))


@make.register
def _(view: CutMixPick, clean: Tensor, moment: Moment) -> Made:
    assert moment.teacher is not None, "the recipe's validation asks for a teacher where a method needs one"
    purposes = [f"{view!r} {run}" for run in range(view.runs)]
    runs = [
        _cutmix(view.alpha, clean, draws.shared(moment.data_seed, purpose, moment.epoch, moment.step))
        for purpose in purposes
    ]
    candidates = torch.cat([made.images for made in runs])
    p = moment.teacher(candidates).float().softmax(1)
    picked = torch.special.entr(p).sum(1).topk(len(clean)).indices

    def of_runs(read: Callable[[Mixed], Tensor]) -> Tensor:
        return torch.cat([read(made.mixed) for made in runs if made.mixed is not None])[picked]

    mixed = Mixed(of_runs(lambda m: m.image), of_runs(lambda m: m.partner), of_runs(lambda m: m.weight))
    return Made(candidates[picked], mixed)


@make.register
def _(view: RandAugment, clean: Tensor, moment: Moment) -> Made:
    return Made(_each(v2.RandAugment(view.operations, view.magnitude), view, clean, moment))


@make.register
def _(view: AutoAugment, clean: Tensor, moment: Moment) -> Made:
    return Made(_each(v2.AutoAugment(v2.AutoAugmentPolicy(view.policy)), view, clean, moment))


@make.register
def _(view: Cutout, clean: Tensor, moment: Moment) -> Made:
    height, width = clean.shape[-2:]
    half = max(1, round(view.share * height)) / 2
    chances = draws.uniform(moment.data_seed, repr(view), moment.epoch, moment.indices, 2)
    middle_y, middle_x = (chances[:, :1] * height).floor(), (chances[:, 1:] * width).floor()
    rows = torch.arange(height, device=clean.device)
    columns = torch.arange(width, device=clean.device)
    in_rows = (rows >= middle_y - half) & (rows < middle_y + half)
    in_columns = (columns >= middle_x - half) & (columns < middle_x + half)
    covered = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
    return Made(torch.where(covered, moment.fill, clean))


def _cutmix(alpha: float, clean: Tensor, draw: np.random.Generator) -> Made:
    weight, partner = float(draw.beta(alpha, alpha)), _partners(draw, clean)
    height, width = clean.shape[-2:]
    side = (1 - weight) ** 0.5
    middle_y, middle_x = int(draw.integers(height)), int(draw.integers(width))
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    top, bottom = max(middle_y - half_height, 0), min(middle_y + half_height, height)
    left, right = max(middle_x - half_width, 0), min(middle_x + half_width, width)
    images = clean.clone()
    images[:, :, top:bottom, left:right] = clean[partner, :, top:bottom, left:right]
    # A box cut off at the border covers less than was drawn.
    return Made(images, _mixed(partner, 1 - (bottom - top) * (right - left) / (height * width)))


def _each(transform: nn.Module, view: View, clean: Tensor, moment: Moment) -> Tensor:
    """A transform of torchvision on each image by itself, with torch's generator seeded for it."""
    with torch.random.fork_rng(devices=[]):
        images = []
        for image, index in zip(clean, moment.indices.tolist(), strict=True):
            torch.manual_seed(draws.key_of(moment.data_seed, repr(view), moment.epoch, index) & (2**63 - 1))
            images.append(transform(image))
    return torch.stack(images)


def _partners(draw: np.random.Generator, images: Tensor) -> Tensor:
    """(N,) an order of the batch in which no image is its own partner, but for a batch of one."""
    order = draw.permutation(len(images))
    partner = np.empty_like(order)
    partner[order] = np.roll(order, 1)
    return torch.as_tensor(partner, dtype=torch.int64, device=images.device)


def _mixed(partner: Tensor, weight: float) -> Mixed:
    image = torch.arange(len(partner), device=partner.device)
    return Mixed(image, partner, torch.full((len(partner),), weight, device=partner.device))
