"""Scopes: the rights of a key, by name. Every endpoint names the one that it needs; `admin` implies all others."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

Scope = Literal["jobs:read", "jobs:write", "data:write", "admin"]

SCOPES: dict[Scope, str] = {
    "jobs:read": "Read jobs with all that they made, data sets, models, the catalogue, and the project's use.",
    "jobs:write": "Make, pause, resume, stop, cancel and delete jobs.",
    "data:write": "Upload, and make and delete data sets and models.",
    "admin": "All of that, and make projects and keys, set limits, and read the audit log.",
}
PROJECT_SCOPES: tuple[Scope, ...] = ("jobs:read", "jobs:write", "data:write")
"""All but `admin`, which reaches beyond one project."""

assert get_args(Scope) == tuple(SCOPES) == (*PROJECT_SCOPES, "admin")


def spell(scopes: Collection[Scope]) -> str:
    """Scopes in one line, separated by spaces as OAuth writes them, always in the same order."""
    return " ".join(scope for scope in SCOPES if scope in scopes)


def read(line: str) -> frozenset[Scope]:
    """The scopes of such a line; a word that is none gives nothing."""
    words = line.split(" ")
    return frozenset(scope for scope in SCOPES if scope in words)
