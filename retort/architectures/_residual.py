"""The residual networks that we build ourselves: post-activation for CIFAR, and pre-activation (Wide ResNet).

No activation works in place: what stands before it may be read.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

EXPANSION = 4
"""Factor by which a bottleneck's output is wider than its 3x3 convolution."""


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the last activation follows the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(residual + self.shortcut(x))
        return out


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution beside a shortcut; the last activation follows the sum.

    The first two are a fourth as wide as the output; the stride is the 3x3's.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = outputs // EXPANSION
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        middle = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        out: Tensor = self.relu3(self.bn3(self.conv3(middle)) + self.shortcut(x))
        return out


def cifar_resnet(
    block: type[BasicBlock] | type[Bottleneck], blocks: tuple[int, ...], channels: tuple[int, ...], classes: int
) -> nn.Sequential:
    """A ResNet with that many blocks in each stage; channels are the stem's and each stage's output.

    The first stage keeps the stem's resolution, each later one halves it.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, channels[0], 3, padding=1, bias=False), bn1=nn.BatchNorm2d(channels[0]), relu=nn.ReLU()
    )
    for stage, count in enumerate(blocks, start=1):
        inputs, outputs = channels[stage - 1], channels[stage]
        rest = [block(outputs, outputs, 1) for _ in range(count - 1)]
        layers[f"layer{stage}"] = nn.Sequential(block(inputs, outputs, 1 if stage == 1 else 2), *rest)
    layers.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels[-1], classes))
    body = nn.Sequential(layers)
    normal_convolutions(body)
    return body


def normal_convolutions(body: nn.Module) -> None:
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
    normal_convolutions(body)
    nn.init.zeros_(layers["fc"].bias)  # type: ignore[arg-type]
    return body
