"""The base of everything that a user may send and of everything the engine compares by value."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticKnownError, core_schema


class Described(BaseModel):
    """A model whose JSON schema gives the text under a field as its description.

    pydantic does so with `use_attribute_docstrings`, and reads the source of each class when the class is made: a third
    of the time that a process took to start. Here it is read when a schema is made.
    """

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        reference = handler(schema)
        properties = handler.resolve_ref_schema(reference).get("properties", {})
        for name, text in _texts(cls).items():
            if name in properties:
                properties[name].setdefault("description", text)
        return reference


class Spec(Described):
    """A frozen description: unknown fields are errors, values never change, equal specs hash alike."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


@dataclass(frozen=True)
class AtMost:
    """The most entries of a list, as in `Annotated[tuple[Student, ...], AtMost(64)]`.

    Pydantic's own `max_length` counts valid entries alone, so that a list of any length is validated whole when none
    is valid. Here a list that is too long is refused before its first entry is looked at.
    """

    entries: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "maxItems": self.entries}

    def _check(self, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) > self.entries:
            found = {"field_type": "Tuple", "max_length": self.entries, "actual_length": len(value)}
            raise PydanticKnownError("too_long", found)
        return value


def wrong_at(name: str, error: ValidationError) -> str:
    """The first fault of something that was validated, as one sentence with a JSON pointer."""
    found = error.errors(include_url=False)[0]
    return f"the {name} is wrong at /{'/'.join(map(str, found['loc']))}: {found['msg']}"


def _texts(model: type[BaseModel]) -> Mapping[str, str]:
    """The texts under a model's fields, by the fields' names; a field that is declared anew has none of its old one."""
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        anew = inspect.get_annotations(owner)
        own = _module_texts(owner.__module__).get(owner.__qualname__, {})
        found = {name: text for name, text in found.items() if name not in anew} | own
    return found


@cache
def _module_texts(name: str) -> Mapping[str, dict[str, str]]:
    """The texts under the annotated names of each class of a module, by the class's qualified name."""
    try:
        source = inspect.getsource(sys.modules[name])
    except (KeyError, OSError, TypeError):  # made without a file
        return {}
    return dict(_class_texts(ast.parse(source), ""))


def _class_texts(node: ast.AST, within: str) -> Iterator[tuple[str, dict[str, str]]]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.ClassDef):
            yield within + inner.name, {
                field.target.id: inspect.cleandoc(text.value.value)
                for field, text in pairwise(inner.body)
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            }  # fmt: skip
            yield from _class_texts(inner, f"{within}{inner.name}.")
        elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _class_texts(inner, f"{within}{inner.name}.<locals>.")
        else:
            yield from _class_texts(inner, within)
