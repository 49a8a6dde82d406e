"""The check of a user model: built, run, timed, and compared with labels where there are some."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from retort.check import REPORT, Check
from retort.dataset import LoadedDataset, Split
from retort.engine import networks, user_weights
from retort.engine.artifacts import Packer
from retort.engine.evaluate import passes
from retort.engine.event_log import EventLog
from retort.engine.group import ALONE, Group
from retort.engine.interrupt import Impossible, Interrupt
from retort.engine.onnx_model import OnnxBody, completed
from retort.engine.onnx_network import load_onnx
from retort.engine.user_weights import BuiltModel, user_network
from retort.network import Network
from retort.order import Paths
from retort.task import ModelTrial
from retort.tasks import TASKS
from retort.user_model import UserModel

BATCH_SIZE = 64
TIMED_BATCH, TIMED_PASSES = 8, 5


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
        self.task = TASKS[spec.task]
        self.sentences: list[str] = []

    def __call__(self) -> None:
        with self.interrupt.at_once(nothing_to_keep=True):
            self.event_log.enter("checking the model")
            record = user_weights.read_record(self.spec.model, self.paths.weights)
            record, built = self._built(record)
            self.sentences += built.warnings
            network = networks.placed(networks.freeze(built.network), self.device)
            card = user_weights.cards_for([record.architecture], {record.id: record})[record.architecture]
            report = {
                "model": record.model_dump(mode="json"),
                "parameters": card.parameters(record.outputs or 0),
                "multiply_adds": card.multiply_adds,
                "multiply_adds_image_size": card.image_size,
                "smallest_image": card.smallest_image,
                "embedding": card.embedding,
                "unread": list(built.unread),
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

    def _built(self, record: UserModel) -> tuple[UserModel, BuiltModel]:
        folder = self.paths.weights / record.id
        if record.form == "onnx":
            size = record.expects.size if record.expects is not None else None
            record = completed(record, load_onnx(folder / record.file, size))
        return record, user_network(record, folder)

    def _tried(self, network: Network, record: UserModel) -> dict[str, Any]:
        """Its outputs for noise, the shapes on the way, and its time."""
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
        if outputs.logits.shape != (TIMED_BATCH, record.outputs):
            found, word = list(outputs.logits.shape), self.task.output_word
            raise Impossible(f"it gives {found} for {TIMED_BATCH} images and {record.outputs} {word}")
        _check_finite(outputs.logits)
        if bool((outputs.logits == outputs.logits[:1]).all()):
            self.sentences.append(f"its outputs are the same for {TIMED_BATCH} different images of noise")
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

    def _on_data(self, network: Network, record: UserModel, data: LoadedDataset) -> dict[str, Any]:
        split = data.validation
        drawn = torch.randperm(len(split), generator=torch.Generator().manual_seed(self.spec.seed))
        self.event_log.enter("testing the model")
        logits: list[Tensor] = []

        def predict(positions: Tensor) -> tuple[Tensor, Tensor]:
            predictions = self._predict(network, split, positions)
            if not logits:
                _check_finite(predictions[0])
                logits.append(predictions[0])
            return predictions

        trial = ModelTrial(
            network,
            record,
            data.facts,
            drawn[: self.spec.images],
            predict,
            lambda: network.to(self.device),
            self.sentences,
        )
        values, report = self.task.check_model(trial)
        self.event_log.record(
            "evaluation", network="teacher", values={f"validation.{name}": value for name, value in values.items()}
        )
        return report | ({"outputs": _range(logits[0])} if logits else {})

    def _predict(self, network: Network, split: Split, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(N, K) float32 logits and the targets of the examples at those positions, on the CPU."""
        logits, targets = [], []
        run = passes(self.task, network, split, BATCH_SIZE, self.device, interrupt=self.interrupt, positions=positions)
        for outputs, batch_targets, _ in run:
            logits.append(outputs.logits.float().cpu())
            targets.append(batch_targets.cpu())
        return torch.cat(logits), torch.cat(targets)


def _check_finite(logits: Tensor) -> None:
    if not bool(logits.isfinite().all()):
        raise Impossible("its outputs are not finite numbers (NaN or infinite)")


def _range(logits: Tensor) -> dict[str, float]:
    return {"least": float(logits.min()), "greatest": float(logits.max()), "mean": float(logits.mean())}
