"""User models: their record, and their agreement with a data set. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from retort.architecture import Card
from retort.input import Input
from retort.spec import Spec

ONNX = "onnx"
"""Name of an ONNX file's network in the place of an architecture."""
FEWEST_CLASSES, MOST_CLASSES = 2, 100_000
LARGEST_SIDE = 1024
"""Pixels of the side of an image."""
GREY_SHARES = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R BT.601, as torchvision and Pillow have them); their sum is 1."""

ModelId = Annotated[str, StringConstraints(pattern=r"^model_[0-9a-z]+$")]
Form = Literal["safetensors", "onnx"]
ClassName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
ChannelValues = Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]
"""A number for each channel that a network reads: three, or one of grey images."""
ChannelOrder = Literal["rgb", "bgr", "grey"]


class Expects(Spec):
    """Images that the network expects; the engine converts the student's views to them."""

    size: int = Field(ge=1, le=LARGEST_SIDE)
    """Side of the square image, in pixels; others are resized (bilinear, antialiased)."""
    channel_order: ChannelOrder
    """Order of the colours; `grey` is one channel, 0.299 red + 0.587 green + 0.114 blue."""
    range: tuple[float, float]
    """Values of the darkest and the brightest pixel, before mean and std: [0, 1] or [0, 255], for example."""
    mean: ChannelValues
    """Subtracted from each channel, in that range and that order of the colours; one number for grey, else three."""
    std: ChannelValues
    """Divides each channel after that; as many numbers."""

    @property
    def channels(self) -> int:
        """Channels of an image: 1 for grey, else 3."""
        return 1 if self.channel_order == "grey" else 3

    @model_validator(mode="after")
    def _agrees(self) -> Expects:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                counted = {"found": len(values), "wanted": self.channels, "order": self.channel_order, "field": name}
                raise PydanticCustomError(
                    name, "{field} has {found} numbers; wanted {wanted}, as channel_order is {order}", counted
                )
        if min(self.std) <= 0:
            raise PydanticCustomError(
                "std", "std is {found}; wanted numbers above 0", {"found": str(list(self.std)), "field": "std"}
            )
        if self.range[0] >= self.range[1]:
            found = str(list(self.range))
            raise PydanticCustomError(
                "range", "range is {found}; wanted the darkest value first", {"found": found, "field": "range"}
            )
        return self

    def input(self) -> Input:
        """The same for the engine's images, RGB in [0, 1]; a network of grey images mixes the three channels itself."""
        low, width = self.range[0], self.range[1] - self.range[0]
        order = -1 if self.channel_order == "bgr" else 1
        each = 3 // self.channels
        mean = [(value - low) / width for value in self.mean * each][::order]
        std = [value / width for value in self.std * each][::order]
        colours = "bgr" if self.channel_order == "bgr" else "rgb"
        return Input.model_validate({"size": self.size, "mean": mean, "std": std, "channel_order": colours})


class UserModel(Spec):
    """The record of a user model, as far as it decides the network's outputs."""

    id: ModelId
    form: Form
    architecture: str
    """Name in the catalogue, or `onnx`."""
    classes: int | None = Field(ge=FEWEST_CLASSES, le=MOST_CLASSES)
    """Number of its outputs; null for an ONNX file that was not checked yet."""
    class_names: tuple[ClassName, ...] | None
    """Name of each class, in the order of the logits; null where unknown."""
    expects: Expects | None
    """Images that it expects; null as `classes` is."""
    card: Card | None = None
    """The card of an ONNX file; other models' are in the catalogue."""
    warnings: tuple[str, ...] = ()
    """Sentences of its check about what is odd; they are repeated for each recipe that names it."""

    @property
    def file(self) -> str:
        """Name of its file on a worker."""
        return f"model.{self.form}"

    @property
    def outputs(self) -> int | None:
        """Number of its outputs; None for an ONNX file that was not checked yet."""
        return self.classes

    def completed(
        self, *, outputs: int, class_names: tuple[str, ...] | None, expects: Expects, card: Card
    ) -> UserModel:
        """The record of an ONNX file after its check. Raises ValidationError where it would be none."""
        update = {"classes": outputs, "class_names": class_names, "expects": expects, "card": card}
        return UserModel.model_validate({name: getattr(self, name) for name in UserModel.model_fields} | update)


RECORD = "model.json"
"""Name of the record beside that file."""


def expects_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Architecture, class_names and expects in a file's metadata, each only where it is there.

    Read are `retort` (student.json, in Retort's exports) and `pretrained_cfg` (timm's). Values are not checked here.
    """
    found: dict[str, Any] = {}
    if (student := _object(metadata.get("retort"))) is not None:
        found |= from_description(student)
    elif (config := _object(metadata.get("pretrained_cfg"))) is not None:
        found["expects"] = from_timm(config)
        if isinstance(names := config.get("label_names"), list):
            found["class_names"] = names
    return found


def from_description(student: Mapping[str, Any]) -> dict[str, Any]:
    """Architecture, class_names and expects in a student.json."""
    image = student.get("input")
    image = image if isinstance(image, Mapping) else {}
    # In version 1 of the description the statistics stood beside the size.
    inside = image.get("normalises_inside", image)
    inside = inside if isinstance(inside, Mapping) else {}
    order = "bgr" if inside.get("channel_order") == "bgr" else "rgb"
    expects = {name: image[name] for name in ("size",) if name in image}
    for name in ("mean", "std"):
        if name in inside:
            # Of RGB there, and in the order of the network's colours here.
            reverse = order == "bgr" and isinstance(inside[name], list)
            expects[name] = inside[name][::-1] if reverse else inside[name]
    found = {name: student[name] for name in ("architecture", "class_names") if name in student}
    return found | {"expects": {"channel_order": order, "range": [0.0, 1.0]} | expects}


def from_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Expects in timm's pretrained_cfg: `input_size` (C, H, W), `mean` and `std` of RGB in [0, 1]."""
    found = {name: config[name] for name in ("mean", "std") if name in config}
    size = config.get("input_size")
    grey = False
    if isinstance(size, list) and len(size) == 3:
        found["size"], grey = size[-1], size[0] == 1
    return {"channel_order": "grey" if grey else "rgb", "range": [0.0, 1.0]} | found if found else {}


def _object(text: str | None) -> dict[str, Any] | None:
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def class_order(model_names: tuple[str, ...] | None, data_names: tuple[str, ...]) -> tuple[int, ...] | None:
    """The model's output for each class of the data set; None where the names do not give it.

    Capitals, spaces, hyphens and underscores are ignored.
    """
    if model_names is None:
        return None
    at = {_plain(name): number for number, name in enumerate(model_names)}
    wanted = [_plain(name) for name in data_names]
    if len(at) != len(model_names) or sorted(at) != sorted(wanted):
        return None
    return tuple(at[name] for name in wanted)


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character not in " -_")


def class_sentence(name: str, model_names: tuple[str, ...] | None, data_names: tuple[str, ...]) -> str | None:
    """A sentence about what is odd in a network's classes, as many as the data set's; None where nothing is."""
    order = class_order(model_names, data_names)
    wanted = set(map(_plain, data_names))
    if model_names is None:
        return f"{name} has no class names: its outputs are taken to be in the data set's order"
    if order is None:
        strange = [one for one in model_names if _plain(one) not in wanted]
        named = ", ".join(map(repr, strange[:5])) + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")
        found = f"{named} of {name} are not classes of the data set" if strange else f"{name} has a class twice"
        return f"{found}: its outputs are taken to be in the data set's order"
    if order != tuple(range(len(order))):
        first = next(i for i, j in enumerate(order) if i != j)
        return (
            f"{name} has the data set's classes in another order (output {first} is {model_names[first]!r}, the data "
            f"set's class {first} is {data_names[first]!r}): its outputs are put into the data set's order"
        )
    return None


def parsed_expects(fields: Mapping[str, Any]) -> tuple[Expects | None, dict[str, str]]:
    """The expectation, or the fields that are missing or wrong, each with the reason."""
    try:
        return Expects.model_validate(fields), {}
    except ValidationError as error:
        wrong: dict[str, str] = {}
        for each in error.errors():
            where = each["loc"] or (each.get("ctx", {}).get("field", "expects"),)
            wrong.setdefault("/".join(map(str, where)), each["msg"])
        return None, wrong


def parsed_class_names(found: Any) -> tuple[str, ...]:
    """The class names of a file's metadata. Raises ValueError, in one sentence, for anything else."""
    try:
        names = _CLASS_NAMES.validate_python(found)
    except ValidationError:
        names = ()
    if not FEWEST_CLASSES <= len(names) <= MOST_CLASSES:
        raise ValueError(
            f"the class names in the file's metadata are not a list of {FEWEST_CLASSES} to {MOST_CLASSES:,} texts of 1 "
            "to 200 characters; give class_names"
        )
    return names


_CLASS_NAMES: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[ClassName, ...])
