"""The cost of augmenting a batch, beside torchvision's transforms on one image after the other.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/augmentation.py [--rounds 15] [--side 32] [--device cuda]

Each row is one augmentation of a recipe alone, on random images; torchvision gets float images where its policies do
(mixup and cutmix it does a batch at a time too). Medians over rounds in which all take turns; on a CPU of one thread's
processor time. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2

from retort.augmentation import (
    Augmentation,
    AutoAugmentPolicy,
    BatchCutMix,
    BatchMixup,
    Erasing,
    RandAugmentPolicy,
    ResizedCrop,
    TrivialAugmentPolicy,
)
from retort.images.views import DrawContext, augment, mix

BATCHES = (64, 256)


def rows(side: int) -> dict[str, tuple[Augmentation, Callable[[Tensor], Tensor] | None]]:
    """Ours and torchvision's, which takes one float image."""
    return {
        "none": (Augmentation(), None),
        "crop and flip": (
            Augmentation(crop_padding=4, flip=True),
            v2.Compose([v2.RandomCrop(side, padding=4), v2.RandomHorizontalFlip()]),
        ),
        "resized crop": (Augmentation(resized_crop=ResizedCrop()), v2.RandomResizedCrop(side)),
        "randaugment": (Augmentation(policy=RandAugmentPolicy()), v2.RandAugment()),
        "autoaugment": (Augmentation(policy=AutoAugmentPolicy()), v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)),
        "trivialaugment": (Augmentation(policy=TrivialAugmentPolicy()), v2.TrivialAugmentWide()),
        "erasing, noise": (Augmentation(erasing=Erasing()), v2.RandomErasing(value="random")),
        "erasing, mean": (Augmentation(erasing=Erasing(fill="mean")), v2.RandomErasing(value=0.5)),
        "cutout": (Augmentation(cutout=0.25), None),
        "mixup": (Augmentation(mix=BatchMixup()), None),
        "cutmix": (Augmentation(mix=BatchCutMix()), None),
    }


def main() -> None:
    """Time all rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    found: dict[str, dict[str, float | None]] = {}
    for count in BATCHES:
        pixels = torch.randint(256, (count, 3, asked.side, asked.side), dtype=torch.uint8, device=device)
        times: dict[tuple[str, str], list[float]] = defaultdict(list)
        for number in range(asked.rounds + 1):
            for name, (ours, peer) in rows(asked.side).items():
                moment = DrawContext(
                    0, number, number, torch.arange(count, device=device), torch.full((1, 3, 1, 1), 0.5, device=device)
                )
                times[name, "ours"].append(_seconds(device, _ours, pixels, ours, moment))
                if peer is not None:
                    times[name, "torchvision"].append(_seconds(device, _one_by_one, pixels, peer))
        print(f"{count} images of {asked.side} pixels a side, milliseconds")
        for name in rows(asked.side):
            # The first round warms up.
            ours = 1000 * statistics.median(times[name, "ours"][1:])
            peer_times = times.get((name, "torchvision"))
            theirs = 1000 * statistics.median(peer_times[1:]) if peer_times else None
            print(f"  {name:16}{ours:8.2f}" + (f"{theirs:10.2f}{theirs / ours:8.1f}x" if theirs else ""))
            found[f"{name} {count}"] = {"ours": round(ours, 3), "torchvision": theirs and round(theirs, 3)}
    print(json.dumps(found))


def _ours(pixels: Tensor, augmentation: Augmentation, moment: DrawContext) -> None:
    mix(augment(pixels, augmentation, moment), augmentation.mix, moment)


def _one_by_one(pixels: Tensor, transform: Callable[[Tensor], Tensor]) -> None:
    torch.stack([transform(image) for image in pixels.float() / 255])


def _seconds(device: torch.device, do: Callable[..., None], *arguments: object) -> float:
    """Of this thread's processor time on a CPU, since other work may run beside it; of the wall's clock on a GPU."""
    clock = time.thread_time
    if device.type == "cuda":
        torch.cuda.synchronize()
        clock = time.perf_counter
    began = clock()
    do(*arguments)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


if __name__ == "__main__":
    main()
