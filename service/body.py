"""A request's JSON body, read strictly: a value that cannot be stored as it was sent is refused before validation."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool

from retort.storable import most_values, unstorable
from service.errors import BEYOND, MOST_ERRORS, BadRequest, FieldError, Invalid, UnsupportedMediaType, quote
from service.fields import field_errors, path_text, pointer_of

MOST_VALUES = 20_000
"""Values in one body; each costs memory while it is read, and time and more memory where it is wrong."""
SMALL_BYTES = 4 << 10
"""Size up to which a body is read in the event loop: that takes less time than finding a thread."""

Model = TypeVar("Model", bound=BaseModel)
Read = TypeVar("Read")


async def sent_json(request: Request) -> Any:
    """FastAPI dependency: the body as JSON. Raises UnsupportedMediaType, BadRequest, Invalid, TooLarge."""
    return await _read(request, read_json)


def sent(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """FastAPI dependency: the body as that model. Raises Invalid besides."""

    def validated(body: bytes) -> Model:
        try:
            return model.model_validate(read_json(body))
        except ValidationError as error:
            raise Invalid.of(field_errors(error, model)) from None

    async def read(request: Request) -> Model:
        return await _read(request, validated)

    return read


async def _read(request: Request, take: Callable[[bytes], Read]) -> Read:
    """Give the body to a function, in a thread unless it is small: nothing else runs in the event loop meanwhile."""
    _check_media_type(request)
    body = await request.body()
    return take(body) if len(body) <= SMALL_BYTES else await run_in_threadpool(take, body)


def described(schema: dict[str, Any]) -> dict[str, Any]:
    """The `openapi_extra` of an endpoint whose body is JSON of that schema."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def read_json(body: bytes) -> Any:
    """The JSON value of the bytes. Raises BadRequest or Invalid."""
    if not body.strip():
        raise BadRequest("the body is empty; wanted JSON")
    if most_values(body) > MOST_VALUES:
        raise BadRequest(f"the body holds more than {MOST_VALUES:,} values; no recipe needs as many")
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {_in_bytes(str(error))}") from None
    wrong = list(unstorable(value))
    if wrong:
        listed = [
            FieldError(pointer=pointer_of(path), detail=f"{path_text(path)}: {why}")
            for path, why in wrong[:MOST_ERRORS]
        ]
        raise Invalid.of(listed + [BEYOND] * max(0, len(wrong) - MOST_ERRORS))
    # The parser takes the last of two fields of one name; here all that is left is to find one.
    json.loads(body, object_pairs_hook=_check_names, parse_int=len, parse_float=len)
    return value


def _check_names(fields: list[tuple[str, Any]]) -> None:
    """Raise BadRequest for two fields of one name in an object."""
    times = Counter(name for name, _ in fields)
    if len(times) < len(fields):
        twice = times.most_common(1)[0][0]
        raise BadRequest(f"an object of the body has the field {quote(twice)} more than once")


def _check_media_type(request: Request) -> None:
    found = request.headers.get("content-type", "")
    kind = found.partition(";")[0].strip().lower()
    if kind != "application/json" and not re.fullmatch(r"application/[a-z0-9.-]+\+json", kind):
        detail = f"the body's Content-Type is {quote(found)}" if found else "the body has no Content-Type"
        raise UnsupportedMediaType(f"{detail}; wanted 'application/json'")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMediaType(f"the body's Content-Encoding is {quote(encoding)}; wanted none")


def _in_bytes(reason: str) -> str:
    """The parser's reason in one flow: "trailing comma at line 1, column 8"."""
    return re.sub(r" at line (\d+) column (\d+)$", r" at line \1, column \2", reason)
