"""Every method, found by looking in this folder: adding one is adding a file here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from worker.method import Method
from worker.registry import discover

METHODS = discover(__name__, __path__, Method)

if TYPE_CHECKING:
    AnyMethod = Method
else:
    AnyMethod = Annotated[Union[tuple(METHODS.values())], Field(discriminator="name")]
