"""One check of a network that a user brought: built, run, timed, and compared with labels where there are some."""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import sqrt
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from retort.architecture import Input
from retort.check import REPORT, Check
from retort.dataset import LoadedDataset, Split
from retort.engine import networks
from retort.engine import user_weights as user_weights
from retort.engine.artifacts import Packer
from retort.engine.evaluate import passes
from retort.engine.event_log import EventLog
from retort.engine.group import ALONE, Group
from retort.engine.interrupt import Impossible, Interrupt
from retort.engine.onnx_network import OnnxBody, completed, load_onnx
from retort.network import Network
from retort.order import Paths
from retort.user_model import UserModel, class_order, class_sentence

BATCH_SIZE = 64
TIMED_BATCH, TIMED_PASSES = 8, 5
COMPARED_IMAGES = 512
"""How many images other normalisations and orders are tried on."""
CLEARLY = 0.05
"""How much more accuracy is told as better, where it is also more than twice its standard error."""
NORMALISATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR's mean and std": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "0 to 1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "0 to 255": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
    "-1 to 1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""What networks are usually fed, as mean and std of RGB in [0, 1]."""


class ModelCheck:
    """Carries out a check. Raises Impossible, DatasetError or Stopped."""

    def __init__(
        self, spec: Check, paths: Paths, event_log: EventLog, interrupt: Interrupt, group: Group = ALONE
    ) -> None:
        self.spec = spec
        self.paths = paths
        self.event_log = event_log
        self.interrupt = interrupt
        self.device = group.device
        self.sentences: list[str] = []

    def __call__(self) -> None:
        with self.interrupt.at_once(nothing_to_keep=True):
            self.event_log.enter("examining the model")
            record = user_weights.read_record(self.spec.model, self.paths.weights)
            record, network = self._built(record)
            network = networks.placed(networks.freeze(network), self.device)
            card = user_weights.cards_for([record.architecture], {record.id: record})[record.architecture]
            report = {
                "model": record.model_dump(mode="json"),
                "parameters": card.parameters(record.classes or 0),
                "multiply_adds": card.multiply_adds,
                "multiply_adds_image_size": card.image_size,
                "smallest_image": card.smallest_image,
                "embedding": card.embedding,
            } | self._tried(network, record)
            if self.spec.dataset is not None:
                data = self.spec.dataset.load(self.paths.data_roots)
                report |= self._on_data(network, record, data)
            report["sentences"] = self.sentences
            for sentence in self.sentences:
                self.event_log.record("warning", text=sentence)
            self.event_log.record("report", data=report)
            with Packer(self.paths.directory) as packer:
                packer.write_json(REPORT, None, report)

    def _built(self, record: UserModel) -> tuple[UserModel, Network]:
        folder = self.paths.weights / record.id
        if record.form == "onnx":
            record = completed(record, load_onnx(folder / record.file))
        return record, user_weights.user_network(record, folder)

    def _tried(self, network: Network, record: UserModel) -> dict[str, Any]:
        """What it says of noise, the shapes on the way, and how long it takes."""
        size = network.image.size
        images = torch.rand(TIMED_BATCH, 3, size, size, generator=torch.Generator().manual_seed(0)).to(self.device)
        bare = isinstance(network.body, OnnxBody)
        with torch.no_grad():
            try:
                outputs = network.read(images, () if bare else ("embedding", "maps"))
            except RuntimeError as error:
                first = str(error).splitlines()[0]
                raise Impossible(f"it cannot be run on images of {size} pixels a side: {first}") from error
            seconds = min(self._timed(network, images) for _ in range(TIMED_PASSES))
        if outputs.logits.shape != (TIMED_BATCH, record.classes):
            raise Impossible(
                f"it gives {list(outputs.logits.shape)} for {TIMED_BATCH} images and {record.classes} classes"
            )
        _check_finite(outputs.logits)
        self._tell_probabilities(outputs.logits)
        names = network.layout.stages
        shapes = [{"name": name, "shape": list(one.shape[1:])} for name, one in zip(names, outputs.maps, strict=True)]
        return {
            "layers": shapes,
            "outputs": _range(outputs.logits),
            "seconds_per_image": seconds / TIMED_BATCH,
            "device": self.device.type,
        }

    def _timed(self, network: Network, images: Tensor) -> float:
        self.interrupt.check()
        begin = time.perf_counter()
        float(network(images).sum())  # fetched, so that a GPU has ended
        return time.perf_counter() - begin

    def _tell_probabilities(self, logits: Tensor) -> None:
        sums = logits.double().sum(1)
        if bool((logits >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
            self.sentences.append(
                "its outputs are probabilities and not logits: methods with a temperature need what goes into softmax"
            )

    def _on_data(self, network: Network, record: UserModel, data: LoadedDataset) -> dict[str, Any]:
        if record.classes != data.facts.classes:
            raise Impossible(f"{record.id} gives {record.classes} classes, the data set has {data.facts.classes}")
        sentence = class_sentence(record.id, record.class_names, data.facts.class_names)
        if sentence is not None:
            self.sentences.append(sentence)
        order = class_order(record.class_names, data.facts.class_names)
        if order is not None and order != tuple(range(len(order))):
            user_weights.reorder(network, order)
        split = data.validation
        drawn = torch.randperm(len(split), generator=torch.Generator().manual_seed(self.spec.seed))
        positions = drawn[: self.spec.images]
        self.event_log.enter("testing the model")
        logits_NK, labels_N = self._answers(network, split, positions)
        _check_finite(logits_NK)
        accuracy = _accuracy(logits_NK, labels_N)
        values = {"validation.accuracy": accuracy, "validation.images": float(len(labels_N))}
        self.event_log.record("evaluation", network="teacher", values=values)
        return {
            "images": len(labels_N),
            "accuracy": accuracy,
            "outputs": _range(logits_NK),
            "permuted": self._permuted(logits_NK, labels_N, data.facts.class_names),
            "normalisations": self._normalisations(network, split, positions[:COMPARED_IMAGES]),
        }

    def _answers(self, network: Network, split: Split, positions: Tensor) -> tuple[Tensor, Tensor]:
        logits, labels = [], []
        run = passes(network, split, BATCH_SIZE, self.device, interrupt=self.interrupt, positions=positions)
        for outputs, batch_labels, _ in run:
            logits.append(outputs.logits.float().cpu())
            labels.append(batch_labels.cpu())
        return torch.cat(logits), torch.cat(labels)

    def _permuted(self, logits_NK: Tensor, labels_N: Tensor, class_names: tuple[str, ...]) -> dict[str, Any]:
        """How good it is when its outputs are read in the order that fits best.

        The order is found on one half of the images and judged on the other: with few images a class any order fits
        some. `order[i]` is the output that means class i.
        """
        half = len(labels_N) // 2
        if half == 0:
            return {}
        order = best_order(logits_NK[:half].argmax(1), labels_N[:half], logits_NK.shape[1])
        before, after = (_accuracy(rows, labels_N[half:]) for rows in (logits_NK[half:], logits_NK[half:][:, order]))
        if _is_better(after, before, len(labels_N) - half):
            moved = [i for i, j in enumerate(order) if i != j]
            named = "; ".join(f"class {i} ({class_names[i]!r}) is output {order[i]}" for i in moved[:5])
            more = f"; and {len(moved) - 5} more" if len(moved) > 5 else ""
            self.sentences.append(
                f"the class order is probably wrong: in another order the accuracy is {after:.3f} and not "
                f"{before:.3f} ({named}{more})"
            )
        return {"order": order, "accuracy": after, "accuracy_as_given": before, "images": len(labels_N) - half}

    def _normalisations(self, network: Network, split: Split, positions: Tensor) -> dict[str, float]:
        """Accuracies under other preparations of the same images."""
        given, classes = network.image, 2
        found: dict[str, float] = {}
        try:
            for name, image in _preparations(given):
                network.set_input(image)
                network.to(self.device)
                logits_NK, labels_N = self._answers(network, split, positions)
                classes = logits_NK.shape[1]
                found[name] = _accuracy(logits_NK, labels_N)
        finally:
            network.set_input(given)
            network.to(self.device)
        best = max(found, key=lambda name: found[name])
        # Of a network whose classes are confused all are near chance, and one is always best.
        if found[best] > 2 / classes and _is_better(found[best], found["as given"], len(positions)):
            self.sentences.append(
                f"what it expects is probably wrong: with {best} the accuracy is {found[best]:.3f} and not "
                f"{found['as given']:.3f}"
            )
        return found


def _preparations(given: Input) -> Iterator[tuple[str, Input]]:
    yield "as given", given
    flipped = "bgr" if given.channel_order == "rgb" else "rgb"
    yield flipped.upper(), given.model_copy(update={"channel_order": flipped})
    for name, (mean, std) in NORMALISATIONS.items():
        yield name, given.model_copy(update={"mean": mean, "std": std})


def best_order(guesses_N: Tensor, labels_N: Tensor, classes: int) -> list[int]:
    """For each class, the output that means it when as many guesses as possible are to be right (Kuhn 1955)."""
    # By label and guess; a bonus below one image keeps the order as it is where nothing speaks for another.
    counts_KK = torch.bincount(labels_N * classes + guesses_N, minlength=classes**2).view(classes, classes).double()
    counts_KK += torch.eye(classes) / (2 * classes)
    _, columns = linear_sum_assignment(counts_KK.numpy(), maximize=True)
    return [int(column) for column in columns]


def _is_better(new: float, old: float, images: int) -> bool:
    error = sqrt((new * (1 - new) + old * (1 - old)) / images)
    return new - old >= max(CLEARLY, 2 * error)


def _accuracy(logits_NK: Tensor, labels_N: Tensor) -> float:
    return float((logits_NK.argmax(1) == labels_N).double().mean())


def _check_finite(logits: Tensor) -> None:
    if not bool(logits.isfinite().all()):
        raise Impossible("its outputs are no finite numbers (NaN or infinite)")


def _range(logits: Tensor) -> dict[str, float]:
    return {"least": float(logits.min()), "greatest": float(logits.max()), "mean": float(logits.mean())}
