"""Pages of lists: their size, and the cursor of the next one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from pydantic import Field
from pydantic_core import from_json

from service.errors import FieldError, Invalid
from service.schemas import QueryModel, ResponseModel

Row = TypeVar("Row")
Item = TypeVar("Item")

Position = tuple[float, str]
"""The position of a row in a list in order of creation: the time it was made, and its id."""


class PageQuery(QueryModel):
    """The query of every list."""

    limit: int = Field(default=50, ge=1, le=200)
    """Most items to give."""
    cursor: str | None = Field(default=None, max_length=500)
    """`next_cursor` of the part before; nothing begins at the first item."""


class Page(ResponseModel, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    """In the list's order."""
    next_cursor: str | None = None
    """The `cursor` of the next page; null at the end."""


def cut(rows: Sequence[Row], limit: int, position: Callable[[Row], Any]) -> tuple[Sequence[Row], str | None]:
    """The rows of one part and the cursor of the next, of `limit + 1` rows that were looked for."""
    shown = rows[:limit]
    return shown, encode_cursor(position(shown[-1])) if len(rows) > limit else None


def encode_cursor(position: Any) -> str:
    """A position as text that means nothing to others."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def decode_position(cursor: str | None) -> Position | None:
    """The position at which a list in order of creation goes on. Raises Invalid for a cursor of another origin."""
    found = _decode(cursor)
    if found is None:
        return None
    match found:
        case [float() as created_at, str() as row_id] if "\0" not in row_id:
            return created_at, row_id
    raise _foreign()


def decode_number(cursor: str | None) -> int | None:
    """The number at which a numbered list goes on. Raises Invalid for a cursor of another origin."""
    found = _decode(cursor)
    if found is None or (isinstance(found, int) and 0 <= found < 2**63):
        return found
    raise _foreign()


def _decode(cursor: str | None) -> Any:
    if cursor is None:
        return None
    try:
        found = from_json(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except ValueError:  # of base 64 or of JSON
        raise _foreign() from None
    if found is None:
        raise _foreign()
    return found


def _foreign() -> Invalid:
    detail = "the cursor is none that this list gave; wanted next_cursor of the part before, or no cursor"
    return Invalid.of([FieldError(parameter="cursor", detail=detail)])
