"""Every export format, found by looking in this folder: adding one is adding a file here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from retort.export import Export
from retort.registry import discover

EXPORTS = discover(__name__, __path__, Export)  # type: ignore[type-abstract]

if TYPE_CHECKING:
    AnyExport = Export
else:
    AnyExport = Annotated[Union[tuple(EXPORTS.values())], Field(discriminator="name")]  # noqa: UP007 - it is made at run time
