"""User models as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from retort.recipe import NetworkName
from retort.user_model import (
    FEWEST_CLASSES,
    LARGEST_SIDE,
    MOST_CLASSES,
    ChannelOrder,
    ChannelValues,
    ClassName,
    Expects,
    Form,
)
from service.jobs.models import JobRow
from service.models.models import ModelRow, ModelState
from service.models.products import PRODUCTS
from service.schemas import DescribedBy, RequestModel, ResponseModel

StoredExpects = Annotated[dict[str, Any], DescribedBy(Expects)]
StoredNames = Annotated[list[str], DescribedBy(list[str])]


class ExpectsCreate(RequestModel):
    """The form of the network's images; fields that are left out here must be in the file."""

    size: int | None = Field(default=None, ge=1, le=LARGEST_SIDE)
    """Side of the square image, in pixels."""
    channel_order: ChannelOrder | None = None
    """Order of the colours; `grey` is one channel, 0.299 red + 0.587 green + 0.114 blue."""
    range: tuple[float, float] | None = None
    """Values of the darkest and the brightest pixel, before mean and std: [0, 1] or [0, 255], say."""
    mean: ChannelValues | None = None
    """Subtracted from each channel, in that range and order; one number for grey, else three."""
    std: ChannelValues | None = None
    """Divides each channel after that; as many numbers."""


class ModelCreate(RequestModel):
    """A network to take in: a file that was uploaded, or a network of an earlier job."""

    name: str = Field(min_length=1, max_length=200)
    """Its name, for people."""
    upload: str | None = Field(default=None, pattern=r"^upload_[0-9a-z]+$")
    """Id of a complete upload of kind `model`."""
    form: Form | None = None
    """The format of the uploaded file."""
    architecture: str | None = Field(default=None, max_length=200)
    """Of safetensors: the architecture's name in the catalogue."""
    classes: int | None = Field(default=None, ge=FEWEST_CLASSES, le=MOST_CLASSES)
    """Number of its classes, where class_names are not given."""
    class_names: tuple[ClassName, ...] | None = Field(default=None, min_length=FEWEST_CLASSES, max_length=MOST_CLASSES)
    """Name of each class, in the order of its outputs."""
    expects: ExpectsCreate = ExpectsCreate()
    """The form of its images."""
    job: str | None = Field(default=None, pattern=r"^job_[0-9a-z]+$")
    """Id of a job that has succeeded, instead of an upload; all else is then known."""
    network: NetworkName | None = None
    """Name of the network of that job."""


class ModelLinks(ResponseModel):
    """Paths of the model and its job."""

    self: str
    job: str | None
    """Null once the job was deleted."""
    check: str


class ModelRead(ResponseModel):
    """A user model: a trained network."""

    id: str
    """The name for recipes: `"teacher": {"model": id}`."""
    name: str
    state: ModelState
    """Its state: checking, ready or refused."""
    error: str | None
    """One sentence why it cannot be used, if it cannot."""
    form: Form
    architecture: str
    """Name in the catalogue, or `onnx`."""
    classes: int | None
    """Null until its job has looked into an ONNX file, as the fields below."""
    class_names: StoredNames | None
    """Name of each class, in the order of its outputs; null where they are unknown."""
    expects: StoredExpects | None
    """The form of its images."""
    size: int
    """Bytes of its file."""
    sha256: str
    """Hex, of its file."""
    job_id: str | None
    """The job that takes or took it in."""
    created_at: datetime
    links: ModelLinks


class ModelDetail(ModelRead):
    """One model, with all that was found when it was taken in."""

    report: dict[str, Any] | None
    """Parameters, multiply-adds, the shapes of its stages, seconds per image, the range of its outputs, and what was
    odd; null until it is ready."""


def shown(model: ModelRow, job: JobRow | None) -> ModelRead:
    """A model as lists show it."""
    return ModelRead(**_fields(model, job))


def detail(model: ModelRow, job: JobRow | None) -> ModelDetail:
    """A model as it is shown alone."""
    return ModelDetail(**_fields(model, job), report=model.report)


def _fields(model: ModelRow, job: JobRow | None) -> dict[str, Any]:
    shared = PRODUCTS.fields(model, job)
    copied = ("form", "architecture", "classes", "class_names", "expects", "sha256")
    own = {name: getattr(model, name) for name in copied}
    links = ModelLinks(**shared["links"], check=f"{shared['links']['self']}/check")
    return {**shared, **own, "links": links}
