"""The residual networks that we build ourselves: post-activation for CIFAR, and pre-activation (Wide ResNet).

No activation works in place: what stands before it may be read.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the last activation follows the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(residual + self.shortcut(x))
        return out


def cifar_resnet(blocks: int, channels: tuple[int, int, int, int], classes: int) -> nn.Sequential:
    """A ResNet with that many basic blocks a stage; channels are the stem's and the three stages'."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, channels[0], 3, padding=1, bias=False), bn1=nn.BatchNorm2d(channels[0]), relu=nn.ReLU()
    )
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        inputs, outputs = channels[stage - 1], channels[stage]
        rest = [BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
        layers[f"layer{stage}"] = nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)
    layers.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels[3], classes))
    body = nn.Sequential(layers)
    _normal_convolutions(body)
    return body


def _normal_convolutions(body: nn.Module) -> None:
    """He initialisation by fan-out; batch norm and linear layers keep torch's own."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after its batch norm and activation; nothing follows the sum.

    Where the shape changes, the shortcut starts after the first activation, as in the authors' code.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        residual: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return residual + (x if self.shortcut is None else self.shortcut(active))


def wide_resnet(blocks: int, width: int, classes: int) -> nn.Sequential:
    """A Wide ResNet with that many pre-activation blocks a stage, the stages `width` times as wide as a ResNet's."""
    channels = (16, 16 * width, 32 * width, 64 * width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=nn.Conv2d(3, channels[0], 3, padding=1, bias=False))
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        inputs, outputs = channels[stage - 1], channels[stage]
        rest = [PreActivationBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
        layers[f"block{stage}"] = nn.Sequential(PreActivationBlock(inputs, outputs, stride), *rest)
    layers.update(
        bn1=nn.BatchNorm2d(channels[3]),
        relu=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(channels[3], classes),
    )
    body = nn.Sequential(layers)
    _normal_convolutions(body)
    nn.init.zeros_(layers["fc"].bias)  # type: ignore[arg-type]
    return body
