"""Every data set, found by looking in this folder: adding one is adding a file here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from retort.dataset import Dataset
from retort.registry import discover

DATASETS = discover(__name__, __path__, Dataset)  # type: ignore[type-abstract]

if TYPE_CHECKING:
    AnyDataset = Dataset
else:
    AnyDataset = Annotated[Union[tuple(DATASETS.values())], Field(discriminator="name")]  # noqa: UP007 - it is made at run time
