"""The networks of a recipe: built by name, given their weights and their input, fitted to the data."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from retort import draws
from retort.architectures import ARCHITECTURES
from retort.dataset import DataFacts
from retort.engine.interrupt import Impossible
from retort.engine.user_weights import read_record, user_network
from retort.network import Network
from retort.recipe import JobWeights, Student, Teacher
from retort.student import StudentError, load_student, outputs_of, task_of
from retort.task import Task


def initialised(task: Task, architecture: str, seed: int, facts: DataFacts) -> Network:
    """A network whose initialisation a seed decides."""
    with draws.seeded(seed, "initialisation"):
        return build(task, architecture, facts)


def build(task: Task, architecture: str, facts: DataFacts) -> Network:
    """A freshly initialised network (torch's global generator) for such data."""
    try:
        return task.build(ARCHITECTURES[architecture], architecture, facts)
    except LookupError as error:
        raise Impossible(str(error)) from error


def teacher_network(task: Task, teacher: Teacher, facts: DataFacts, weights: Path) -> Network:
    """The teacher as it stands before anything is taught."""
    network, found = _start(task, teacher, facts, weights)
    wanted = task.outputs(facts)
    if found == wanted:
        return network
    if teacher.teach is None:
        raise Impossible(
            f"the teacher gives {found} {task.output_word}, the data set has {wanted}; "
            "give teach, to tune it on the data set"
        )
    return _with_fresh_head(task, network, teacher, facts)


def student_network(task: Task, student: Student, facts: DataFacts, weights: Path) -> Network:
    """A student as its training starts."""
    network, found = _start(task, student, facts, weights)
    return network if found == task.outputs(facts) else _with_fresh_head(task, network, student, facts)


def _start(task: Task, wanted: Teacher | Student, facts: DataFacts, weights: Path) -> tuple[Network, int]:
    """A network with the weights that a recipe names, or freshly initialised, and its number of outputs."""
    if wanted.weights is None and wanted.model is None:
        return initialised(task, wanted.architecture, wanted.seed, facts), task.outputs(facts)
    return _weighted(task, wanted, facts, weights)


def _weighted(task: Task, wanted: Teacher | Student, facts: DataFacts, weights: Path) -> tuple[Network, int]:
    architecture, source = wanted.architecture, wanted.weights
    if wanted.model is not None:
        return _user_model(task, wanted.model, facts, weights)
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
        if task_of(description) != task.name:
            raise Impossible(f"{source.network} of {source.job} is of the task {task_of(description)}, not {task.name}")
        return network, outputs_of(description)
    try:
        network, names = ARCHITECTURES[architecture].published(architecture)
    except LookupError as error:
        raise Impossible(str(error)) from error
    return network, len(names)


def _user_model(task: Task, model_id: str, facts: DataFacts, weights: Path) -> tuple[Network, int]:
    """A user model, its outputs in the data set's order where their names allow it."""
    record = read_record(model_id, weights)
    network = user_network(record, weights / model_id).network
    assert record.outputs is not None, "a checked model's outputs are known"
    task.align(network, record, facts)
    return network, record.outputs


def _with_fresh_head(task: Task, network: Network, wanted: Teacher | Student, facts: DataFacts) -> Network:
    """The same weights under a fresh head for the data; the network keeps its own input."""
    fresh = initialised(task, wanted.architecture, wanted.seed, facts)
    heads = tuple(f"{name}." for name in (network.layout.classifier, *network.layout.further_classifiers))
    body = {name: tensor for name, tensor in network.body.state_dict().items() if not name.startswith(heads)}
    missing, unexpected = fresh.body.load_state_dict(body, strict=False)
    wrong = [name for name in missing if not name.startswith(heads)] + list(unexpected)
    if wrong:
        raise Impossible(f"the weights of {wanted.architecture} do not fit it: {', '.join(wrong[:5])}")
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
