"""Catalogues of registry entries: the first sentence of an entry, its schema, the nearest name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from retort.registry import nearest
from service.errors import NotFound, quote
from service.schemas import ResponseModel

Entry = TypeVar("Entry")


class EntryRead(ResponseModel):
    """One entry of a registry."""

    name: str
    summary: str
    """A description in one sentence or two."""
    source: str | None
    """Its origin: authors, title, year, link; null for entries of Retort's own."""
    parameters: dict[str, Any]
    """JSON schema of its fields, with ranges, defaults and units."""


def summary(entry: type[Any]) -> str:
    """The first paragraph of the entry's docstring, in one line."""
    return " ".join((inspect.getdoc(entry) or "").partition("\n\n")[0].split())


def entry_read(name: str, entry: type[BaseModel]) -> EntryRead:
    """An entry as catalogues show it."""
    return EntryRead(
        name=name, summary=summary(entry), source=getattr(entry, "source", None), parameters=entry.model_json_schema()
    )


def find(kind: str, name: str, known: Mapping[str, Entry]) -> Entry:
    """The entry of that name. Raises NotFound, which names the nearest."""
    if name not in known:
        raise NotFound(f"there is no {kind} {quote(name)}{nearest(name, known)}")
    return known[name]
