"""Every method, found by looking in this folder: adding one is adding a file here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from retort.method import Method
from retort.registry import discover

CONFORMANCE = Path(__file__).with_name("conformance.json")
"""Published values against which each method is tested; `python -m tests.retort.methods.goldens` writes them."""

METHODS = discover(__name__, __path__, Method)  # type: ignore[type-abstract]

if TYPE_CHECKING:
    AnyMethod = Method
else:
    AnyMethod = Annotated[Union[tuple(METHODS.values())], Field(discriminator="name")]  # noqa: UP007 - it is made at run time
