"""What all schemas of the API share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema


class Asked(BaseModel):
    """What a caller sends. Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Shown(BaseModel):
    """What a caller gets. Times may be given as epoch seconds and are shown as RFC 3339."""

    model_config = ConfigDict(use_attribute_docstrings=True)


@dataclass(frozen=True)
class DescribedBy:
    """Marks JSON that is passed on as it was stored: documented by a model, never validated by it again."""

    model: type[BaseModel]
    leaves_out: tuple[str, ...] = ()
    """Fields of the model that are not shown."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        reference = handler(self.model.__pydantic_core_schema__)
        properties = handler.resolve_ref_schema(reference)["properties"]
        for name in self.leaves_out:
            properties.pop(name, None)
        return reference
