"""A request's JSON body, read strictly: a value that cannot be stored as it was sent is refused before validation."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool

from retort.storable import unstorable
from service.errors import BadRequest, FieldError, Invalid, UnsupportedMediaType, quote
from service.fields import field_errors, path_text, pointer_of

MOST_VALUES = 20_000
"""Values in one body; each costs memory while it is read, and time and more memory where it is wrong."""
SMALL_BYTES = 16 << 10
"""Size up to which a body is read in the event loop: that takes less time than finding a thread."""

Model = TypeVar("Model", bound=BaseModel)


async def sent_json(request: Request) -> Any:
    """FastAPI dependency: the body as JSON. Raises UnsupportedMediaType, BadRequest, Invalid, TooLarge."""
    _check_media_type(request)
    body = await request.body()
    return read_json(body) if len(body) <= SMALL_BYTES else await run_in_threadpool(read_json, body)


def sent(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """FastAPI dependency: the body as that model. Raises Invalid besides."""

    async def read(request: Request) -> Model:
        body = await sent_json(request)
        try:
            return model.model_validate(body)
        except ValidationError as error:
            raise Invalid.of(field_errors(error, model)) from None

    return read


def described(schema: dict[str, Any]) -> dict[str, Any]:
    """The `openapi_extra` of an endpoint whose body is JSON of that schema."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def read_json(body: bytes) -> Any:
    """The JSON value of the bytes. Raises BadRequest or Invalid."""
    if not body.strip():
        raise BadRequest("the body is empty; wanted JSON")
    # Every value but the first stands behind a comma or in a bracket: so much is known before any is made.
    if sum(body.count(mark) for mark in (b"[", b"{", b",")) > MOST_VALUES:
        raise BadRequest(f"the body holds more than {MOST_VALUES:,} values; no recipe needs as many")
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {_in_bytes(str(error))}") from None
    found = [
        FieldError(pointer=pointer_of(path), detail=f"{path_text(path)}: {why}") for path, why in unstorable(value)
    ]
    if found:
        raise Invalid.of(found)
    return value


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
