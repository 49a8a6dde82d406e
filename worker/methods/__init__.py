"""Every method, found by looking in this folder: adding one is adding a file here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from worker.method import Method
from worker.registry import discover

METHODS = discover(__name__, __path__, Method)  # type: ignore[type-abstract]

if TYPE_CHECKING:
    AnyMethod = Method
else:
    AnyMethod = Annotated[Union[tuple(METHODS.values())], Field(discriminator="name")]  # noqa: UP007 - it is made at run time
