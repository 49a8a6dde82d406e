"""Every step of compression, found by looking in this folder: adding one is adding a file here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from retort.compression import Compression
from retort.registry import discover

COMPRESSIONS = discover(__name__, __path__, Compression)

if TYPE_CHECKING:
    AnyCompression = Compression
else:
    AnyCompression = Annotated[Union[tuple(COMPRESSIONS.values())], Field(discriminator="name")]  # noqa: UP007 - it is made at run time
