"""The base of everything that a user may send and of everything the engine compares by value."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A frozen description: unknown fields are errors, values never change, equal specs hash alike.

    The text under a field is that field's description in the API.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
