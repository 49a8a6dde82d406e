"""The bases of all schemas of the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema
from starlette.responses import Response

from retort.spec import Described


class RequestModel(Described):
    """A body that a caller sends. Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class QueryModel(BaseModel):
    """The query of an address. Unknown parameters are errors."""

    # FastAPI documents parameters from the fields themselves, not from a JSON schema.
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ResponseModel(Described):
    """An answer. Times may be given as epoch seconds and are shown as RFC 3339."""


@dataclass(frozen=True)
class DescribedBy:
    """Marks JSON that is passed on as it was stored: documented by a model, never validated by it again."""

    model: Any
    """A model, or a union of several."""
    leaves_out: tuple[str, ...] = ()
    """Fields of the model that are not shown."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # A wrap validator bears the JSON schema of what it wraps; this one never calls it.
        described = handler.generate_schema(self.model)
        unchanged = core_schema.plain_serializer_function_ser_schema(_pass_on)
        return core_schema.no_info_wrap_validator_function(_skip, described, serialization=unchanged)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        reference = handler(schema)
        for name in self.leaves_out:
            handler.resolve_ref_schema(reference)["properties"].pop(name, None)
        return reference


def spelled(shown: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer, for an endpoint that is asked often: FastAPI would validate once more what was built as it is
    documented, in another thread. The endpoint names the model as its `response_model`."""
    return Response(shown.model_dump_json(), status, headers, media_type="application/json")


def _skip(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
    return value


def _pass_on(value: Any) -> Any:
    return value
