"""Frozen networks made quick say the same."""

import pytest
import torch
from torch import nn

from retort.dataset import ImageClassFacts
from retort.engine import inference
from retort.engine.inference import quick
from retort.engine.networks import build, freeze
from retort.network import Layout, Network
from retort.tasks import TASKS

FACTS = ImageClassFacts(
    classes=10, class_names=tuple("0123456789"), image_size=64, train=1, validation=1, test=1,
    mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25),
)  # fmt: skip


def network_of(architecture: str) -> Network:
    """Random weights, and running statistics that are not those of a fresh network."""
    torch.manual_seed(0)
    network = build(TASKS["classification"], architecture, FACTS)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2),
                (module.weight, 0.5, 1.5), (module.bias, -0.5, 0.5),
            ):  # fmt: skip
                nn.init.uniform_(values, low, high)
    return freeze(network)


def norms(network: Network) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def says(network: Network, wanted: tuple[str, ...], images: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return inference._tensors(network.read(images, wanted))


@pytest.mark.parametrize(
    ("architecture", "wanted", "left"),
    [
        ("resnet20", (), 0),
        ("resnet20", ("maps", "embedding", "class_maps"), 0),
        ("resnet20", ("preactivations",), 0),
        ("wrn_16_2", ("maps",), 7),  # the batch norm before a convolution stays
        ("torchvision.resnet18", ("maps", "preactivations"), 0),
        ("torchvision.densenet121", ("embedding",), 62),
        ("torchvision.mobilenet_v3_small", ("maps",), 0),
        ("torchvision.shufflenet_v2_x0_5", ("maps",), 0),
        ("torchvision.googlenet", (), 0),
    ],
)
def test_batch_norm_is_folded_and_what_is_read_stays(architecture, wanted, left):
    network = network_of(architecture)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    made = quick(network, torch.rand(2, 3, 64, 64))
    assert norms(network) > left
    assert norms(made) == left
    images = torch.rand(3, 3, 64, 64)
    for a, b in zip(says(network, wanted, images), says(made, wanted, images), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_batch_norm_that_takes_the_batch_s_statistics_stays():
    network = freeze(network_of("resnet8"), batch_statistics=True)
    made = quick(network, torch.rand(2, 3, 16, 16))
    assert norms(made) == norms(network)
    images = torch.rand(5, 3, 16, 16)
    assert torch.allclose(network(images), made(images), atol=1e-4)


class Odd(nn.Module):
    """Reads a convolution's output twice, and one of its tensors before and after an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.stage = nn.Conv2d(4, 4, 1)
        self.after = nn.BatchNorm2d(4)
        self.classifier = nn.Linear(4, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        plain = self.conv(images)
        normed = self.norm(plain)
        joined = self.relu(normed) + normed + plain
        return self.classifier(self.after(self.stage(joined)).mean((2, 3)))


def test_what_is_read_elsewhere_is_neither_folded_nor_overwritten():
    torch.manual_seed(0)
    network = freeze(Network(Odd(), Layout(stages=("stage",), classifier="classifier")))
    nn.init.uniform_(network.body.norm.running_mean)
    nn.init.uniform_(network.body.after.running_mean)
    made = quick(network, torch.rand(2, 3, 8, 8))
    assert isinstance(made.body.norm, nn.BatchNorm2d)
    # The stage's map can be read between the second convolution and its batch norm.
    assert isinstance(made.body.after, nn.BatchNorm2d)
    assert not made.body.relu.inplace
    images = torch.rand(2, 3, 8, 8)
    assert torch.allclose(network(images), made(images), atol=1e-6)


def test_a_copy_that_does_not_agree_is_not_used(monkeypatch):
    network = network_of("resnet8")

    def wrong(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
        return convolution

    monkeypatch.setattr(inference, "fuse_conv_bn_eval", wrong)
    made = quick(network, torch.rand(2, 3, 32, 32))
    assert norms(made) == norms(network)
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(network(images), made(images), atol=1e-4)
