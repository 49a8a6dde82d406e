"""The VGG network that we build ourselves, for CIFAR."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from retort.architectures._residual import normal_convolutions

UNPOOLED = 3
"""The block that hands its map on at its own resolution, which is 4x4 for images of 32 pixels."""


def cifar_vgg(convolutions: tuple[int, ...], channels: tuple[int, ...], classes: int) -> nn.Sequential:
    """A VGG with that many convolutions, of that many channels, in each block."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 3
    for i, (count, outputs) in enumerate(zip(convolutions, channels, strict=True)):
        block: list[nn.Module] = []
        for _ in range(count):
            block += nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
            inputs = outputs
        layers[f"block{i}"] = nn.Sequential(*block)
        if i < UNPOOLED:
            layers[f"pool{i}"] = nn.MaxPool2d(2)
    layers.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=nn.Linear(inputs, classes))
    body = nn.Sequential(layers)
    normal_convolutions(body)
    for module in body.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    return body
