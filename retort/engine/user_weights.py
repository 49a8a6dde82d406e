"""User models as a worker fetched them: the record is read, the file checked, the network built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from retort.architecture import Card
from retort.architectures import ARCHITECTURES, CARDS
from retort.datasets._listing import first_few
from retort.engine.cards import card_of
from retort.engine.interrupt import Impossible
from retort.engine.onnx_graph import first_line
from retort.engine.onnx_model import OnnxBody
from retort.engine.onnx_network import load_onnx
from retort.engine.tensor_names import COUNTER, NameMatch, match_names
from retort.network import Layout, Network
from retort.printable import printable
from retort.recipe import Recipe
from retort.tensor_file import TensorFileError, read_header
from retort.user_model import GREY_SHARES, RECORD, UserModel

NAMED = 20
"""Most tensors of the network, and as many of the file, that a refusal names."""
LONGEST_NAME = 500
"""Characters of a tensor's name, or of its shape, in a refusal."""
MOST_UNREAD = 100
"""Most tensors that are not read that a report names."""
LONGEST_WARNED = 100
"""Characters of a tensor's name in a warning."""
MOST_TENSORS = 50_000
DTYPES = frozenset({"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"})
"""Dtypes of weights and counters. torch cannot tell whether numbers of four bits are finite."""
OF_TRAINING = ("loss", "criterion", "metric", "total_ops", "total_params")
"""Words in the last parts of names that losses, metrics and thop's counters have, which no network computes with."""


@dataclass(frozen=True)
class BuiltModel:
    """A user model's network, and all that its check has to say about the file."""

    network: Network
    unread: tuple[str, ...] = ()
    """Names of tensors of the file that the network does not have, MOST_UNREAD at most."""
    warnings: tuple[str, ...] = ()
    """Sentences about what is odd."""


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


def user_network(record: UserModel, folder: Path) -> BuiltModel:
    """The network in eval mode on the CPU, with the input that its record gives.

    `folder` holds its file. Raises Impossible, in one sentence, for every fault of the file.
    """
    file = folder / record.file
    built = _from_onnx(record, file) if record.form == "onnx" else _from_tensors(record, file)
    if record.expects is None:
        raise Impossible(f"the record of {record.id} does not describe the images that it expects")
    built.network.set_input(record.expects.input())
    built.network.eval()
    return built


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


def _from_onnx(record: UserModel, file: Path) -> BuiltModel:
    onnx = load_onnx(file, record.expects.size if record.expects is not None else None)
    network = Network(OnnxBody(onnx), Layout(stages=(), classifier="classifier"))
    return BuiltModel(network, warnings=tuple(onnx.warnings))


def _from_tensors(record: UserModel, file: Path) -> BuiltModel:
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
    match = match_names(tensors, wanted, heads)
    _check_copies(record, match, tensors)
    found = _in_three_channels(record, {own: tensors[name] for own, name in match.found.items()}, wanted)
    _check_outputs(record, found, wanted, heads)
    _check_fit(record, match, tensors, found, wanted)
    _check_numbers(found)
    network.body.load_state_dict({name: found.get(name, wanted[name]) for name in wanted})
    large = [name for name in match.left if tensors[name].numel() > 1 and not _is_of_training(name)]
    unread = tuple(_cut_name(name) for name in match.left[:MOST_UNREAD])
    return BuiltModel(network, unread, tuple(_unread_warnings(record, large)))


def _unread_warnings(record: UserModel, names: list[str]) -> Iterator[str]:
    if names:
        listed = first_few([_cut_name(name, LONGEST_WARNED) for name in names])
        yield f"the file has tensors that {record.architecture} does not have, which are not read: {listed}"


def _cut_name(name: str, length: int = LONGEST_NAME) -> str:
    """A name of the file for people, cut, with control characters escaped."""
    return printable(name[:length])


def _is_of_training(name: str) -> bool:
    return any(word in part for part in name.lower().split(".")[-2:] for word in OF_TRAINING)


def _check_copies(record: UserModel, match: NameMatch, tensors: Mapping[str, Tensor]) -> None:
    """Raise Impossible where the file holds the network more than once, with other numbers."""
    for copy in match.copies.values():
        if any(_differ(tensors[copy.get(own, name)], tensors[name]) for own, name in match.found.items()):
            named = ", ".join(repr(one[:LONGEST_NAME]) for one in [*match.copies][:NAMED])
            raise Impossible(
                f"the file holds {record.architecture} {len(match.copies)} times, under the prefixes {named}, with "
                "other numbers each time; write a file with the one that is meant"
            )


def _differ(one: Tensor, other: Tensor) -> bool:
    return one is not other and (one.dtype != other.dtype or not one.equal(other))


def _in_three_channels(
    record: UserModel, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors, with a first layer that reads grey spread over red, green and blue, by their shares in grey.

    The outputs are the same as of the grey of an image. Raises Impossible where the record says other channels.
    """
    first = [name for name in found if wanted[name].ndim == 4 and wanted[name].shape[1] == 3]
    one = {name: torch.Size((wanted[name].shape[0], 1, *wanted[name].shape[2:])) for name in first}
    grey = [name for name in first if found[name].shape == one[name]]
    says_grey = record.expects is not None and record.expects.channel_order == "grey"
    if grey and not says_grey:
        raise Impossible(
            f"{grey[0]} reads one channel; wanted the channel_order grey and one number each as mean and std in expects"
        )
    if says_grey and any(found[name].shape == wanted[name].shape for name in first):
        raise Impossible("the file's network reads three channels; expects says the channel_order grey")
    shares = torch.tensor(GREY_SHARES).view(1, 3, 1, 1)
    return dict(found) | {name: found[name] * shares.to(found[name].dtype) for name in grey}


def _check_outputs(
    record: UserModel, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], heads: tuple[str, ...]
) -> None:
    """Raise Impossible where the file's classifier gives another number of outputs."""
    for name in sorted(name for name in found if name.startswith(heads)):
        has, wants = tuple(found[name].shape), tuple(wanted[name].shape)
        if len(has) == len(wants) and has[0] != wants[0] and has[1:] == wants[1:]:
            one = "; one output for two classes is given as two, the first with weights and bias of 0" * (has[0] == 1)
            raise Impossible(
                f"the classifier of the file gives {has[0]} outputs ({name} has the shape {list(has)}); wanted "
                f"{record.outputs}, as its record says{one}"
            )


def _check_fit(
    record: UserModel,
    match: NameMatch,
    tensors: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
) -> None:
    """Raise Impossible where tensors of the network are missing or of another shape, or others stand among them; it
    names both sides."""
    differing = list(_differences(found, wanted))
    floats = [name for name in match.left if tensors[name].is_floating_point() and not _is_of_training(name)]
    # Beside the network there may be anything, unless the network itself is not whole.
    odd = floats if differing else [name for name in floats if name.startswith(match.prefix)]
    unexpected = [f"{_cut_name(name)} is unexpected" for name in odd]
    if differing or unexpected:
        listed = ", ".join([*_cut(differing), *_cut(unexpected)])
        raise Impossible(f"the weights do not fit {record.architecture}: {listed}")


def _cut(sentences: list[str]) -> list[str]:
    more = len(sentences) - NAMED
    return [*sentences[:NAMED], f"and {more} more"] if more > 0 else sentences


def _differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[str]:
    for name in wanted:
        if name not in found:
            if not name.endswith(COUNTER):
                yield f"{name} is missing"
        elif found[name].shape != wanted[name].shape:
            shape = str(list(found[name].shape))[:LONGEST_NAME]
            yield f"{name} has the shape {shape} and not {list(wanted[name].shape)}"
        elif found[name].is_floating_point() != wanted[name].is_floating_point():
            yield f"{name} holds {found[name].dtype} and not {wanted[name].dtype}"


def _check_numbers(tensors: Mapping[str, Tensor]) -> None:
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        raise Impossible(f"the weights are not finite numbers (NaN or infinite) in {first_few(wrong)}")
