"""The errors of pydantic, as sentences and as JSON pointers into what was sent.

Pydantic's own locations name a union's member besides fields and positions ("methods", 0, "kd", "temperature"), so the
way is walked along the model's annotations, which tell one from the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from retort.registry import nearest
from service.errors import BEYOND, MOST_ERRORS, FieldError, quote

Path = tuple[str | int, ...]

PYDANTIC_ERRORS = frozenset(get_args(ErrorType))
"""Pydantic's kinds of error; any other kind is raised by a validator of ours and brings its sentence along."""
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
"""The right values, by pydantic's kind of error; a kind that is missing here has a message that is enough."""
MOST_PLACED = 10 * MOST_ERRORS
"""Errors of pydantic that are looked at, to find MOST_ERRORS fields: a value that fits no form has several."""
LONGEST_SENTENCE = 1000
"""Characters of a validator's sentence."""


WRONG_TAG = ("union_tag_invalid", "union_tag_not_found")


class Form:
    """The values that an annotation allows; `None` and metadata aside. Its parts are worked out at their first use."""

    def __init__(self, annotation: Any, discriminator: str | None = None) -> None:
        self.members: tuple[Any, ...] = ()
        """Of a choice between several forms: their annotations."""
        while True:
            if get_origin(annotation) is Annotated:
                annotation, *metadata = get_args(annotation)
                fields = [entry for entry in metadata if isinstance(entry, FieldInfo)]
                discriminator = next(filter(None, map(_discriminator, fields)), discriminator)
            elif get_origin(annotation) in (Union, UnionType):
                members = tuple(member for member in get_args(annotation) if member is not NoneType)
                if len(members) > 1:
                    self.members = members
                    break
                (annotation,) = members
            else:
                break
        self.discriminator = discriminator if self.members else None
        """Name of the field whose value decides between the members."""
        self.type = annotation

    @cached_property
    def fields(self) -> Mapping[str, Form]:
        """The fields of a model by name; empty for anything else."""
        if not (isinstance(self.type, type) and issubclass(self.type, BaseModel)):
            return {}
        described = self.type.model_fields.items()
        return {name: Form(field.annotation, _discriminator(field)) for name, field in described}

    @cached_property
    def by_tag(self) -> Mapping[str | int, Form]:
        """The members of a choice by the value of their discriminator; empty for anything else."""
        name = self.discriminator or ""
        return {tag: form for form in self._forms if name in form.fields for tag in get_args(form.fields[name].type)}

    def member(self, label: str | int) -> Form:
        """The member that an error speaks of; of members without a discriminator, one at most is an object."""
        if self.discriminator is not None:
            return self.by_tag.get(label, UNKNOWN)
        return next((form for form in self._forms if form.fields or form.by_tag), UNKNOWN)

    def inside(self, step: str | int) -> Form:
        """The form of a field of a model or of an entry of a list."""
        if isinstance(step, int):
            return self._entries[min(step, len(self._entries) - 1)] if self._entries else UNKNOWN
        return self.fields.get(step, UNKNOWN)

    @cached_property
    def _forms(self) -> tuple[Form, ...]:
        return tuple(Form(member) for member in self.members)

    @cached_property
    def _entries(self) -> tuple[Form, ...]:
        """The forms of a list's or tuple's entries; the last one holds for all that follow."""
        if get_origin(self.type) not in (list, tuple):
            return ()
        return tuple(Form(entry) for entry in get_args(self.type) if entry is not Ellipsis)


UNKNOWN = Form(Any)


@dataclass(frozen=True)
class Place:
    """The place of an error."""

    path: Path
    parent: Form
    """The form that the last step of the path was taken in."""
    form: Form
    """The form of the value at the end of the path."""
    union: Path | None
    """The place of the outermost choice between forms without a discriminator on the way."""


PlacedError = tuple[Place, ErrorDetails]


def field_errors(error: ValidationError, model: type[BaseModel]) -> list[FieldError]:
    """One error a wrong field, in the order in which they were found.

    MOST_ERRORS of them are worked out; the others are BEYOND, and each of pydantic's errors after the first MOST_PLACED
    counts as one.
    """
    root, all_found = _form(model), error.errors(include_url=False)
    placed = [(_place(found["loc"], root), found) for found in all_found[:MOST_PLACED]]
    within = {place.path[:-1] for place, _ in placed}
    # A list whose only entries are wrong is called too short besides, which says nothing new.
    kept = [(place, found) for place, found in placed if found["type"] != "too_short" or place.path not in within]
    fields = list(_by_field(kept).items())
    errors = [_combine([_field_error(path, *one) for one in found]) for (_, path), found in fields[:MOST_ERRORS]]
    return errors + [BEYOND] * (max(0, len(fields) - MOST_ERRORS) + max(0, len(all_found) - MOST_PLACED))


def parameter_errors(errors: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    """The same for the errors that FastAPI found in query, path and headers."""
    errors_found = []
    for found in errors[:MOST_ERRORS]:
        name = str(found["loc"][1])
        if found["type"] == "extra_forbidden":
            errors_found.append(FieldError(parameter=name, detail=f"there is no parameter {quote(name)} here"))
        else:
            errors_found.append(_sentence(FieldError(parameter=name, detail=""), name, found))
    return errors_found + [BEYOND] * max(0, len(errors) - MOST_ERRORS)


def pointer_of(path: Path) -> str:
    """The JSON pointer, RFC 6901, of the path."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def path_text(path: Path) -> str:
    """The path as people write it: students[0].architecture."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "the body"


def _by_field(placed: Sequence[PlacedError]) -> dict[tuple[Path | None, Path], list[PlacedError]]:
    """The errors by union and wrong field. Where a value resembles one of several forms, only those of that form."""
    fields: dict[tuple[Path | None, Path], list[PlacedError]] = {}
    deeper = {place.union for place, _ in placed if place.union is not None and len(place.path) > len(place.union)}
    for place, found in placed:
        key = place.union, _wrong_path(place, found)
        if place.union is None:
            fields[key] = [(place, found)]
        elif place.path != place.union or place.union not in deeper:
            fields.setdefault(key, []).append((place, found))
    return fields


def _combine(errors: Sequence[FieldError]) -> FieldError:
    """One error for a value that fits none of several forms."""
    first, *others = errors
    for error in others:
        if error.wanted and error.wanted not in (first.wanted or ""):
            wanted, detail = f"{first.wanted} or {error.wanted}", f"{first.detail} or {error.wanted}"
            first = first.model_copy(update={"wanted": wanted, "detail": detail})
    return first


def _wrong_path(place: Place, found: ErrorDetails) -> Path:
    """The path of the field that is to blame: that of a discriminator, or the one that a validator of ours names."""
    context: Mapping[str, Any] = found.get("ctx", {})
    if found["type"] in WRONG_TAG:
        return (*place.path, str(place.form.discriminator))
    if _is_ours(found) and "field" in context:
        return (*place.path, *str(context["field"]).split("/"))
    return place.path


def _is_ours(found: ErrorDetails) -> bool:
    return found["type"] == "value_error" or found["type"] not in PYDANTIC_ERRORS


def _field_error(path: Path, place: Place, found: ErrorDetails) -> FieldError:
    error, name = FieldError(pointer=pointer_of(path), detail=""), path_text(place.path)
    if found["type"] == "extra_forbidden":
        hint = nearest(str(path[-1]), place.parent.fields)
        detail = f"{path_text(path[:-1])} has no field {quote(path[-1])}{hint}"
        return error.model_copy(update={"detail": detail, "found": _short(found["input"])})
    if found["type"] in WRONG_TAG:
        return _wrong_tag(error, path_text(path), [str(tag) for tag in place.form.by_tag], found.get("ctx", {}))
    if _is_ours(found):
        where = f"{name}: " if place.path else ""
        return error.model_copy(update={"detail": where + _cut(found["msg"].removeprefix("Value error, "))})
    return _sentence(error, name, found)


def _wrong_tag(error: FieldError, name: str, known: Sequence[str], context: Mapping[str, Any]) -> FieldError:
    """An object that names no form, or one that does not exist."""
    wanted = f"one of {', '.join(known)}"
    if "tag" not in context:
        return error.model_copy(update={"detail": f"{name} is missing; wanted {wanted}", "wanted": wanted})
    tag = str(context["tag"])
    hint = nearest(tag, known) or f"; wanted {wanted}"
    detail = f"{name} is {quote(tag)}, which does not exist{hint}"
    return error.model_copy(update={"detail": detail, "found": _short(tag), "wanted": wanted})


def _sentence(error: FieldError, name: str, found: Mapping[str, Any]) -> FieldError:
    """The error with what was found and wanted filled in."""
    kind, value = found["type"], found["input"]
    if kind == "missing":
        return error.model_copy(update={"detail": f"{name} is missing"})
    template = WANTED.get(kind)
    if template is None:
        return error.model_copy(update={"detail": f"{name} is {_shown(value)}: {found['msg']}", "found": _short(value)})
    limits = {key: _number(limit) for key, limit in found.get("ctx", {}).items()}
    wanted = template.format(**limits)
    detail = f"{name} is {_shown(value)}; wanted {wanted}"
    return error.model_copy(update={"detail": detail, "found": _short(value), "wanted": wanted})


def _place(steps: Sequence[str | int], form: Form) -> Place:
    path: Path = ()
    union: Path | None = None
    parent = UNKNOWN
    for step in steps:
        parent = form
        if form.members:
            union = path if form.discriminator is None and union is None else union
            form = form.member(step)
        else:
            path = (*path, step)
            form = form.inside(step)
    return Place(path, parent, form, union)


@lru_cache
def _form(model: type[BaseModel]) -> Form:
    return Form(model)


def _discriminator(field: FieldInfo) -> str | None:
    return field.discriminator if isinstance(field.discriminator, str) else None


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else quote(value)


def _short(value: Any) -> Any:
    """The value where an answer may repeat it."""
    scalar = value is None or isinstance(value, bool | int | float)
    return value if scalar or (isinstance(value, str) and len(value) <= 200) else None


def _cut(sentence: str) -> str:
    """A sentence of a validator, which may repeat a value of any length."""
    return sentence if len(sentence) <= LONGEST_SENTENCE else f"{sentence[: LONGEST_SENTENCE - 3]}..."


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
