"""User models as a worker fetched them: the record is read, the file checked, the network built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from retort.architecture import Card
from retort.architectures import ARCHITECTURES, CARDS
from retort.engine.cards import card_of
from retort.engine.interrupt import Impossible
from retort.engine.onnx_graph import first_line
from retort.engine.onnx_network import OnnxBody, load_onnx
from retort.network import Layout, Network
from retort.recipe import Recipe
from retort.tensor_file import TensorFileError, read_header
from retort.user_model import RECORD, UserModel

PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.", "ema.", "module_ema.", "state_dict.")
"""Prefixes of DataParallel, Lightning, torch.compile and averages before the names of a network's tensors."""
NAMED = 20
"""Most tensors that a sentence names."""
LONGEST_NAME = 500
"""Characters of a tensor's name, or of its shape, in a sentence."""
MOST_TENSORS = 50_000
DTYPES = frozenset({"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"})
"""Dtypes of weights and counters. torch cannot tell whether numbers of four bits are finite."""
COUNTERS = "num_batches_tracked"
"""A counter of batch norm that nothing reads; files of old versions lack it."""


def read_record(model_id: str, weights: Path) -> UserModel:
    """The record of a user model among a job's weights. Raises Impossible."""
    file = weights / model_id / RECORD
    try:
        return UserModel.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise Impossible(f"the record of {model_id} cannot be read: {error}") from error


def records(recipe: Recipe, weights: Path) -> dict[str, UserModel]:
    """The record of every user model that a recipe names, by id. Raises Impossible."""
    networks = [network for network in (recipe.teacher, *recipe.students) if network is not None and network.model]
    if any(network.architecture == "auto" for network in networks):
        raise Impossible("the architecture of a model is auto; wanted the one in its record, which the service puts in")
    named = {network.model for network in networks if network.model}
    return {model_id: read_record(model_id, weights) for model_id in sorted(named)}


def cards_for(architectures: Iterable[str], models: Mapping[str, UserModel]) -> dict[str, Card]:
    """The card of each architecture by name; an ONNX file's stands in its record."""
    recorded = {model.architecture: model.card for model in models.values() if model.card is not None}
    return {name: recorded.get(name) or CARDS.get(name) or card_of(name) for name in architectures}


def user_network(record: UserModel, folder: Path) -> Network:
    """The network in eval mode on the CPU, with the input that its record gives.

    `folder` holds its file. Raises Impossible, in one sentence, for every fault of the file.
    """
    file = folder / record.file
    if record.form == "onnx":
        network = Network(OnnxBody(load_onnx(file)), Layout(stages=(), classifier="classifier"))
    else:
        network = _from_tensors(record, file)
    if record.expects is None:
        raise Impossible(f"the record of {record.id} does not describe the images that it expects")
    network.set_input(record.expects.input())
    return network.eval()


def load_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU. Raises Impossible."""
    with file.open("rb") as stream:

        def read(begin: int, end: int) -> bytes:
            stream.seek(begin)
            return stream.read(end - begin)

        try:
            read_header(read, file.stat().st_size)
        except TensorFileError as error:
            raise Impossible(str(error)) from error
    try:
        _check_header(file)
        tensors: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        raise Impossible(f"the file cannot be read as safetensors: {first_line(error)}") from error
    return tensors


def _check_header(file: Path) -> None:
    """Raise Impossible for too many tensors and for dtypes that are not read."""
    with safe_open(file, "pt") as opened:
        names = opened.keys()
        if len(names) > MOST_TENSORS:
            raise Impossible(f"the file has {len(names):,} tensors; at most {MOST_TENSORS:,} are read")
        for name in names:
            dtype = opened.get_slice(name).get_dtype()
            if dtype not in DTYPES:
                raise Impossible(
                    f"tensor {name[:LONGEST_NAME]!r} has the dtype {dtype!r}; wanted one of {', '.join(sorted(DTYPES))}"
                )


def _from_tensors(record: UserModel, file: Path) -> Network:
    tensors = load_tensors(file)
    if record.architecture not in ARCHITECTURES:
        raise Impossible(f"{record.id} is a {record.architecture!r}; no such architecture is installed here")
    assert record.outputs is not None, "the API asks for them"
    try:
        with torch.random.fork_rng(devices=[]):
            network = ARCHITECTURES[record.architecture].build(record.architecture, record.outputs)
    except LookupError as error:
        raise Impossible(str(error)) from error
    layout = network.layout
    heads = tuple(f"{name}." for name in (layout.classifier, *layout.further_classifiers))
    wanted = network.body.state_dict()
    found = {own: tensors[name] for name, own in stripped(tensors, wanted, heads).items()}
    _check_fit(record, found, wanted, heads)
    _check_numbers(found)
    network.body.load_state_dict({name: found.get(name, wanted[name]) for name in wanted})
    return network


def stripped(names: Iterable[str], wanted: Iterable[str], heads: tuple[str, ...] = ()) -> dict[str, str]:
    """A file's names, each with the same name less the prefixes that frameworks put before it.

    A prefix is removed when all names have it, or all but the classifiers' (`heads`), and more names then fit `wanted`,
    or may once further prefixes are removed. Names that already fit stay.
    """
    known = set(wanted)
    current = {name: name for name in names}

    def fitting(renamed: Mapping[str, str]) -> int:
        return len(known.intersection(renamed.values()))

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
    """Raise Impossible with every tensor that is missing, unexpected or of another shape."""
    for name in sorted(found.keys() & wanted.keys()):
        has, wants = tuple(found[name].shape), tuple(wanted[name].shape)
        if name.startswith(heads) and len(has) == len(wants) and has[0] != wants[0] and has[1:] == wants[1:]:
            raise Impossible(
                f"the classifier of the file gives {has[0]} outputs ({name} has the shape {list(has)}); wanted "
                f"{record.outputs}, as its record says"
            )
    differences = list(_differences(found, wanted))
    if differences:
        more = f", and {len(differences) - NAMED} more" if len(differences) > NAMED else ""
        raise Impossible(f"the weights do not fit {record.architecture}: {', '.join(differences[:NAMED])}{more}")


def _differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[str]:
    for name in wanted:
        if name not in found:
            if not name.endswith(COUNTERS):
                yield f"{name} is missing"
        elif found[name].shape != wanted[name].shape:
            shape = str(list(found[name].shape))[:LONGEST_NAME]
            yield f"{name} has the shape {shape} and not {list(wanted[name].shape)}"
        elif found[name].is_floating_point() != wanted[name].is_floating_point():
            yield f"{name} holds {found[name].dtype} and not {wanted[name].dtype}"
    for name in sorted(found.keys() - wanted.keys()):
        yield f"{name[:LONGEST_NAME]} is unexpected"


def _check_numbers(tensors: Mapping[str, Tensor]) -> None:
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        named = ", ".join(sorted(wrong)[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise Impossible(f"the weights are not finite numbers (NaN or infinite) in {named}")
