"""A shipped network: `student.json` describes how it is built, a safetensors file holds its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, computed_field, model_validator

from retort.architectures import ARCHITECTURES
from retort.dataset import Channels, DataFacts, Decoding, ImageFacts
from retort.input import Input
from retort.method import Wrapper
from retort.methods import METHODS
from retort.spec import Spec
from retort.task import Task, TaskError
from retort.tasks import TASKS, TaskName

if TYPE_CHECKING:
    from torch import Tensor

    from retort.network import Network


class StudentError(ValueError):
    """The files do not give a network; the sentence gives the reason."""


class InsideNormalisation(Spec):
    """The network's own treatment of the images that it is fed. A caller who applies it again does it twice."""

    model_config = ConfigDict(extra="ignore")

    mean: Channels
    """Subtracted from each channel of an image in [0, 1]."""
    std: Channels
    """Divides each channel after the mean was subtracted."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Order in which the layers read the colours; mean and std are given in that of RGB."""


class ShippedInput(Spec):
    """Images that the network is fed: RGB in [0, 1], not normalised."""

    model_config = ConfigDict(extra="ignore")

    size: int
    """Side of the square image, in pixels."""
    range: tuple[float, float] = (0.0, 1.0)
    """Values of the darkest and the brightest pixel."""
    layout: Literal["NCHW"] = "NCHW"
    """Order of the axes: images, channels, height, width."""
    channels: Literal["RGB"] = "RGB"
    """Order of the colours."""
    crop: str = "the middle square of the upright image"
    """Share of a photograph that the images of training and test are."""
    resize: str = "bilinear, antialiased"
    """Scaling of that square to `size`."""
    normalises_inside: InsideNormalisation

    @computed_field  # type: ignore[prop-decorator]
    @property
    def you_feed(self) -> str:
        """Whatever a caller has to prepare, in one line."""
        low, high = self.range
        return f"{self.channels}, float32, {low:g} to {high:g}, N x 3 x {self.size} x {self.size}"

    @model_validator(mode="before")
    @classmethod
    def _read_version_1(cls, sent: Any) -> Any:
        """Versions 0.1 and 0.2 gave the statistics beside the size, as if the caller had to apply them."""
        if not isinstance(sent, Mapping) or "normalises_inside" in sent or "mean" not in sent:
            return sent
        inside = {name: sent[name] for name in InsideNormalisation.model_fields if name in sent}
        return {**sent, "normalises_inside": inside}


class ShippedWrapper(Spec):
    """A method's change to the network."""

    method: str
    """Name of the method."""
    fields: dict[str, Any]
    """The wrapper's own fields."""


class NetworkDescription(Spec):
    """The content of `student.json`; the engine adds its measurements."""

    # Fields that a later version adds are ignored.
    model_config = ConfigDict(extra="ignore")

    retort: Literal[1, 2] = 2
    """Version of this description; in 1 the statistics of `normalises_inside` stood beside the input's size."""
    name: str
    """The network's name in its job."""
    task: TaskName = "classification"
    """The network's task, which has further fields here; files of version 0.1 do not name it."""
    architecture: str
    """Name in the catalogue of architectures."""
    input: ShippedInput
    decoding: Decoding | None = Field(default=None, exclude_if=lambda decoding: decoding is None)
    """The making of RGB images of 8 bits from files, as in training; left out for data sets that do not say it."""
    wrapper: ShippedWrapper | None
    """Null for a network as its architecture gives it."""
    weights_dtype: Literal["float32", "float16"]
    """Precision in which the weights are stored; the network computes in float32."""
    parameters: int
    """Numbers stored, batch norm's running statistics not counted."""
    weights_file: str = Field(pattern=r"^[^/\\]+$")
    """Name of the safetensors file."""


def describe(
    network: Network,
    *,
    name: str,
    task: Task,
    facts: DataFacts,
    architecture: str,
    wrapper: tuple[str, Wrapper] | None,
    weights_dtype: str,
) -> dict[str, Any]:
    """All that is needed to build the network again but its weights, as JSON.

    `wrapper` is the method that changed its head, with the change; `weights_dtype` the precision in which weights are
    stored.
    """
    described = NetworkDescription(
        name=name,
        task=task.name,
        architecture=architecture,
        input=_shipped_input(network.image, facts),
        decoding=facts.decoding if isinstance(facts, ImageFacts) else None,
        wrapper=ShippedWrapper(method=wrapper[0], fields=wrapper[1].model_dump(mode="json")) if wrapper else None,
        weights_dtype=weights_dtype,
        parameters=network.parameter_count(),
        weights_file=f"{name}.safetensors",
    )
    return described.model_dump(mode="json") | task.describe(facts)


def _shipped_input(image: Input, facts: DataFacts) -> ShippedInput:
    stored = getattr(facts, "image_size", image.size)
    first = f" to {stored} x {stored}, and then" if stored != image.size else ""
    return ShippedInput(
        size=image.size,
        resize=f"bilinear, antialiased,{first} to {image.size} x {image.size}",
        normalises_inside=InsideNormalisation(mean=image.mean, std=image.std, channel_order=image.channel_order),
    )


def task_of(description: Mapping[str, Any]) -> str:
    """Name of the task of a described network; descriptions of version 0.1 do not name it."""
    return str(description.get("task", "classification"))


def outputs_of(description: Mapping[str, Any]) -> int:
    """Number of outputs of a described network. Raises StudentError where the description is at odds."""
    task = TASKS[task_of(description)]
    try:
        return task.described_outputs(task.description_type.model_validate(description))
    except TaskError as error:
        raise StudentError(str(error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise StudentError(f"its description is wrong at {'/'.join(map(str, first['loc']))}: {first['msg']}") from error


def load_student(description_file: Path, weights_file: Path | None = None) -> tuple[Network, dict[str, Any]]:
    """Build a shipped network again, in eval mode on the CPU, with its whole description. Raises StudentError.

    It takes RGB images in [0, 1], (N, 3, H, W) float32. Reads no pickle and needs no teacher. Without a weights file
    the one beside the description is taken that it names.
    """
    file = Path(description_file)
    description, everything = _read_description(file)
    network = _build(description, outputs_of(everything))
    _load_weights(network, Path(weights_file or file.with_name(description.weights_file)))
    return network.eval(), everything


def _read_description(file: Path) -> tuple[NetworkDescription, dict[str, Any]]:
    try:
        everything = json.loads(file.read_text(encoding="utf-8"))
        described = NetworkDescription.model_validate(everything)
        TASKS[described.task].description_type.model_validate(everything)
        return described, everything
    except OSError as error:
        raise StudentError(f"{file.name} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "/".join(map(str, first["loc"]))
        raise StudentError(f"{file.name} is not a description of a network: {where}: {first['msg']}") from error
    except ValueError as error:
        raise StudentError(f"{file.name} is not JSON: {error}") from error


def _build(description: NetworkDescription, outputs: int) -> Network:
    import torch

    if description.architecture not in ARCHITECTURES:
        raise StudentError(f"the network is a {description.architecture!r}; no such architecture is installed here")
    try:
        with torch.random.fork_rng(devices=[]):
            network = _build_network(description.architecture, outputs)
            if description.wrapper is not None:
                _wrapper(description.wrapper).build(network, _build_network)
    except LookupError as error:
        raise StudentError(str(error)) from error
    image, inside = description.input, description.input.normalises_inside
    network.set_input(Input(size=image.size, mean=inside.mean, std=inside.std, channel_order=inside.channel_order))
    return network


def _build_network(architecture: str, outputs: int) -> Network:
    return ARCHITECTURES[architecture].build(architecture, outputs)


def _wrapper(shipped: ShippedWrapper) -> Wrapper:
    method = METHODS.get(shipped.method)
    if method is None or method.wrapper_type is None:
        raise StudentError(f"the network was changed by method {shipped.method!r}; no such method is installed here")
    try:
        return method.wrapper_type.model_validate(shipped.fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "/".join(map(str, first["loc"]))
        raise StudentError(
            f"the description of what {shipped.method} changed is wrong: {where}: {first['msg']}"
        ) from error


def _load_weights(network: Network, file: Path) -> None:
    """Copy the file's tensors into the body: every name and every shape must agree."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise StudentError(f"{file.name} cannot be read as safetensors: {error}") from error
    wanted = network.body.state_dict()
    differing = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:3])})"
        for what, names in (
            ("missing", wanted.keys() - weights.keys()),
            ("unexpected", weights.keys() - wanted.keys()),
            ("of another shape", {n for n in wanted.keys() & weights.keys() if wanted[n].shape != weights[n].shape}),
        )
        if names
    ]
    if differing:
        raise StudentError(f"the weights of {file.name} do not fit the described network: {'; '.join(differing)}")
    network.body.load_state_dict(weights)
