"""What processes started by torch's launcher read of networks together, against what one reads alone. Float64.

Prints, in process 0, a line of JSON a network: the relative distance (Euclidean norm) of each thing compared.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torchvision import models

from retort.engine.group import ALONE, Group, join
from retort.engine.interrupt import Impossible
from retort.engine.networks import freeze
from retort.engine.shared_cache import SharedCacheEntry
from retort.engine.teacher_cache import TeacherCache, rounded
from retort.network import Layout, Network
from retort.outputs import Outputs

IMAGES = 7


class Noisy(nn.Module):
    """A network that draws in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Conv2d(3, 4, 3)
        self.last = nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.last(self.stage(images)).mean((2, 3))
        return self.head(features + torch.randn_like(features))


def network(name: str) -> Network:
    torch.manual_seed(0)
    if name == "noisy":
        return Network(Noisy(), Layout(("stage", "last"), "head")).double()
    if name == "mobilenet_v2":  # dropout
        body, layout = models.mobilenet_v2(num_classes=10), Layout(("features.3", "features.17"), "classifier.1")
    else:  # stochastic depth
        body, layout = models.efficientnet_b0(num_classes=10), Layout(("features.2", "features.7"), "classifier.1")
    made = Network(body, layout).double()
    if name == "frozen":
        return freeze(made, batch_statistics=True)
    return made.train()


def said_and_left(name: str, group: Group) -> dict[str, Tensor]:
    """Outputs, gradients and buffers of one step."""
    made = network(name)
    images = torch.rand(IMAGES, 3, 32, 32, dtype=torch.float64)
    torch.manual_seed(1)
    outputs = group.read(made, images, ("embedding", "maps"))
    found = {"logits": outputs.logits, "embedding": outputs.embedding, "map": outputs.maps[0], "last": outputs.maps[1]}
    found["next draw"] = torch.rand(3, dtype=torch.float64)
    if name != "frozen":
        weights = [torch.rand_like(tensor) for tensor in (outputs.logits, outputs.embedding, outputs.maps[0])]
        read = (outputs.logits, outputs.embedding, outputs.maps[0])
        # Coupled over the batch, and with a parameter that the loss reads by itself.
        loss = sum((w * t.roll(1, 0) * t).sum() for w, t in zip(weights, read, strict=True))
        (loss + made.classifier.weight.pow(3).sum()).backward()
        optimizer = torch.optim.SGD(made.parameters(), lr=1.0)
        group.average_gradients(optimizer)
        found |= {f"gradient of {n}": p.grad for n, p in made.named_parameters()}
    return {n: t.detach() for n, t in found.items()} | {n: b.double() for n, b in made.named_buffers()}


def kept(group: Group) -> dict[str, object]:
    """Outputs that processes read of a cache that process 0 filled; each names a folder of its own."""
    with TemporaryDirectory() as folder:
        cache = TeacherCache(Path(folder), 10**6, "1", print)
        entry = SharedCacheEntry(cache.entry({}, examples=9, outputs=4, top=None), group)
        positions, device = torch.tensor([8, 0, 3]), torch.device("cpu")
        outputs = rounded(Outputs(torch.randn(3, 4), torch.randn(3, 5)))
        entry.begin(0)
        known, checks = [entry.read(positions, device) is not None], []
        entry.write(positions, outputs)
        entry.end()
        entry.begin(0)
        for _ in range(2):
            cached = entry.read(positions, device)
            known.append(cached is not None)
            checks.append(entry.check_is_due())
            if checks[-1]:
                entry.check(cached, outputs)
        apart = (cached.logits - outputs.logits).abs().sum() + (cached.embedding - outputs.embedding).abs().sum()
        files = torch.tensor(len(list(Path(folder).rglob("*"))) if group.rank else 0)
        found = {"known": known, "checks": checks}
        return found | {"apart": int(group.total(apart, 9)), "files of others": int(group.total(files, 9))}


def line_of(name: str, group: Group) -> dict[str, object]:
    torch.manual_seed(2)
    if name == "kept":
        return kept(group)
    try:
        alone, together = said_and_left(name, ALONE), said_and_left(name, group)
    except Impossible as error:
        return {"refused": str(error)}
    # Biases before batch norm have a gradient that is nothing but rounding.
    least = 1e-6 * max(float(tensor.norm()) for tensor in alone.values())
    return {n: float((t - together[n]).norm() / max(float(t.norm()), least)) for n, t in alone.items()}


def main() -> None:
    torch.set_num_threads(1)
    group = join()
    for name in sys.argv[1:]:
        line = line_of(name, group)
        if group.rank == 0:
            print(json.dumps({"network": name, "processes": group.size} | line))
    group.leave()


if __name__ == "__main__":
    main()
