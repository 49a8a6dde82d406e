"""Networks that users brought, as a worker fetched them: the record read, the file doubted, the network built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from retort.architecture import Card
from retort.architectures import ARCHITECTURES, CARDS
from retort.engine.cards import card_of
from retort.engine.interrupt import Impossible
from retort.engine.onnx_network import OnnxBody, load_onnx
from retort.network import Layout, Network
from retort.recipe import Recipe
from retort.tensor_file import TensorFileError, TensorFileHeader, read_header
from retort.user_model import RECORD, UserModel

PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.", "ema.", "module_ema.", "state_dict.")
"""What frameworks put before the names of a network's tensors: DataParallel, Lightning, torch.compile, averages."""
NAMED = 20
"""How many tensors a sentence names."""
COUNTERS = "num_batches_tracked"
"""What batch norm counts for nobody; files of old versions lack it."""


def read_record(model_id: str, weights: Path) -> UserModel:
    """What is known of a network that lies among a job's weights. Raises Impossible."""
    file = weights / model_id / RECORD
    try:
        return UserModel.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise Impossible(f"the record of {model_id} cannot be read: {error}") from error


def records(recipe: Recipe, weights: Path) -> dict[str, UserModel]:
    """The record of every network that a recipe names and a user brought, by id. Raises Impossible."""
    brought = [network for network in (recipe.teacher, *recipe.students) if network is not None and network.model]
    if any(network.architecture == "auto" for network in brought):
        raise Impossible("the architecture of a model is auto: the service puts in the one that its record says")
    named = {network.model for network in brought if network.model}
    return {model_id: read_record(model_id, weights) for model_id in sorted(named)}


def cards_for(architectures: Iterable[str], models: Mapping[str, UserModel]) -> dict[str, Card]:
    """The card of each architecture; that of an ONNX file stands in its record."""
    brought = {model.architecture: model.card for model in models.values() if model.card is not None}
    return {name: brought.get(name) or CARDS.get(name) or card_of(name) for name in architectures}


def user_network(record: UserModel, folder: Path) -> Network:
    """The network, in eval mode on the CPU, with the input that its record says.

    `folder` holds its file. Raises Impossible, in one sentence, for whatever is wrong with it.
    """
    file = folder / record.file
    if record.form == "onnx":
        network = Network(OnnxBody(load_onnx(file)), Layout(stages=(), classifier="classifier"))
    else:
        network = _from_tensors(record, file)
    if record.expects is None:
        raise Impossible(f"nobody has said what images {record.id} expects")
    network.set_input(record.expects.input())
    return network.eval()


def header_of(file: Path) -> TensorFileHeader:
    """The header of a safetensors file. Raises Impossible."""
    with file.open("rb") as stream:

        def read(begin: int, end: int) -> bytes:
            stream.seek(begin)
            return stream.read(end - begin)

        try:
            return read_header(read, file.stat().st_size)
        except TensorFileError as error:
            raise Impossible(str(error)) from error


def _from_tensors(record: UserModel, file: Path) -> Network:
    header_of(file)
    if record.architecture not in ARCHITECTURES:
        raise Impossible(f"{record.id} is a {record.architecture!r}; no such architecture is installed here")
    assert record.classes is not None, "the API asks for them"
    try:
        with torch.random.fork_rng(devices=[]):
            network = ARCHITECTURES[record.architecture].build(record.architecture, record.classes)
        tensors: dict[str, Tensor] = load_file(file)
    except LookupError as error:
        raise Impossible(str(error)) from error
    except SafetensorError as error:
        raise Impossible(f"the file cannot be read as safetensors: {error}") from error
    layout = network.layout
    heads = tuple(f"{name}." for name in (layout.classifier, *layout.further_classifiers))
    wanted = network.body.state_dict()
    found = {own: tensors[name] for name, own in stripped(tensors, wanted, heads).items()}
    _check_fit(record, found, wanted, heads)
    _check_numbers(found)
    network.body.load_state_dict({name: found.get(name, wanted[name]) for name in wanted})
    return network


def stripped(names: Iterable[str], wanted: Iterable[str], heads: tuple[str, ...] = ()) -> dict[str, str]:
    """What each of a file's names is called without the prefixes that frameworks put before it.

    A prefix goes when all names bear it, or all but the classifiers' (`heads`), and more names then fit `wanted`, or
    others below it may. Names that already fit are left alone.
    """
    known = set(wanted)
    current = {name: name for name in names}

    def fitting(called: Mapping[str, str]) -> int:
        return len(known.intersection(called.values()))

    best = current
    while True:
        prefix = _shared_prefix(current.values(), heads)
        if prefix is None:
            return best
        shorter = {name: own.removeprefix(prefix) for name, own in current.items()}
        if len(set(shorter.values())) < len(shorter):
            return best
        current = shorter
        if fitting(current) > fitting(best):
            best = current


def _shared_prefix(names: Iterable[str], heads: tuple[str, ...]) -> str | None:
    names = list(names)
    for prefix in PREFIXES:
        without = [name for name in names if not name.startswith(prefix)]
        if len(without) < len(names) and all(name.startswith(heads) for name in without):
            return prefix
    return None


def _check_fit(
    record: UserModel, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], heads: tuple[str, ...]
) -> None:
    """Raise Impossible with all that is missing, unexpected or of another shape."""
    for name in sorted(found.keys() & wanted.keys()):
        has, wants = tuple(found[name].shape), tuple(wanted[name].shape)
        if name.startswith(heads) and len(has) == len(wants) and has[0] != wants[0] and has[1:] == wants[1:]:
            raise Impossible(
                f"the classifier of the file gives {has[0]} classes ({name} has the shape {list(has)}); "
                f"{record.classes} were said"
            )
    told = list(_differences(found, wanted))
    if told:
        more = f", and {len(told) - NAMED} more" if len(told) > NAMED else ""
        raise Impossible(f"the weights do not fit {record.architecture}: {', '.join(told[:NAMED])}{more}")


def _differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[str]:
    for name in wanted:
        if name not in found:
            if not name.endswith(COUNTERS):
                yield f"{name} is missing"
        elif found[name].shape != wanted[name].shape:
            yield f"{name} has the shape {list(found[name].shape)} and not {list(wanted[name].shape)}"
        elif found[name].is_floating_point() != wanted[name].is_floating_point():
            yield f"{name} holds {found[name].dtype} and not {wanted[name].dtype}"
    for name in sorted(found.keys() - wanted.keys()):
        yield f"{name} is unexpected"


def _check_numbers(tensors: Mapping[str, Tensor]) -> None:
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        named = ", ".join(sorted(wrong)[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise Impossible(f"the weights are no finite numbers (NaN or infinite) in {named}")
