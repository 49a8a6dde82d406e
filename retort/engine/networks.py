"""The networks of a recipe: built by name, given their weights and their input, fitted to the data's classes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from retort import draws
from retort.architecture import Input
from retort.architectures import ARCHITECTURES
from retort.dataset import DataFacts
from retort.engine.interrupt import Impossible
from retort.engine.user_weights import read_record, reorder, user_network
from retort.network import Network
from retort.recipe import JobWeights, Student, Teacher
from retort.student import StudentError, load_student
from retort.user_model import class_order


def initialised(architecture: str, seed: int, facts: DataFacts) -> Network:
    """A network whose initialisation a seed decides."""
    with draws.seeded(seed, "initialisation"):
        return build(architecture, facts)


def build(architecture: str, facts: DataFacts) -> Network:
    """A freshly initialised network (torch's global generator) whose input is normalised with the data's statistics."""
    try:
        network = ARCHITECTURES[architecture].build(architecture, facts.classes)
    except LookupError as error:
        raise Impossible(str(error)) from error
    size = network.image.size or facts.image_size
    network.set_input(Input.model_validate({"size": size, "mean": facts.mean, "std": facts.std}))
    return network


def teacher_network(teacher: Teacher, facts: DataFacts, weights: Path) -> Network:
    """The teacher as it stands before anything is taught."""
    if teacher.weights is None and teacher.model is None:
        return initialised(teacher.architecture, teacher.seed, facts)
    network, classes = _weighted(teacher, facts, weights)
    if classes == facts.classes:
        return network
    if teacher.teach is None:
        raise Impossible(
            f"the teacher gives {classes} classes, the data set has {facts.classes}; "
            "give teach, to tune it on the data set"
        )
    return _with_new_classifier(network, teacher.architecture, teacher.seed, facts)


def student_network(student: Student, facts: DataFacts, weights: Path) -> Network:
    """A student as its training starts."""
    if student.weights is None and student.model is None:
        return initialised(student.architecture, student.seed, facts)
    network, classes = _weighted(student, facts, weights)
    if classes == facts.classes:
        return network
    return _with_new_classifier(network, student.architecture, student.seed, facts)


def _weighted(wanted: Teacher | Student, facts: DataFacts, weights: Path) -> tuple[Network, int]:
    """A network with the weights that a recipe names, and how many classes it gives."""
    architecture, source = wanted.architecture, wanted.weights
    if wanted.model is not None:
        return _brought(wanted.model, facts, weights)
    if isinstance(source, JobWeights):
        stem = weights / source.job / source.network
        try:
            network, description = load_student(stem.with_suffix(".json"), stem.with_suffix(".safetensors"))
        except StudentError as error:
            raise Impossible(f"the weights of {source.network} from {source.job} cannot be used: {error}") from error
        if description["wrapper"] is not None:
            # Its card would be another, and a second wrap would not fit what the first one left.
            raise Impossible(
                f"the head of {source.network} of {source.job} was replaced by the method "
                f"{description['wrapper']['method']}; a teacher or a start needs a network as its architecture gives it"
            )
        if description["architecture"] != architecture:
            raise Impossible(
                f"{source.network} of {source.job} is a {description['architecture']}; the recipe says {architecture}"
            )
        return network, int(description["classes"])
    try:
        network, names = ARCHITECTURES[architecture].published(architecture)
    except LookupError as error:
        raise Impossible(str(error)) from error
    return network, len(names)


def _brought(model_id: str, facts: DataFacts, weights: Path) -> tuple[Network, int]:
    """A network that a user brought, its outputs in the data set's order where their names say which is which."""
    record = read_record(model_id, weights)
    network = user_network(record, weights / model_id)
    assert record.classes is not None, "a checked model's classes are known"
    order = class_order(record.class_names, facts.class_names)
    if order is not None and order != tuple(range(len(order))):
        reorder(network, order)
    return network, record.classes


def _with_new_classifier(network: Network, architecture: str, seed: int, facts: DataFacts) -> Network:
    """The same weights under a fresh classifier for the data's classes; the network keeps its own input."""
    fresh = initialised(architecture, seed, facts)
    heads = tuple(f"{name}." for name in (network.layout.classifier, *network.layout.further_classifiers))
    body = {name: tensor for name, tensor in network.body.state_dict().items() if not name.startswith(heads)}
    missing, unexpected = fresh.body.load_state_dict(body, strict=False)
    wrong = [name for name in missing if not name.startswith(heads)] + list(unexpected)
    if wrong:
        raise Impossible(f"the weights of {architecture} do not fit it: {', '.join(wrong[:5])}")
    fresh.set_input(network.image)
    return fresh


def placed(network: Network, device: torch.device) -> Network:
    """The network on a device, its convolutions laid out for images whose channels come last."""
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def plain(network: Network) -> Network:
    """The network on the CPU, its weights laid out as files hold them."""
    return network.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]


def freeze(network: Network, *, batch_statistics: bool = False) -> Network:
    """In eval mode, without gradients; nothing that is run later changes it."""
    network.eval().requires_grad_(False)
    if batch_statistics:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                # Without running statistics batch norm takes the batch's, in eval mode too, and keeps none.
                module.running_mean = module.running_var = module.num_batches_tracked = None
                module.track_running_stats = False
    return network
