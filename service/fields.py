"""What pydantic found wrong, as sentences and as JSON pointers into what was sent.

Pydantic's own locations name a union's member besides fields and positions ("methods", 0, "kd", "temperature"), so the
way is walked along the model's schema, which knows which is which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, core_schema

from retort.registry import nearest
from service.errors import FieldError, quote

Schema = Mapping[str, Any]
Path = tuple[str | int, ...]

OWN_ERRORS = frozenset(get_args(core_schema.ErrorType))
"""Pydantic's kinds of error; any other kind is a validator's of ours and brings its sentence along."""
UNKNOWN: Schema = {"type": "any"}
WANTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "an object",
    "enum": "{expected}",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "multiple_of": "a multiple of {multiple_of}",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} characters",
    "string_type": "text",
    "too_long": "at most {max_length} entries",
    "too_short": "at least {min_length} entries",
    "tuple_type": "a list",
}
"""What would have been right, by pydantic's kind of error; a kind that is missing here speaks for itself."""


@dataclass(frozen=True)
class Place:
    """Where an error lies."""

    path: Path
    parent: Schema
    """What the last step of the path was taken in."""
    node: Schema
    """What lies there."""
    union: Path | None
    """Where the outermost choice between forms lies on the way."""


def field_errors(error: ValidationError, model: type[BaseModel], body: Any) -> list[FieldError]:
    """One error a wrong field, in the order in which they were found. `body` is what was sent."""
    schema = model.__pydantic_core_schema__
    definitions = _definitions(schema)
    placed = [(_place(found["loc"], schema, definitions), found) for found in error.errors(include_url=False)]
    within = {place.path[:-1] for place, _ in placed}
    # A list whose only entries are wrong is called too short besides, which says nothing new.
    told = [(place, found) for place, found in placed if found["type"] != "too_short" or place.path not in within]
    return _merge([(place, _field_error(place, found)) for place, found in told])


def parameter_errors(errors: Iterable[Mapping[str, Any]]) -> list[FieldError]:
    """The same for what FastAPI found wrong in query, path and headers."""
    told = []
    for found in errors:
        name = str(found["loc"][1])
        if found["type"] == "extra_forbidden":
            told.append(FieldError(parameter=name, detail=f"there is no parameter {quote(name)} here"))
        else:
            told.append(_sentence(FieldError(parameter=name, detail=""), name, found))
    return told


def pointer_of(path: Path) -> str:
    """The JSON pointer, RFC 6901, that takes those steps."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def path_text(path: Path) -> str:
    """The steps as people write them: students[0].architecture."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "the body"


def _field_error(place: Place, found: ErrorDetails) -> FieldError:
    kind, name = found["type"], path_text(place.path)
    context: Mapping[str, Any] = found.get("ctx", {})
    if kind == "missing":
        return FieldError(pointer=pointer_of(place.path), detail=f"{name} is missing")
    if kind == "extra_forbidden":
        hint = nearest(str(place.path[-1]), place.parent.get("fields", ()))
        owner = path_text(place.path[:-1])
        detail = f"{owner} has no field {quote(place.path[-1])}{hint}"
        return FieldError(pointer=pointer_of(place.path), detail=detail, found=_short(found["input"]))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_tag(place, context)
    if kind not in OWN_ERRORS or kind == "value_error":
        inner = tuple(str(context["field"]).split("/")) if "field" in context else ()
        sentence = found["msg"].removeprefix("Value error, ")
        where = f"{name}: " if place.path else ""
        return FieldError(pointer=pointer_of(place.path + inner), detail=where + sentence)
    return _sentence(FieldError(pointer=pointer_of(place.path), detail=""), name, found)


def _wrong_tag(place: Place, context: Mapping[str, Any]) -> FieldError:
    """An object that names no form, or one that does not exist."""
    field, known = str(context["discriminator"]).strip("'"), [str(tag) for tag in place.node.get("choices", ())]
    path = (*place.path, field)
    wanted = f"one of {', '.join(known)}"
    if "tag" not in context:
        detail = f"{path_text(path)} is missing; wanted {wanted}"
        return FieldError(pointer=pointer_of(path), detail=detail, wanted=wanted)
    tag = str(context["tag"])
    hint = nearest(tag, known) or f"; wanted {wanted}"
    detail = f"{path_text(path)} is {quote(tag)}, which does not exist{hint}"
    return FieldError(pointer=pointer_of(path), detail=detail, found=_short(tag), wanted=wanted)


def _sentence(error: FieldError, name: str, found: Mapping[str, Any]) -> FieldError:
    """The error with what was found and wanted filled in."""
    kind, value = found["type"], found["input"]
    if kind == "missing":
        return error.model_copy(update={"detail": f"{name} is missing"})
    template = WANTED.get(kind)
    if template is None:
        return error.model_copy(update={"detail": f"{name} is {_said(value)}: {found['msg']}", "found": _short(value)})
    limits = {key: _number(limit) for key, limit in found.get("ctx", {}).items()}
    wanted = template.format(**limits)
    detail = f"{name} is {_said(value)}; wanted {wanted}"
    return error.model_copy(update={"detail": detail, "found": _short(value), "wanted": wanted})


def _merge(placed: Sequence[tuple[Place, FieldError]]) -> list[FieldError]:
    """One error where a value fits none of several forms; where it resembles one of them, that one's errors."""
    merged: dict[tuple[Path | None, str], FieldError] = {}
    deeper = {place.union for place, _ in placed if place.union is not None and len(place.path) > len(place.union)}
    for place, error in placed:
        if place.union is not None and place.path == place.union and place.union in deeper:
            continue
        before = merged.get((place.union, error.pointer or ""))
        if before is None or place.union is None:
            merged[place.union, error.pointer or ""] = error
        elif error.wanted and error.wanted not in (before.wanted or ""):
            wanted = f"{before.wanted} or {error.wanted}"
            detail = f"{before.detail} or {error.wanted}"
            merged[place.union, error.pointer or ""] = before.model_copy(update={"wanted": wanted, "detail": detail})
    return list(merged.values())


def _place(steps: Sequence[str | int], schema: Schema, definitions: Mapping[str, Schema]) -> Place:
    path: Path = ()
    union: Path | None = None
    parent, node = UNKNOWN, _bare(schema, definitions)
    for step in steps:
        kind = node["type"]
        if kind in ("union", "tagged-union"):
            union = path if kind == "union" and union is None else union
            following = _member(node, step, definitions)
        else:
            path = (*path, step)
            following = _inside(node, step)
        parent, node = node, _bare(following, definitions)
    return Place(path, parent, node, union)


def _member(union: Schema, label: str | int, definitions: Mapping[str, Schema]) -> Schema:
    """The form that an error speaks of; of forms without a tag, one at most is an object."""
    if union["type"] == "tagged-union":
        tagged: Mapping[str | int, Schema] = union["choices"]
        return tagged.get(label, UNKNOWN)
    members = [member[0] if isinstance(member, tuple) else member for member in union["choices"]]
    return next((m for m in members if _bare(m, definitions)["type"] == "model-fields"), UNKNOWN)


def _inside(node: Schema, step: str | int) -> Schema:
    inside: Schema = UNKNOWN
    if node["type"] == "model-fields":
        inside = node["fields"].get(step, UNKNOWN)
    elif node["type"] == "tuple":
        inside = node["items_schema"][node.get("variadic_item_index", step)]
    elif node["type"] == "list":
        inside = node.get("items_schema", UNKNOWN)
    return inside


def _bare(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """The schema without what only wraps it: defaults, validators, nullability, references."""
    while True:
        if schema["type"] == "definition-ref":
            schema = definitions[schema["schema_ref"]]
        elif isinstance(inner := schema.get("schema"), Mapping):
            schema = inner
        else:
            return schema


def _definitions(schema: Schema) -> dict[str, Schema]:
    return {entry["ref"]: entry for entry in schema.get("definitions", ())}


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else quote(value)


def _short(value: Any) -> Any:
    """The value where an answer may repeat it."""
    scalar = value is None or isinstance(value, bool | int | float)
    return value if scalar or (isinstance(value, str) and len(value) <= 200) else None


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
