"""The light networks that we build ourselves, for CIFAR: MobileNetV2 and both ShuffleNets.

No activation works in place: what stands before it may be read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from retort.architectures._residual import normal_convolutions


def _depthwise(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


class InvertedResidual(nn.Module):
    """A wide depthwise convolution between two 1x1 ones; no activation follows the last. A shortcut where it fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.relu1 = nn.ReLU()
        self.conv2 = _depthwise(middle, stride)
        self.bn2 = nn.BatchNorm2d(middle)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.linear = nn.Identity()
        """The identity in the place of an activation, so that the map can be read as one before its activation."""
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(out)))))
        summed: Tensor = self.linear(x + out if self.has_shortcut else out)
        return summed


def mobilenet_v2(settings: Iterable[tuple[int, int, int, int]], width: float, classes: int) -> nn.Sequential:
    """A MobileNetV2 with a stem of stride 2; settings are expansion, channels at width 1, blocks and stride."""
    inputs = int(32 * width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, inputs, 3, 2, padding=1, bias=False), bn1=nn.BatchNorm2d(inputs), relu1=nn.ReLU()
    )
    for i, (expansion, channels, blocks, stride) in enumerate(settings):
        outputs = int(channels * width)
        group = [InvertedResidual(inputs, outputs, stride, expansion)]
        group += [InvertedResidual(outputs, outputs, 1, expansion) for _ in range(blocks - 1)]
        layers[f"group{i}"] = nn.Sequential(*group)
        inputs = outputs
    last = int(1280 * max(1.0, width))
    layers.update(_head(nn.Conv2d(inputs, last, 1, bias=False), classes))
    body = nn.Sequential(layers)
    normal_convolutions(body)
    for module in body.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    return body


def _head(convolution: nn.Conv2d, classes: int) -> OrderedDict[str, nn.Module]:
    """A 1x1 convolution, its mean and one linear layer."""
    width = convolution.out_channels
    return OrderedDict(
        conv2=convolution,
        bn2=nn.BatchNorm2d(width),
        relu2=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(width, classes),
    )


class GroupedBlock(nn.Module):
    """ShuffleNet V1's block: grouped 1x1 convolutions around a depthwise one, channels shuffled after the first.

    The last activation follows the sum; where the resolution halves, the averaged input stands beside the outputs.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, *, first: bool) -> None:
        super().__init__()
        new = outputs - inputs if stride == 2 else outputs
        middle = new // 4
        # The stem's few channels make no groups.
        groups_in = 1 if first else groups
        self.conv1 = nn.Conv2d(inputs, middle, 1, groups=groups_in, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.relu1 = nn.ReLU()
        self.shuffle = nn.ChannelShuffle(groups_in)
        self.conv2 = _depthwise(middle, stride)
        self.bn2 = nn.BatchNorm2d(middle)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(middle, new, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(new)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.shuffle(self.relu1(self.bn1(self.conv1(x))))
        out = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(out)))))
        joined: Tensor = self.relu3(out + x if self.pool is None else torch.cat((out, self.pool(x)), 1))
        return joined


def shufflenet_v1(channels: tuple[int, ...], blocks: tuple[int, ...], groups: int, classes: int) -> nn.Sequential:
    """A ShuffleNet V1 with a 1x1 stem of 24 channels; channels and blocks are those of each stage."""
    layers = _stem()
    inputs = 24
    for stage, (outputs, count) in enumerate(zip(channels, blocks, strict=True), start=1):
        halving = GroupedBlock(inputs, outputs, 2, groups, first=stage == 1)
        rest = [GroupedBlock(outputs, outputs, 1, groups, first=False) for _ in range(count - 1)]
        layers[f"stage{stage}"] = nn.Sequential(halving, *rest)
        inputs = outputs
    layers.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=nn.Linear(inputs, classes))
    return nn.Sequential(layers)


def _stem() -> OrderedDict[str, nn.Module]:
    return OrderedDict(conv1=nn.Conv2d(3, 24, 1, bias=False), bn1=nn.BatchNorm2d(24), relu1=nn.ReLU())


class _Branch(nn.Module):
    """ShuffleNet V2's right branch: a 1x1, a depthwise and a 1x1 convolution; its last activation stands outside."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = _depthwise(outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv3 = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn3(self.conv3(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))))
        return out


class SplitBlock(nn.Module):
    """ShuffleNet V2's block: one half of the channels passes by, the other through the branch; shuffled, activated.

    What passes by has been activated before, so that activating it again changes nothing.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _Branch(channels // 2, channels // 2, 1)
        self.shuffle = nn.ChannelShuffle(2)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        past, through = x.chunk(2, 1)
        out: Tensor = self.relu3(self.shuffle(torch.cat((past, self.branch(through)), 1)))
        return out


class HalvingBlock(nn.Module):
    """ShuffleNet V2's block that halves the resolution: both branches read all channels; shuffled, activated."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = _depthwise(inputs, 2)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.branch = _Branch(inputs, half, 2)
        self.shuffle = nn.ChannelShuffle(2)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        out: Tensor = self.relu3(self.shuffle(torch.cat((left, self.branch(x)), 1)))
        return out


def shufflenet_v2(channels: tuple[int, ...], blocks: tuple[int, ...], classes: int) -> nn.Sequential:
    """A ShuffleNet V2 with a 1x1 stem of 24 channels; channels are those of each stage and of the last convolution."""
    *stages, last = channels
    layers = _stem()
    inputs = 24
    for stage, (outputs, count) in enumerate(zip(stages, blocks, strict=True), start=1):
        rest = [SplitBlock(outputs) for _ in range(count - 1)]
        layers[f"stage{stage}"] = nn.Sequential(HalvingBlock(inputs, outputs), *rest)
        inputs = outputs
    layers.update(_head(nn.Conv2d(inputs, last, 1, bias=False), classes))
    return nn.Sequential(layers)
