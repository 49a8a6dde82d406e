"""torchdistill's way of the step that benchmarks/throughput.py measures, a turn at a time: `_torchdistill.py LOADERS`.

Driven as its documentation and its example for CIFAR-100 do it, in float32.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from itertools import count
from typing import Any

import torch
from _paced import (
    BATCH,
    CLASSIFICATION,
    IMAGES,
    LABEL_WEIGHT,
    SIDE,
    STUDENT,
    TEACHER,
    TEMPERATURE,
    Turns,
    device,
    facts,
    noise,
)
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, RandomSampler
from torchdistill.core.distillation import get_distillation_box
from torchdistill.misc.log import MetricLogger, SmoothedValue
from torchdistill.models.registry import get_model, register_model
from torchvision import transforms

from retort.engine.networks import initialised

MEAN, STD = (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)


class Pictures(Dataset[tuple[Any, int]]):
    """The images as torchvision's CIFAR-100 hands them out: one at a time, made a picture, transformed."""

    def __init__(self, transform: Any) -> None:
        split = noise(IMAGES, 0)
        self._pixels = split.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels = split.targets.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._transform(Image.fromarray(self._pixels[index])), self._labels[index]


def body(architecture: str) -> nn.Module:
    """The same network as the engine's, without the normalisation, which its own transforms do."""
    return initialised(CLASSIFICATION, architecture, 0, facts(IMAGES)).body


def configuration(loaders: int) -> dict[str, Any]:
    """Settings of its example for CIFAR-100, with our batch and learning rate."""
    soft = {
        "key": "KDLoss",
        "kwargs": {
            "student_module_path": ".",
            "student_module_io": "output",
            "teacher_module_path": ".",
            "teacher_module_io": "output",
            "temperature": TEMPERATURE,
            "alpha": LABEL_WEIGHT,
            "reduction": "batchmean",
        },
    }
    return {
        "num_epochs": 240,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
            "kwargs": {"batch_size": BATCH, "num_workers": loaders, "pin_memory": device().type == "cuda"},
        },
        "teacher": {"forward_proc": "forward_batch_only", "wrapper": "DataParallel", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "wrapper": "DistributedDataParallel", "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.001, "momentum": 0.9, "weight_decay": 0.0005}},
        "scheduler": {"key": "MultiStepLR", "kwargs": {"milestones": [150, 180, 210], "gamma": 0.1}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": soft, "weight": 1.0}}}},
    }


def main(loaders: int) -> None:
    """Train until nobody asks for more."""
    for architecture in (TEACHER, STUDENT):
        register_model(partial(body, architecture), key=architecture)
    torch.backends.cudnn.benchmark = True
    transform = transforms.Compose(
        [
            transforms.RandomCrop(SIDE, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    box = get_distillation_box(
        get_model(TEACHER).to(device()),
        get_model(STUDENT).to(device()),
        {"train": Pictures(transform)},
        configuration(loaders),
        device(),
        [0] if device().type == "cuda" else None,
        False,
        1,
    )
    turns = Turns()
    for epoch in count():
        box.pre_epoch_process(epoch=epoch)
        logger = MetricLogger(delimiter="  ")
        logger.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
        logger.add_meter("img/s", SmoothedValue(window_size=10, fmt="{value}"))
        for images, labels, further in logger.log_every(box.train_data_loader, 100, f"Epoch: [{epoch}]"):
            since = time.time()
            images, labels = images.to(device()), labels.to(device())
            loss = box.forward_process(images, labels, further)
            box.post_forward_process(loss=loss)
            logger.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
            logger.meters["img/s"].update(len(images) / (time.time() - since))
            turns()
        box.post_epoch_process()


if __name__ == "__main__":
    main(int(sys.argv[1]))
