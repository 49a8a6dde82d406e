"""The spec of a job of kind `ingest`: the source of images, and how they become a data set. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from retort.dataset import WHITE, Colour
from retort.datasets._roots import LONGEST_PATH, PATH_PATTERN
from retort.recipe import Deadline, Seed
from retort.spec import Spec

ARCHIVE, REPORT, THUMBNAILS = "dataset.tar", "report.json", "thumbnails.jpg"
"""The files that such a job leaves: the data set; its description, as JSON of `facts` and `report`; and small images of
each class, see retort.ingestion.thumbnails."""
LONGEST_SECONDS = 6 * 3600.0
"""Seconds that an ingestion may last unless the spec gives others: the largest public sets take a fraction of that."""

MOST_FILES = 1_500_000
"""Files that a source may have unless a setting gives another number: the largest public set of images has 1.4
million."""


class Origin(Spec):
    """The source of the images: one of these."""

    upload: str | None = Field(default=None, pattern=r"^upload_[0-9a-z]+$")
    """Id of a finished upload of kind `dataset`: a tar, tar.gz, tar.zst or zip archive."""
    folder: str | None = Field(default=None, min_length=1, max_length=LONGEST_PATH, pattern=PATH_PATTERN)
    """A folder of the workers' machines, under one that the server allows (RETORT_DATA_ROOTS)."""

    @model_validator(mode="after")
    def _is_one(self) -> Origin:
        if (self.upload is None) == (self.folder is None):
            found = "neither upload nor folder is given" if self.upload is None else "both upload and folder are given"
            raise PydanticCustomError("one_origin", "{found}; wanted one of them", {"found": found})
        return self


class Splits(Spec):
    """The making of splits that the source does not have; each class gives its share, which a seed draws."""

    validation_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of each class's training images that becomes the validation split where there is none."""
    test_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of each class's training images that becomes the test split where there is none."""
    seed: Seed = 0
    """Rules the choice of these images."""


class Tolerance(Spec):
    """Limits of an ingestion."""

    broken: int = Field(default=0, ge=0, le=1_000_000)
    """Number of images that may be broken: they are left out and named in the report. With more the job fails."""
    files: int | None = Field(default=None, ge=1)
    """Number of entries of any kind that an archive or a folder may have; null is as many as the server allows. Of a
    zip no more than 300,000 are read."""


class Ingest(Spec):
    """Images taken in as a data set: looked at one by one, split, and stored so that recipes can name them."""

    ingest_version: Literal[1] = 1
    """Version of this contract."""
    name: str = Field(min_length=1, max_length=200)
    """Name of the data set, for people."""
    source: Origin
    """Upload or folder of the images."""
    splits: Splits = Splits()
    """The making of missing splits."""
    limits: Tolerance = Tolerance()
    """Limits of an ingestion."""
    image_size: int = Field(default=224, ge=8, le=1024)
    """Side of the square that images are resized to unless a recipe gives another, in pixels; images are stored as they
    are."""
    background: Colour = WHITE
    """Colour on which transparent pixels are laid: red, green and blue, 0 to 255."""
    deadline: Deadline = Deadline(seconds=LONGEST_SECONDS)
    """Limit of its time."""
